"""The compose file's services, started for real as processes: they hold together, ask for their logins, are kept."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.docker.rehearsal import MISSING, Rehearsal
from tests.flows.conftest import eventually

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt install postgresql redis-server)"
    ),
]


@pytest.fixture(scope="module")
def installation() -> Iterator[Rehearsal]:
    with Rehearsal.begun() as rehearsal:
        rehearsal.run("buckets")
        mlflow = rehearsal.start("mlflow")
        rehearsal.start("prefect", "/api/ready")
        rehearsal.services = rehearsal.start("prefect-services")
        rehearsal.until_answers("mlflow", "/health", mlflow)
        yield rehearsal


def ask(address: str, login: str = "", body: Any = None) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(address, json.dumps(body).encode() if body is not None else None, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, None


def test_nobody_is_let_in_without_a_login_and_both_buckets_are_there(installation: Rehearsal) -> None:
    prefect = f"{installation.address('prefect')}/api/admin/version"
    mlflow = f"{installation.address('mlflow')}/api/2.0/mlflow/experiments/search?max_results=1"
    assert ask(prefect)[0] == ask(mlflow)[0] == 401
    assert ask(prefect, installation.secret("prefect_login"))[0] == 200
    assert ask(mlflow, f"medseg:{installation.secret('mlflow_password')}")[0] == 200
    store = boto3.client(
        "s3",
        endpoint_url=installation.address("store"),
        aws_access_key_id="a",
        aws_secret_access_key="b",
        region_name="x",
    )
    assert {bucket["Name"] for bucket in store.list_buckets()["Buckets"]} == {"mlflow", "dvc"}


def test_services_apart_from_the_server_act_on_what_it_is_told(installation: Rehearsal) -> None:
    """Through Redis: a run that is scheduled and not taken becomes late, which the services alone see to."""
    api, login = f"{installation.address('prefect')}/api", installation.secret("prefect_login")
    flow = ask(f"{api}/flows/", login, {"name": "rehearsal"})[1]
    pool = ask(f"{api}/work_pools/", login, {"name": "medseg", "type": "process"})[1]
    deployment = ask(
        f"{api}/deployments/", login, {"name": "nightly", "flow_id": flow["id"], "work_pool_name": pool["name"]}
    )[1]
    asked = {"state": {"type": "SCHEDULED"}}
    run = ask(f"{api}/deployments/{deployment['id']}/create_flow_run", login, asked)[1]
    eventually(lambda: ask(f"{api}/flow_runs/{run['id']}", login)[1]["state"]["name"] == "Late", 120, "the run is late")
    assert installation.services.poll() is None


def test_both_databases_are_kept_and_come_back(installation: Rehearsal, tmp_path: Path) -> None:
    api, login = f"{installation.address('prefect')}/api", installation.secret("prefect_login")
    mlflow, account = installation.address("mlflow"), f"medseg:{installation.secret('mlflow_password')}"
    ask(f"{api}/flows/", login, {"name": "kept"})
    ask(f"{mlflow}/api/2.0/mlflow/experiments/create", account, {"name": "kept"})
    copies = installation.script("backup.sh", "once", BACKUPS=str(tmp_path)).split()
    for name in ("prefect", "mlflow"):
        table = {"prefect": "flow", "mlflow": "experiments"}[name]
        installation.sql(name, f"DROP TABLE {table} CASCADE")
        (copy,) = (each for each in copies if f"/{name}-" in each)
        installation.script("backup.sh", "restore", copy, BACKUPS=str(tmp_path))
        assert "kept" in installation.sql(name, f"SELECT name FROM {table}")
    eventually(lambda: ask(f"{api}/flows/filter", login, {})[0] == 200, 60, "Prefect connects again")
    eventually(
        lambda: ask(f"{mlflow}/api/2.0/mlflow/experiments/get-by-name?experiment_name=kept", account)[0] == 200,
        60,
        "MLflow connects again",
    )
