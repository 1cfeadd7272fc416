"""One zip proves a version to anybody: whatever is changed in it, removed or added is named, and so is who signed."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.release import audit, bundle, canonical, dossier, ledger, record, signers, verify_bundle
from pipelines.release.verify_bundle import BundleError, verify, written
from tests.pipelines.release import evaluated
from tests.pipelines.release.people import answering, begin, key, say

MODEL = "m"


@pytest.fixture
def made(release_project: Path) -> Path:
    """The bundle of a version that ann asked for and bob approved; ann signed the whole."""
    content = evaluated.make(release_project)
    audit.append("predict", record_sha256="0" * 64, inputs=[], outputs=[])
    audit.append("predict", record_sha256="0" * 64, inputs=[], outputs=[])
    audit.append("train", weights_sha256=content["weights_sha256"])
    folder = dossier.keep(content)
    audit.append("register", record_sha256=folder.name, name=MODEL, version=1)
    begin(MODEL)
    say("approval", answering(say("request", asked(folder, "clinical-candidate"), "ann", MODEL)), "bob", MODEL)
    audit.append("predict", record_sha256=folder.name, inputs=[], outputs=[])
    card = release_project / "card"
    card.mkdir()
    (card / "card.xml").write_text("<card/>")
    return bundle.write(folder, ledger.read(MODEL), card, release_project / "m-1.zip", key("ann"))


def asked(folder: Path, alias: str) -> dict[str, Any]:
    """A request's content, with its evidence written down."""
    content = json.loads((folder / "record.json").read_text())
    told = {
        "record_sha256": folder.name,
        "dossier_sha256": dossier.digest(folder),
        "weights_files": content["weights_files"],
    }
    sha256 = canonical.digest(told)
    path = Path("release/evidence") / f"{sha256}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(canonical.text(told))
    holder = ledger.read(MODEL).holder(alias)
    return {
        "version": 1, "record_sha256": folder.name, "alias": alias, "evidence_sha256": sha256, "holder": holder,
        "authors": ["ann@hospital.org"],
    }  # fmt: skip


def test_a_bare_python_proves_it(made: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    with zipfile.ZipFile(made) as archive:
        archive.extract("verify_bundle.py", tmp_path / "elsewhere")
    trusted = tmp_path / "trusted"
    trusted.write_text(signers.read().text)
    command = [python, "-I", tmp_path / "elsewhere/verify_bundle.py", made, trusted]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "elsewhere")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ann@hospital.org signed that" in done.stdout
    assert "this version is clinical-candidate" in done.stdout
    assert re.search(r"approval by bob@hospital.org: clinical-candidate I looked at all worst cases", done.stdout)
    assert "6 lines of the audit log, to line 7, follow on each other" in done.stdout
    assert subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode  # it is bare
    trusted.write_text("mallory@home.net ssh-ed25519 AAAA\n")
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (
        1, "NOT PROVED: ledger/000001.json: does not name the signers that you trust\n",
    )  # fmt: skip


def test_the_same_version_gives_the_same_bytes(made: Path) -> None:
    folder = next(path for path in dossier.kept())
    again = bundle.write(folder, ledger.read(MODEL), Path("card"), Path("again.zip"), key("ann"))
    assert again.read_bytes() == made.read_bytes()


def test_every_file_that_is_changed_removed_or_added_is_named(made: Path) -> None:
    members = verify_bundle.opened(made)
    comment = verify_bundle.sha256(members["contents.json"])
    assert {"contents.json", "contents.json.sig", "dossier/record.json", "card/card.xml", "audit.jsonl"} <= set(members)
    for name, content in members.items():
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else b"x"
        rest = {other: each for other, each in members.items() if other != name}
        for changed in ({**members, name: flipped}, rest):
            with pytest.raises(BundleError, match=rf"^{re.escape(name)}: "):
                verify(zipped(made, changed, comment))
    with pytest.raises(BundleError, match=r"^dossier/extra: was added"):
        verify(zipped(made, {**members, "dossier/extra": b""}, comment))


def test_any_byte_of_the_archive_that_is_flipped_is_found(made: Path) -> None:
    whole = made.read_bytes()
    for at in [*range(0, len(whole), len(whole) // 300), *range(len(whole) - 200, len(whole))]:
        made.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BundleError):
            verify_bundle.opened(made)
    for other in (whole + b"x", b"x" + whole):
        made.write_bytes(other)
        with pytest.raises(BundleError, match=r"^m-1\.zip: "):
            verify_bundle.opened(made)


def report_made_better(members: dict[str, bytes]) -> None:
    members["dossier/evaluation/index.html"] = b"Dice 1.000"


def dossier_made_anew_around_it(members: dict[str, bytes]) -> None:
    report_made_better(members)
    told = json.loads(members["dossier/contents.json"])
    told["evaluation/index.html"] = verify_bundle.sha256(b"Dice 1.000")
    members["dossier/contents.json"] = json.dumps(told).encode()


def another_record(members: dict[str, bytes]) -> None:
    content = {**json.loads(members["dossier/record.json"]), "mean_dice": 1.0}
    members["dossier/record.json"] = record.text(content).encode()
    told = {**json.loads(members["dossier/contents.json"]), "record.json": record.digest(content)}
    members["dossier/contents.json"] = json.dumps(told).encode()


def another_scan(members: dict[str, bytes]) -> None:
    members["manifest.json"] = members["manifest.json"].replace(b'"p0"', b'"p8"')


def another_meaning(members: dict[str, bytes]) -> None:
    members["ledger/000003.json"] = members["ledger/000003.json"].replace(b"worst", b"first")


def approval_left_out(members: dict[str, bytes]) -> None:
    del members["ledger/000003.json"]


def request_left_out(members: dict[str, bytes]) -> None:
    del members["ledger/000002.json"]


def another_signer(members: dict[str, bytes]) -> None:
    members["release/allowed_signers"] += b"eve@home.net ssh-ed25519 AAAA\n"


def better_evidence(members: dict[str, bytes]) -> None:
    (name,) = (name for name in members if name.startswith("evidence/"))
    members[name] = members[name].replace(b"0", b"1")


def another_event(members: dict[str, bytes]) -> None:
    members["audit.jsonl"] = members["audit.jsonl"].replace(b'"version":1', b'"version":2')


def log_cut_short_in_the_middle(members: dict[str, bytes]) -> None:
    lines = members["audit.jsonl"].splitlines(keepends=True)
    members["audit.jsonl"] = b"".join([*lines[:2], *lines[3:]])


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (report_made_better, "dossier/evaluation/index.html"),
        (dossier_made_anew_around_it, "evidence/"),
        (another_record, "evidence/"),
        (another_scan, "manifest.json"),
        (another_meaning, "ledger/000003.json"),
        (approval_left_out, "ledger/000003.json"),
        (request_left_out, "ledger/000003.json"),
        (another_signer, "release/allowed_signers"),
        (better_evidence, "evidence/"),
        (another_event, "audit.jsonl"),
        (log_cut_short_in_the_middle, "audit.jsonl"),
    ],
)
def test_a_forger_who_lists_and_zips_all_anew_is_found_by_what_people_signed(
    made: Path, forge: Callable[[dict[str, bytes]], None], named: str
) -> None:
    members = verify_bundle.opened(made)
    forge(members)
    with pytest.raises(BundleError, match=rf"^(contents\.json\.sig: |{re.escape(named)})"):
        verify(zipped(made, relisted(members, "ann@hospital.org")))
    del members["contents.json.sig"]
    with pytest.raises(BundleError, match=rf"^{re.escape(named)}"):
        verify(zipped(made, relisted(members, None)))


def test_a_version_that_nobody_asked_for_is_said_to_be_not_released(release_project: Path) -> None:
    folder = dossier.keep(evaluated.make(release_project))
    told = "\n".join(verify(bundle.write(folder, ledger.read(MODEL), Path("no-card"), Path("m-1.zip"))))
    assert "nobody signed that" in told
    assert "this version is not released" in told
    with pytest.raises(ValueError, match="is of no author in release/allowed_signers"):
        bundle.write(folder, ledger.read(MODEL), Path("no-card"), Path("m-1.zip"), key("eve"))


def zipped(path: Path, members: dict[str, bytes], comment: str | None = None) -> Path:
    """An archive of these, as ours are written. `comment`: what it is closed with, if not its due."""
    forged = path.with_name("forged.zip")
    due = verify_bundle.sha256(members.get("contents.json", b"")).encode()
    content = written({"contents.json": b"", **members}) if comment is None or "contents.json" in members else b""
    if not content:
        with zipfile.ZipFile(forged, "w") as archive:
            for name, each in members.items():
                archive.writestr(name, each)
    else:
        forged.write_bytes(content.removesuffix(due) + (comment.encode() if comment else due))
    return forged


def relisted(members: dict[str, bytes], signed_by: str | None) -> dict[str, bytes]:
    files = {name: verify_bundle.sha256(each) for name, each in members.items() if not name.startswith("contents.json")}
    return {**members, "contents.json": canonical.text({"files": files, "signed_by": signed_by}).encode()}
