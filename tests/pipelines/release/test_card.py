"""The model card: complete by CHAI's list, true to its dossier, honest about what nobody stated; it names nobody."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from pipelines.release import (
    audit,
    card,
    card_statements,
    chai_card,
    dossier,
    issuing,
    record,
    registration,
    registry,
    signers,
    tracking,
)
from pipelines.release.card_content import TO_BE_FILLED
from tests.conftest import REPOSITORY
from tests.pipelines.release import evaluated, people
from tests.pipelines.release.test_weights_signature import new_key

TEXT = f"{{{chai_card.NAMESPACE}}}"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dossier in a project with a release plan."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release").mkdir()
    (tmp_path / "release/plan.yaml").write_text((REPOSITORY / "release/plan.yaml").read_text())
    return dossier.keep(evaluated.make(tmp_path))


def written(kept: Path, **standing: Any) -> tuple[dict[str, Any], Path]:
    folder = card.place(kept.name)
    return card.write(folder, kept, standing), folder


def test_a_card_is_complete_and_says_the_same_in_all_its_spellings(kept: Path) -> None:
    content, folder = written(kept, version="3", word="candidate", looks=4)
    assert {path.name for path in folder.iterdir()} == {
        "LICENSE", "card.html", "card.xml", "metadata.json", "sbom.cdx.json"
    }  # fmt: skip
    assert "Apache License" in (folder / "LICENSE").read_text()
    xml, page = (folder / "card.xml").read_text(), (folder / "card.html").read_text()
    metadata = json.loads((folder / "metadata.json").read_text())
    chai_card.check(xml)
    assert (
        metadata["eval_metrics"]["dice.kidney"] == content["results"][1]["figures"][0]["mean"] == pytest.approx(0.8995)
    )
    assert '"value": 0.8995' in xml
    assert ">0.899<" in page or ">0.900<" in page
    for text in (xml, page):
        assert content["record_sha256"] in text
        assert "candidate: not for clinical use" in text
        assert "looked at 4 times" in text or "looks at the test set" in text
        assert "CC-BY-NC-SA-4.0" in text
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background", "1": content["structures"][0], "2": content["structures"][1]
    }  # fmt: skip


def test_the_same_dossier_and_standing_give_the_same_bytes(kept: Path) -> None:
    _, folder = written(kept, version="3")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "model.sig").write_text("kept")
    written(kept, version="3")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {**before, "model.sig": b"kept"}


def test_what_nobody_stated_is_said_so_and_goes_once_it_is_stated(kept: Path, tmp_path: Path) -> None:
    content, folder = written(kept)
    assert {"developer", "intended_use", "consent"} <= set(content["unstated"])
    assert TO_BE_FILLED not in (folder / "card.xml").read_text()
    assert "<ModelDeveloper>Not stated</ModelDeveloper>" in (folder / "card.xml").read_text()
    (tmp_path / "release/card.yaml").write_text(
        'developer: "Clinic & <Sons>"\nconsent: Waived.\nkeywords: [kidney]\nlicences: {kits: by contract}\n'
    )
    content, folder = written(kept)
    assert not {"developer", "consent"} & set(content["unstated"])
    root = ElementTree.fromstring((folder / "card.xml").read_text())
    assert root.findtext(f"{TEXT}BasicInfo/{TEXT}ModelDeveloper") == "Clinic & <Sons>"
    assert root.findtext(f"{TEXT}ModelSummary/{TEXT}Keywords/{TEXT}Keyword") == "kidney"
    assert "Clinic &amp; &lt;Sons&gt;" in (folder / "card.html").read_text()
    assert content["data"][0]["licence"] == "by contract"


def test_the_release_plan_says_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "release").mkdir()
    plan = (REPOSITORY / "release/plan.yaml").read_text()
    plan = re.sub(r'intended_use: ".*"', "intended_use: Volumes of kidneys for follow-up.", plan)
    (tmp_path / "release/plan.yaml").write_text(plan)
    content, folder = written(dossier.keep(evaluated.make(tmp_path)))
    root = ElementTree.fromstring((folder / "card.xml").read_text())
    uses = root.find(f"{TEXT}UsesAndDirections")
    assert uses is not None
    assert uses.findtext(f"{TEXT}IntendedUseAndWorkflow") == "Volumes of kidneys for follow-up."
    assert "another intended use" in str(uses.findtext(f"{TEXT}CautionedOutOfScopeSettings"))
    assert content["standing"]["looks_allowed"] == 20
    assert "Against it: No new miss passes the gate." in (folder / "card.xml").read_text()


def test_limits_and_failures_are_told(kept: Path) -> None:
    content, folder = written(kept)
    limits = " ".join(content["limits"])
    assert "Too few patients for an interval: Dice of kidney, spleen" in limits
    assert "non-commercial use only: kits" in limits
    assert [each["dice"] for each in content["failures"]] == sorted(each["dice"] for each in content["failures"])
    assert content["failures"][0]["case_id"] == "kits-2"
    assert "kits-2" in (folder / "card.html").read_text()


def test_a_structure_that_was_trained_and_never_measured_is_named(kept: Path, tmp_path: Path) -> None:
    told = json.loads((kept / "record.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for name in ("evaluation", "lineage"):
        (other / name).symlink_to(kept / name)
    (other / "record.json").write_text(record.text({**told, "structures": [*told["structures"], "liver"]}))
    content = card.write(tmp_path / "card", other, {})
    assert "Liver is trained and was never measured" in " ".join(content["limits"])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("developper: x\n", r"card.yaml: developper: .*did you mean 'developer'"),
        ("developer: 3\n", r"card.yaml: developer: .*string"),
        ("licences: {kits: 3}\n", r"card.yaml: licences.kits"),
        ("- a\n", r"must hold `name: text`"),
        ("developer: [\n", r"not valid YAML"),
    ],
)
def test_a_wrong_statement_is_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        card_statements.read(path)


def test_the_file_that_projects_begin_with_states_nothing_and_has_every_name() -> None:
    found = card_statements.read(REPOSITORY / "release/card.yaml")
    assert found == card_statements.Statements()
    text = (REPOSITORY / "release/card.yaml").read_text()
    assert re.findall(r"^(\w+):", text, re.MULTILINE) == list(card_statements.Statements.model_fields)


def test_what_is_no_card_of_chai_is_refused_by_the_name_of_the_element(kept: Path) -> None:
    xml = (written(kept)[1] / "card.xml").read_text()
    for wrong, match in (
        (xml.replace(chai_card.NAMESPACE, "https://elsewhere"), "begins with"),
        (re.sub(r"<ModelDeveloper>.*</ModelDeveloper>", "", xml), "lacks AppliedModelCard/BasicInfo/ModelDeveloper"),
        (xml.replace("<BasicInfo>", "<BasicInfo><Extra/>"), "lacks AppliedModelCard/BasicInfo/ModelName"),
        (
            xml.replace("</BasicInfo>", "<Extra/></BasicInfo>"),
            "has AppliedModelCard/BasicInfo/Extra where none belongs",
        ),
        (re.sub(r"<Label>", "<b/><Label>", xml, count=1), "lacks .*MetricResult/Label"),
        (xml[:-20], "is no XML"),
    ):
        with pytest.raises(ValueError, match=match):
            chai_card.check(wrong)


def test_no_patient_is_on_a_card(kept: Path) -> None:
    """Nor a path of a scan; the pseudonyms of cases are."""
    _, folder = written(kept)
    for path in folder.iterdir():
        text = path.read_text()
        assert not re.search(r"\bp\d\b", text), path
        assert "imaging.nii" not in text, path
        assert "data/raw" not in text, path


def test_a_released_version_says_since_when_and_a_broken_ledger_that_nothing_is_known(
    kept: Path, tmp_path: Path
) -> None:
    _, folder = written(kept, version="3", word="champion", since="2026-11-26T14:00:00+00:00")
    root = ElementTree.fromstring((folder / "card.xml").read_text())
    assert root.findtext(f"{TEXT}ReleaseInfo/{TEXT}ReleaseStage") == "champion"
    assert root.findtext(f"{TEXT}ReleaseInfo/{TEXT}ReleaseDate") == "2026-11-26T14:00:00+00:00"
    content = json.loads((kept / "record.json").read_text())
    assert issuing.standing_of(3, content) == {"version": "3", "looks": 0, "word": "candidate", "since": ""}
    (tmp_path / "release/ledger/m").mkdir(parents=True)
    (tmp_path / "release/ledger/m/000001.json").write_text("{}\n")
    standing = issuing.standing_of(3, content)
    assert (standing["word"], "statement 1 of m" in standing["problem"]) == ("unverified", True)
    card.write(folder, kept, standing)
    assert "unverified: not for clinical use" in (folder / "card.html").read_text()


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of its own code
def test_a_signature_of_weights_is_believed_by_the_signers_of_the_ledger_and_not_by_a_revoked_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)  # MLflow sets it to what it was used with before
    monkeypatch.chdir(tmp_path)
    evaluated.make(tmp_path)
    model = registry.find(f"models:/m/{registration.make_version()}")
    key = new_key(tmp_path / "key")
    issuing.sign(model, key)
    people.begin("m")
    with pytest.raises(ValueError, match="by none of the signers of m"):
        issuing.verify(model)
    signers.add("release@hospital.org", key.with_suffix(".pub"), "author")
    with pytest.raises(ValueError, match="by none of the signers of m"):
        issuing.verify(model)  # the file is a draft
    people.say("signers", signers.read().to_json(), "bob", "m")
    assert issuing.verify(model) == "release@hospital.org"
    people.say("signers", signers.revoke("release@hospital.org", key.with_suffix(".pub")).to_json(), "bob", "m")
    with pytest.raises(ValueError, match="or by a key that was revoked"):
        issuing.verify(model)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_last_answer_of_the_gate_stands_on_the_card(kept: Path) -> None:
    content = json.loads((kept / "record.json").read_text())
    for verdict, reasons in (("passes", []), ("fails", ["kidney: worse"])):
        audit.append("gate", record_sha256=kept.name, alias="champion", verdict=verdict, reasons=reasons)
    audit.append("gate", record_sha256="0" * 64, alias="champion", verdict="passes", reasons=[])
    audit.append("evaluate", test_set_sha256=content["test_set_sha256"])
    audit.append("evaluate", test_set_sha256="0" * 64)
    standing = issuing.standing_of(3, content)
    assert (standing["verdict"], standing["reasons"], standing["looks"]) == ("fails", ["kidney: worse"], 1)
    card.write(card.place(kept.name), kept, standing)
    page = (card.place(kept.name) / "card.html").read_text()
    assert "fails; kidney: worse" in page
    assert "1 of 20 allowed" in page
