"""`medseg audit` and `medseg signers` as people type them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.commands.medseg import app
from pipelines.release import audit, signers
from tests.pipelines.release.people import MODEL, Version, key, public

pytestmark = pytest.mark.usefixtures("_project")
PUBLIC = {name: str(key(name).with_suffix(".pub")) for name in ("ann", "bob", "eve")}


@pytest.fixture
def _project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")


def medseg(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.stdout


def begin() -> None:
    medseg("signers", "add", "ann@hospital.org", PUBLIC["ann"], "--role", "author")
    told = medseg("signers", "add", "bob@hospital.org,bob@home.net", PUBLIC["bob"], "--role", "approver")
    assert "it counts once an approver signs it: medseg signers sign --key KEY" in told
    told = medseg("signers", "sign", "--key", str(key("bob")), "--model", MODEL)
    assert f"statement 1 of {MODEL}: signers, signed by bob@hospital.org" in told


def test_signers_are_added_signed_and_listed() -> None:
    begin()
    medseg("signers", "add", "eve@hospital.org", PUBLIC["eve"], "--role", "author")
    ann, bob, eve = json.loads(medseg("signers", "ls", "--model", MODEL, "--json"))["signers"]
    assert (ann["roles"], ann["in_force"], eve["in_force"]) == (["author"], True, False)
    assert bob["names"] == ["bob@hospital.org", "bob@home.net"]
    assert ann["fingerprint"].startswith("SHA256:")
    assert "not signed yet" in medseg("signers", "ls", "--model", MODEL)


def test_a_revoked_key_counts_no_more_once_that_is_signed() -> None:
    begin()
    medseg("signers", "add", "ann@hospital.org", PUBLIC["ann"], "--role", "revoke")
    assert signers.read().revoked_keys == {public("ann")}
    Version(1).request()
    medseg("signers", "sign", "--key", str(key("bob")), "--model", MODEL)
    medseg("signers", "sign", "--key", str(key("bob")), "--model", MODEL, code=1)  # nothing to put in force
    with pytest.raises(ValueError, match="with a key that is revoked"):
        Version(2).request()


def test_the_log_is_verified_and_what_is_broken_named() -> None:
    assert json.loads(medseg("audit", "verify", "--json"))["ok"]
    begin()
    Version(1).request()
    found = json.loads(medseg("audit", "verify", "--json"))
    assert found == {"ok": True, "first_broken": None, "lines": 2, "heads": 1, "statements": {MODEL: 2}}
    assert "All is as it was written and signed" in medseg("audit", "verify")
    file = Path(f"release/ledger/{MODEL}/000002.json")
    whole = file.read_text()
    file.write_text(whole.replace('"version":1', '"version":2'))
    assert "BROKEN: " in medseg("audit", "verify", code=1)
    assert "000002.json" in json.loads(medseg("audit", "verify", "--json", code=1))["first_broken"]
    file.write_text(whole)
    audit.path().write_bytes(audit.path().read_bytes().replace(b'"number":1', b'"number":3', 1))
    assert "line 1 was altered" in json.loads(medseg("audit", "verify", "--json", code=1))["first_broken"]


def test_the_last_events_are_shown() -> None:
    for number in range(3):
        audit.append("evaluate", weights_sha256="a" * 64, cases=number)
    audit.append("ingest")
    lines = json.loads(medseg("audit", "show", "--event", "evaluate", "--last", "2", "--json"))["lines"]
    assert [(line["number"], line["facts"]["cases"]) for line in lines] == [(2, 1), (3, 2)]
    assert "weights_sha256 aaaaaaaaaaaa..." in medseg("audit", "show")
