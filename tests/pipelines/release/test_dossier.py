"""What is kept of a version: whole, of this version and no other, and a changed byte is named."""

import json
import re
from pathlib import Path

import pytest

from pipelines.release import dossier, record, tracking
from pipelines.scans import manifest
from pipelines.work import project
from pipelines.work.digests import sha256_of
from tests.pipelines.release import evaluated


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)  # MLflow sets it
    monkeypatch.chdir(tmp_path)
    return dossier.keep(evaluated.make(tmp_path))


def test_a_dossier_is_named_by_its_record_and_holds_evaluation_and_lineage(kept: Path) -> None:
    content = record.read()
    assert kept.name == record.digest(content) == sha256_of(kept / "record.json")
    told = json.loads((kept / "contents.json").read_text())
    assert {"record.json", "evaluation/index.html", "evaluation/predictions/kits-0.nii.gz"} <= told.keys()
    assert {"lineage/manifest.parquet", "lineage/params.yaml", "lineage/origin.json"} <= told.keys()
    assert content["structures"] == ["spleen", "kidney"]
    assert dossier.keep(content) == dossier.find(kept.name, run_id="not asked") == kept


def test_every_file_of_it_that_is_changed_removed_or_added_is_named(kept: Path) -> None:
    for name in [*json.loads((kept / "contents.json").read_text()), "stranger"]:
        path = kept / name
        before = path.read_bytes() if path.is_file() else None
        if before is not None:
            path.unlink()  # a link to the project's own
            with pytest.raises(ValueError, match=re.escape(name) if name != "record.json" else "no dossier"):
                dossier.find(kept.name, "")
            path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        else:
            path.write_text("?")
        with pytest.raises(ValueError, match=re.escape(name)):
            dossier.find(kept.name, "")
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    assert dossier.find(kept.name, "") == kept


def test_an_evaluation_or_a_manifest_of_another_run_is_refused_and_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tracking.VARIABLE, raising=False)  # MLflow sets it
    monkeypatch.chdir(tmp_path)
    content = evaluated.make(tmp_path)
    evaluated.make(tmp_path, dice=0.8)
    with pytest.raises(ValueError, match=r"reports/evaluate is not what models/register/model.json was made of"):
        dossier.keep(content)
    evaluated.make(tmp_path)
    manifest_file = tmp_path / project.MANIFEST
    manifest.write(manifest_file, manifest.read(manifest_file)[:-1])
    with pytest.raises(ValueError, match=r"data/manifest.parquet is not what"):
        dossier.keep(content)
    assert not list((tmp_path / ".medseg/versions").iterdir())


def test_a_lost_dossier_is_told_with_what_brings_it_back(kept: Path) -> None:
    with pytest.raises(ValueError, match="is missing; bring it back from a copy of the project"):
        dossier.find("0" * 64, "")
    with pytest.raises(ValueError, match=r"'\.\./elsewhere' is no sha256"):  # as a tag in MLflow may say
        dossier.find("../elsewhere", "")
