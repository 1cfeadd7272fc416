"""What another user of this machine, and a page of another origin, can do to the servers of `medseg ui`: nothing."""

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.exceptions import PrefectHTTPStatusError
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from flows import deployments, lock, server, work_pool
from tests import in_process
from tests.flows.conftest import Project
from tests.security.conftest import Ask, Guarded, Stranger, answers, statuses

FLOW_RUN = json.dumps({"parameters": {"version": 1}, "job_variables": {"command": "touch /tmp/pwned"}})


def to_prefect(guarded: Guarded, **headers: str) -> list[Ask]:
    api = f"{guarded.prefect}/api"
    return [
        Ask("POST", f"{api}/flow_runs/filter", "{}", headers),
        Ask("POST", f"{api}/logs/filter", "{}", headers),
        Ask("GET", f"{api}/deployments/name/promotion/promotion", None, headers),
        Ask("POST", f"{api}/deployments/00000000-0000-0000-0000-000000000000/create_flow_run", FLOW_RUN, headers),
        Ask("PATCH", f"{api}/work_pools/medseg", '{"base_job_template": {}}', headers),
        Ask("GET", f"{api}/admin/settings", None, headers),
    ]


def to_mlflow(guarded: Guarded, **headers: str) -> list[Ask]:
    api = f"{guarded.mlflow}/api/2.0"
    search = '{"experiment_ids": ["1"]}'
    tag = '{"name": "medsegformer", "version": "1", "key": "dice", "value": "1"}'
    alias = '{"name": "medsegformer", "version": "1", "alias": "champion"}'
    return [
        Ask("GET", f"{guarded.mlflow}/", None, headers),
        Ask("POST", f"{api}/mlflow/runs/search", search, headers),
        Ask("GET", f"{api}/mlflow/registered-models/search", None, headers),
        Ask("POST", f"{api}/mlflow/model-versions/set-tag", tag, headers),
        Ask("POST", f"{api}/mlflow/registered-models/alias", alias, headers),
        Ask("POST", f"{guarded.mlflow}/graphql", '{"query": "{ test { output } }"}', headers),
        Ask("PUT", f"{api}/mlflow-artifacts/artifacts/models/m-1/artifacts/pyfunc.py", "import os", headers),
        Ask("GET", f"{api}/mlflow-artifacts/artifacts/models/m-1/artifacts/pyfunc.py", None, headers),
        Ask("POST", f"{guarded.mlflow}/v1/traces", "{}", headers),
        Ask("GET", f"{guarded.mlflow}/ajax-api/3.0/mlflow/assistant/config", None, headers),
    ]


def basic(login: str) -> dict[str, str]:
    return {"authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def test_another_user_is_asked_for_a_login_everywhere(guarded: Guarded, stranger: Stranger) -> None:
    guessed = basic("medseg:medseg")
    without = [
        *to_prefect(guarded),
        *to_mlflow(guarded),
        *to_prefect(guarded, **guessed),
        *to_mlflow(guarded, **guessed),
    ]
    assert set(statuses(without, stranger).values()) == {401}
    assert not (guarded.project.root / ".medseg/mlartifacts/models").exists()


@pytest.fixture
def for_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The API of a server as `medseg promote`, `run` and the others have one where no `medseg ui` runs."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with in_process.inside(tmp_path), server.reachable() as ready:
        yield ready()


def test_the_server_of_a_single_command_lets_nobody_in_either(for_one_command: str, stranger: Stranger) -> None:
    address = for_one_command.removesuffix("/api")
    guarded = Guarded(Project(Path.cwd()), address, "", os.environ["PREFECT_API_AUTH_STRING"])
    assert set(statuses(to_prefect(guarded), stranger).values()) == {401}
    assert set(statuses(to_prefect(guarded, **basic("medseg:medseg")), stranger).values()) == {401}
    for headers, status in (({"origin": "https://evil.example"}, 403), ({"host": "evil.example"}, 400)):
        assert set(statuses(to_prefect(guarded, **basic(guarded.login), **headers)).values()) == {status}


def test_a_page_of_another_origin_is_refused_even_in_the_browser_of_the_owner(guarded: Guarded) -> None:
    login = basic(guarded.login)
    for headers, status in (({"origin": "https://evil.example"}, 403), ({"host": "evil.example"}, 400)):
        requests = [*to_prefect(guarded, **login, **headers), *to_mlflow(guarded, **login, **headers)]
        assert set(statuses(requests).values()) == {status}
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    asked = [
        Ask("OPTIONS", f"{address}/api/flow_runs/filter", None, preflight)
        for address in (guarded.prefect, guarded.mlflow)
    ]
    assert set(statuses(asked).values()) == {403}
    other_port = {**login, "origin": "http://127.0.0.1:8000"}  # a server of another user of this machine
    assert set(statuses(to_prefect(guarded, **other_port)).values()) == {403}


def test_the_event_stream_wants_login_and_origin_too(guarded: Guarded) -> None:
    stream = f"{guarded.prefect.replace('http', 'ws')}/api/events/in"
    with pytest.raises(InvalidStatus):
        connect(stream, subprotocols=["prefect"], origin="https://evil.example")
    with connect(stream, subprotocols=["prefect"]) as socket:
        socket.send(json.dumps({"type": "auth", "token": "medseg:medseg"}))
        with pytest.raises(ConnectionClosedError, match="Invalid token"):
            socket.recv(timeout=10)


def test_the_owner_gets_in_with_the_login(guarded: Guarded) -> None:
    login = basic(guarded.login)
    asked = [to_prefect(guarded, **login)[0], to_mlflow(guarded, **login)[0], to_mlflow(guarded, **login)[2]]
    (_, runs), (_, page), (_, models) = found = answers(asked)
    assert [status for status, _ in found] == [200, 200, 200]
    assert json.loads(runs) == []
    assert "<html" in page
    assert json.loads(models) == {}


def test_no_run_brings_a_command_of_its_own(guarded: Guarded) -> None:
    with SyncPrefectClient(api=f"{guarded.prefect}/api", auth_string=guarded.login) as client:
        pool = client.read_work_pool(work_pool.NAME)
        assert pool.base_job_template == work_pool.TEMPLATE
        promotion = client.read_deployment_by_name("promotion/promotion")
        for name, value in {"command": "touch /tmp/pwned", "env": {"LD_PRELOAD": "x"}, "working_dir": "/tmp"}.items():
            with pytest.raises(PrefectHTTPStatusError) as refused:
                client.create_flow_run_from_deployment(
                    promotion.id, parameters={"version": 1}, job_variables={name: value}
                )
            assert refused.value.response.status_code == 422
        of_an_older_version = {
            "job_configuration": {"command": "{{ command }}"},
            "variables": {"type": "object", "properties": {"command": {"type": "string"}}},
        }
        client.update_work_pool(work_pool.NAME, WorkPoolUpdate(base_job_template=of_an_older_version))
        work_pool.prepare(client)
        assert client.read_work_pool(work_pool.NAME).base_job_template == work_pool.TEMPLATE


def test_opening_the_pages_arms_no_retraining(guarded: Guarded) -> None:
    with SyncPrefectClient(api=f"{guarded.prefect}/api", auth_string=guarded.login) as client:
        found = [client.read_deployment_by_name(each.full_name) for each in deployments.SCHEDULED]
        assert [schedule.active for each in found for schedule in each.schedules] == [False] * len(found)
        assert client.read_flow_runs() == []


def test_another_user_reads_and_locks_no_file_of_the_project(guarded: Guarded, stranger: Stranger) -> None:
    root = guarded.project.root
    closed = [".medseg", "data", ".medseg/login", ".medseg/servers", ".medseg/ui", ".medseg/mlflow.db", "data/raw/a"]
    program = "import os, sys; print([os.access(path, os.R_OK) for path in sys.argv[1:]])"
    assert stranger(program, *(str(root / path) for path in closed)) == f"{[False] * len(closed)}\n"
    assert stranger(program, str(root / "dvc.yaml")) == "[True]\n"  # so it is not a folder above that keeps them out
    modes = {path: stat.S_IMODE((root / path).stat().st_mode) for path in closed[:5]}
    assert modes == dict.fromkeys(closed[:2], 0o700) | dict.fromkeys(closed[2:5], 0o600)


def test_command_lines_and_logs_hold_no_secret(guarded: Guarded, stranger: Stranger) -> None:
    program = (
        "import pathlib\n"
        "for each in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    try: print(each.read_bytes())\n"
        "    except OSError: pass\n"
    )
    lines = stranger(program)
    assert "flows.door" in lines  # they are seen at all
    secrets = (guarded.login.partition(":")[2], "timeout=77")
    for text in (
        lines,
        guarded.project.read("out"),
        *(log.read_text() for log in guarded.project.root.glob(".medseg/logs/*")),
    ):
        assert not any(secret in text for secret in secrets)


def test_pages_on_a_named_server_start_none_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    away = "http://127.0.0.1:9/api"
    named = {"PREFECT_API_URL": away, "MLFLOW_TRACKING_URI": "http://owner:secret@127.0.0.1:9"}
    ended = Project(tmp_path, named).medseg("ui")
    told = f"medseg: the Prefect server does not answer at {away}/health within 10 s\n"
    assert (ended.returncode, ended.stderr) == (1, told)
    assert not (tmp_path / ".medseg/logs").exists()


def test_folders_of_an_older_version_are_closed_and_links_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    elsewhere = tmp_path / "elsewhere"
    for folder in (tmp_path / ".medseg", tmp_path / "models", tmp_path / ".dvc/cache", elsewhere):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    (tmp_path / "data").symlink_to(elsewhere)
    (tmp_path / ".medseg/lock").touch(0o644)
    with lock.held():
        pass
    assert stat.S_IMODE((tmp_path / ".medseg/lock").stat().st_mode) == 0o600
    modes = {
        name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in (".medseg", "models", "reports", ".dvc/cache")
    }
    assert modes == dict.fromkeys(modes, 0o700)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o755
