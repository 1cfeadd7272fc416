"""A release end to end, through real Prefect and MLflow servers: versions A, a worse B and an equal C, and all that
people do with them. One story; what somebody attacks is in tests/security/test_release_attacks.py."""

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import mlflow
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State
from prefect.states import Scheduled

from flows import approval
from flows.promotion import promotion
from tests.flows import knowing
from tests.flows.conftest import MEDSEG, Project, eventually
from tests.flows.knowing import APPROVER, AS_GOOD, AUTHOR, BAD, GOOD, begin_ledger, register, succeed
from tests.pipelines.release.mlflow_server import Server

NAME = "medsegformer"
MEANING = ("--meaning", "I looked at every held-out scan")
pytestmark = pytest.mark.slow  # a quarter of an hour of gates and servers; `make test` has the attacks, without Prefect


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """With `medseg ui` on an MLflow server, and three versions: 1 is GOOD, 2 is BAD, 3 is AS_GOOD."""
    server = Server(tmp_path_factory.mktemp("mlflow"))
    server.start()
    try:
        made = knowing.make(tmp_path_factory.mktemp("release") / "project", MLFLOW_TRACKING_URI=server.address)
        assert register(made, GOOD, BAD, AS_GOOD) == [1, 2, 3]
        begin_ledger(made)
        ui = made.start(MEDSEG, "ui")
        eventually(lambda: "Ctrl-C" in made.read("out") or ui.poll() is not None, 180, "medseg ui is up")
        assert ui.poll() is None, made.read("out")
        address = next(line.split()[1] for line in made.read("out").splitlines() if line.startswith("Prefect"))
        made.environment["PREFECT_API_URL"] = f"{address}/api"
        made.environment["PREFECT_API_AUTH_STRING"] = made.read(".medseg/login").strip()
        yield made
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        with suppress(ProcessLookupError):
            server.kill()


def promote(project: Project, version: int, alias: str) -> str:
    told = succeed(project, "medseg", "promote", str(version), "--to", alias, "--key", f"keys/{AUTHOR}", "--json")
    return str(json.loads(told)["run"])


def release(project: Project, version: int, alias: str) -> str:
    run = promote(project, version, alias)
    return succeed(project, "medseg", "approve", run, "--key", f"keys/{APPROVER}", *MEANING)


def aliases(project: Project) -> dict[str, str]:
    found = mlflow.MlflowClient(project.environment["MLFLOW_TRACKING_URI"]).get_registered_model(NAME).aliases
    return {alias: version for alias, version in found.items() if alias != "candidate"}


def verified(project: Project) -> bool:
    return bool(json.loads(succeed(project, "medseg", "audit", "verify", "--json"))["ok"])


def test_a_release_from_the_first_champion_to_its_recall(project: Project) -> None:
    assert "by approver@example.org" in release(project, 1, "clinical-candidate")
    assert release(project, 1, "champion").strip().endswith(f"{NAME}@champion is now version 1")
    assert aliases(project) == {"clinical-candidate": "1", "champion": "1"}

    worse = project.medseg("promote", "2", "--to", "clinical-candidate", "--key", f"keys/{AUTHOR}")
    assert worse.returncode == 1
    assert re.search(
        r"version 2 is refused .*hippocampus_posterior: gain in Dice over the champion -0\.\d+", worse.stderr
    )

    run = promote(project, 3, "clinical-candidate")
    assert aliases(project)["clinical-candidate"] == "1"  # asked for is not given
    status = json.loads(succeed(project, "medseg", "status", "--json"))
    assert status["registered"]["standing"] == "requested"
    signed = project.medseg("approve", run, "--key", f"keys/{AUTHOR}", *MEANING)
    assert "who is no approver" in signed.stderr
    succeed(project, "medseg", "approve", run, "--key", f"keys/{APPROVER}", *MEANING)
    release(project, 3, "champion")
    assert aliases(project) == {"clinical-candidate": "3", "champion": "3"}

    (scan,) = sorted((project.root / knowing.TASK / "imagesTr").iterdir())[:1]
    told = segmented(project, scan, "released.nii.gz", "--model", f"models:/{NAME}@champion")
    assert (told["standing"], told["released"]) == ("champion", True)
    told = segmented(project, scan, "other.nii.gz", "--model", f"models:/{NAME}/2")
    assert (told["released"], told["mark"]) == (False, "not released, not for clinical use")

    back = succeed(project, "medseg", "rollback", "--key", f"keys/{APPROVER}", "--reason", "a reader saw leaks")
    assert "version 1 is champion again" in back
    assert aliases(project)["champion"] == "1"
    recalled = succeed(
        project, "medseg", "recall", "3", "--key", f"keys/{APPROVER}", "--reason", "a reader saw leaks", "--json"
    )
    assert len(json.loads(recalled)["used"]) == 1
    assert aliases(project) == {"champion": "1"}
    assert verified(project)


def segmented(project: Project, scan: Path, target: str, *options: str) -> dict[str, object]:
    told = succeed(project, "medseg", "predict", str(scan), target, "--modality", "MR", "--json", *options)
    return dict(json.loads(told.splitlines()[0]))


def test_an_approver_may_refuse_and_an_author_withdraw(project: Project) -> None:
    refused = promote(project, 1, "clinical-candidate")
    told = succeed(project, "medseg", "refuse", refused, "--key", f"keys/{APPROVER}", *MEANING)
    assert told.strip() == f"version 1 is refused as clinical-candidate by {APPROVER}"
    withdrawn = promote(project, 1, "clinical-candidate")
    told = succeed(project, "medseg", "withdraw", withdrawn, "--key", f"keys/{AUTHOR}")
    assert told.strip() == f"version 1 is withdrawn as clinical-candidate by {AUTHOR}"
    again = project.medseg("approve", withdrawn, "--key", f"keys/{APPROVER}", *MEANING)
    assert "does not wait for a signature" in again.stderr
    assert aliases(project) == {"champion": "1"}


def test_what_is_signed_on_another_machine_is_taken_and_garbage_in_prefects_form_moves_nothing(
    project: Project,
) -> None:
    run = promote(project, 1, "clinical-candidate")
    for client in project.prefect():
        client.resume_flow_run(UUID(run), run_input={"signed": "Prof. Dr. Head of Radiology"})
        assert ended(client, UUID(run)).is_failed()
    assert aliases(project) == {"champion": "1"}
    run = promote(project, 1, "clinical-candidate")  # the request stands; it waits again
    prepared = succeed(project, "medseg", "approve", run, *MEANING)
    file = re.search(r"medseg-approval (\S+)", prepared)
    assert file
    succeed(project, "ssh-keygen", "-q", "-Y", "sign", "-f", f"keys/{APPROVER}", "-n", "medseg-approval", file[1])
    told = succeed(project, "medseg", "approve", run, "--signature", f"{file[1]}.sig")
    assert f"by {APPROVER}" in told
    assert aliases(project) == {"champion": "1", "clinical-candidate": "1"}


def ended(client: SyncPrefectClient, run: UUID) -> State[Any]:
    eventually(lambda: client.read_flow_run(run).state.is_final(), 90, "the promotion has ended")
    return client.read_flow_run(run).state


def flip(path: Path, behind: bytes = b"") -> Callable[[], None]:
    """One bit of the byte behind some others, or of the file's middle byte; gives what puts it back."""
    content, mode = path.read_bytes(), path.stat().st_mode
    at = content.index(behind) + len(behind) if behind else len(content) // 2
    path.chmod(0o600)
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])

    def back() -> None:
        path.write_bytes(content)
        path.chmod(mode)

    return back


CHANGED = {
    "report": (".medseg/versions/*/evaluation/index.html", ("gate", "check", "3"), "index.html"),
    "figures": (".medseg/versions/*/evaluation/cases.parquet", ("gate", "check", "3"), "cases.parquet"),
    "manifest": (".medseg/versions/*/lineage/manifest.parquet", ("gate", "check", "3"), "manifest.parquet"),
    "weights": (".medseg/weights/*/model.safetensors", ("gate", "check", "3"), "is not the registered"),
    "plan": ("release/plan.yaml", ("gate", "check", "3"), "plan.yaml"),
    "signature": (f"release/ledger/{NAME}/000004.json", ("audit", "verify"), "000004.json"),
    "log line": (".medseg/audit/log.jsonl", ("audit", "verify"), "line"),
}


@pytest.mark.parametrize("what", CHANGED)
def test_one_flipped_bit_is_found_by_name(project: Project, what: str) -> None:
    pattern, command, named = CHANGED[what]
    behind = b"dice: {default: 0.0" if what == "plan" else b""  # no comment: the plan is its content
    backs = [flip(path, behind) for path in project.root.glob(pattern)]
    assert backs
    try:
        ended = project.medseg(*command)
        assert ended.returncode == 1
        assert named in ended.stdout + ended.stderr
    finally:
        for back in backs:
            back()


def test_a_flipped_bit_of_a_held_out_label_is_found_by_its_case(project: Project) -> None:
    for path in (project.root / knowing.TASK / "labelsTr").iterdir():
        back = flip(path)
        ended = project.medseg("data", "verify", "--json")
        back()
        assert ended.returncode == 1
        assert "has other content than it had" in ended.stdout
        break
    assert verified(project)


def test_promotion_that_no_worker_takes_is_cancelled(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approval, "PICKUP_TIMEOUT_S", 1)
    for client in project.prefect():
        run = client.create_flow_run(promotion, parameters={"version": 1}, state=Scheduled())  # of no deployment
        with pytest.raises(ValueError, match=r"no worker took promotion .* it is cancelled, and nothing moved"):
            approval._wait(client, run.id)
        assert client.read_flow_run(run.id).state.is_cancelled()
