"""On an MLflow server with accounts: the pipeline's registers and cannot release, the one that approves can."""

import base64
import json
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from pipelines.release import canonical, decisions, ledger, moving, record, registry, signers, tracking
from pipelines.release.statement import APPROVAL, REQUEST, SIGNERS
from tests.conftest import REPOSITORY
from tests.pipelines.release.mlflow_server import ADMIN, Server

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code

PIPELINE, RELEASE = ("pipeline", "password of the pipeline"), ("release", "password of who approves")
NAME, RELEASED, ALIAS = "heart", "heart-released", "clinical-candidate"
Login = Callable[[tuple[str, str]], Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With both models and both accounts, each with the rights that docs/release.md gives it."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    found = Server(tmp_path_factory.mktemp("mlflow"), accounts=True)
    found.start()
    try:
        for name in (NAME, RELEASED):
            _as_admin(found, "registered-models/create", name=name)
        for user, password in (PIPELINE, RELEASE):
            _as_admin(found, "users/create", username=user, password=password)
        _hash_cheaply(found.folder / "accounts.db")
        for name, (user, _) in ((NAME, PIPELINE), (RELEASED, RELEASE)):
            right = {"resource_type": "registered_model", "resource_id": name, "permission": "EDIT"}
            _as_admin(found, "users/permissions/grant", version="3.0", username=user, **right)
        yield found
    finally:
        with suppress(ProcessLookupError):
            found.kill()


def _hash_cheaply(accounts: Path) -> None:
    """The same passwords in one round of their hash: the server hashes what it is sent several times a request, for
    three quarters of its time."""
    from werkzeug.security import generate_password_hash

    with closing(sqlite3.connect(accounts)) as store, store:
        for user, password in (ADMIN, PIPELINE, RELEASE):
            once = generate_password_hash(password, method="pbkdf2:sha256:1")
            changed = store.execute("UPDATE users SET password_hash = ? WHERE username = ?", (once, user))
            assert changed.rowcount == 1


@pytest.fixture
def login(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Login:
    """In a project that releases into a model of its own: MLflow's client, as somebody."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    text = (REPOSITORY / "params.yaml").read_text().replace("name: medsegformer", f"name: {NAME}")
    (tmp_path / "params.yaml").write_text(text.replace("released:", f"released: {RELEASED}"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(tracking.VARIABLE, server.address)

    def enter(account: tuple[str, str]) -> Any:
        for variable, value in zip(("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"), account, strict=True):
            monkeypatch.setenv(variable, value)
        return tracking.configure().MlflowClient()

    return enter


def _as_admin(server: Server, what: str, version: str = "2.0", **content: str) -> None:
    login = base64.b64encode(":".join(ADMIN).encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    request = urllib.request.Request(
        f"{server.address}/api/{version}/mlflow/{what}", json.dumps(content).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=30):
        pass


def _approved(content: dict[str, Any]) -> None:
    """By the ledger's own means: what the gate says is for other tests."""
    for name, role in (("author", "author"), ("approver", "approver")):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
        signers.add(f"{name}@example.org", Path(f"{name}.pub"), role)
    asked = {
        "version": 1, "record_sha256": record.digest(content), "alias": ALIAS, "evidence_sha256": canonical.digest({}),
        "holder": None,
    }  # fmt: skip

    def add(kind: str, said: dict[str, Any], key: str) -> str:
        return ledger.append(decisions.signed(ledger.prepare(NAME, kind, said), Path(key))).sha256

    add(SIGNERS, signers.read().to_json(), "approver")
    request = add(REQUEST, {**asked, "authors": []}, "author")
    add(APPROVAL, {**asked, "request_sha256": request, "meaning": "I looked at it"}, "approver")


def test_the_pipelines_account_registers_and_only_the_one_that_approves_moves_the_alias(login: Login) -> None:
    from mlflow.exceptions import MlflowException

    pipeline = login(PIPELINE)
    content = {"name": NAME, "weights_sha256": "0" * 64}
    tags = {"record": record.text(content), "record_sha256": record.digest(content), "mlflow_run_id": "none"}
    version = pipeline.create_model_version(NAME, "s3://nowhere/model", tags=tags).version
    pipeline.set_registered_model_alias(NAME, "candidate", version)
    _approved(content)
    with pytest.raises(MlflowException, match="Permission denied"):
        moving.settle(NAME)
    for attempt in (
        lambda: pipeline.set_registered_model_alias(RELEASED, ALIAS, "1"),
        lambda: pipeline.set_registered_model_tag(RELEASED, "ledger.000001.0", "mine"),
        lambda: pipeline.create_model_version(RELEASED, "s3://nowhere/model", tags=tags),
    ):
        with pytest.raises(MlflowException, match="Permission denied"):
            attempt()

    release = login(RELEASE)
    assert moving.settle(NAME) == [f"{RELEASED}@{ALIAS} is now version 1"]
    assert moving.settle(NAME) == []
    assert len(registry.published_of(release, NAME)) == 3

    login(PIPELINE)
    found = registry.find(f"models:/{RELEASED}@{ALIAS}")
    assert (found.record, found.standing.word) == (content, ALIAS)
    pipeline.set_registered_model_alias(NAME, "champion", version)  # in its own model it may: believed it is not
    with pytest.raises(ValueError, match="by the signed ledger it belongs to none"):
        registry.find(f"models:/{NAME}@champion")
