"""Modalities are data: what the default holds, what a project adds, and what is refused with the remedy."""

import re
from pathlib import Path

import pytest

from model.network.config import MODALITIES
from pipelines.intake.used_structures import modalities_meant
from pipelines.params.schema import Data
from pipelines.scans import modalities
from pipelines.scans.modalities import FILE, in_hu
from pipelines.scans.vocabulary import VocabularyError
from pipelines.sources import Scan

KNOWN = modalities.default()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The modalities.yaml of a project."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / FILE


def test_every_fixed_row_of_the_network_is_a_modality() -> None:
    assert set(MODALITIES[1:]) <= set(KNOWN)
    assert MODALITIES[0] not in KNOWN


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("T1", "T1"), ("t1w", "T1"), ("T1Gd", "T1CE"), ("t1c", "T1CE"), ("T1+", "T1CE"), ("t1n", "T1"), ("T2w", "T2"),
        ("T2-weighted", "T2"), ("T2*", "T2STAR"), ("t2f", "FLAIR"), ("T2 FLAIR", "FLAIR"), ("mri", "MR"), ("mr", "MR"),
        ("ct", "CT"), ("noncontrast CT", "NCCT"), ("non-contrast CT", "NCCT"), ("cone-beam CT", "CBCT"), ("PT", "PET"),
        ("cine_mri", "CINE"), ("XRAY", None), ("", None), ("T", None),
    ],
)  # fmt: skip
def test_a_name_or_synonym_counts_whatever_its_case_and_signs(called: str, name: str | None) -> None:
    assert KNOWN.find(called) == name


def test_sequences_are_kinds_of_mr_and_hounsfield_units_are_those_of_ct() -> None:
    for name in ("T1", "T1CE", "T2", "FLAIR", "PD", "SWI", "DWI", "ADC", "LGE", "DCE", "CINE", "PHASE", "T1MAP"):
        assert KNOWN.kinds(name) == ("MR",)
        assert not in_hu(name)
    assert KNOWN.kinds("CBCT") == ("CT",)
    assert KNOWN.kinds("CT") == KNOWN.kinds("nothing") == ()
    assert [name for name in ("CT", "CBCT", "CTA", "PET", "nothing") if in_hu(name)] == ["CT", "CBCT", "CTA"]


def test_a_project_adds_its_own_in_a_line(own: Path) -> None:
    own.write_text("heat: {}\nmy_t1: {kind: T1, synonyms: [seq 7]}\nscout: {kind: CT}\ndose: {kind: CT, unit: none}\n")
    known = modalities.here()
    assert known.kinds("my_t1") == ("T1", "MR")
    assert known.named("Seq-7") == "my_t1"
    assert [in_hu(name) for name in ("heat", "my_t1", "scout", "dose")] == [False, False, True, False]
    assert len(known) == len(KNOWN) + 4


def test_what_other_people_call_one_of_the_default_can_be_added(own: Path) -> None:
    own.write_text("T1: {synonyms: [heat]}\n")
    assert modalities.here().named("Heat") == "T1"
    assert modalities.here().named("t1w") == "T1"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("heat: {kind: MRT}", "heat: its kind 'MRT' is not declared before it; did you mean 'MR'?"),
        ("heat: {unit: mm}", "heat.unit: 'mm': Input should be 'HU' or 'none'"),
        ("heat: {sort: MR}", "heat.sort: 'MR': Extra inputs are not permitted"),
        ("heat: MR", "heat.entry: 'MR': Input should be a valid dictionary"),
        ("T1: {kind: PET}", "T1: it is one of the default's, of which only synonyms can be said here"),
        ("heat: {synonyms: [t1w]}", "heat: 't1w' means T1"),
        ("t1_w: {}", "t1_w: 't1_w' means T1"),
        ("label: {}", "label: this name has another meaning"),
        ("my map: {}", "my map: a name is of letters, digits and _"),
        ("heat: {}\nheat: {}", "'heat' is there twice"),
        ("- heat", "must map names of modalities to what they are, as in `my_sequence: {kind: MR}`"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(own: Path, text: str, told: str) -> None:
    own.write_text(text)
    with pytest.raises(VocabularyError, match=re.escape(told)):
        modalities.here()


def test_an_unknown_name_is_told_with_what_is_known_and_how_to_declare_it() -> None:
    with pytest.raises(VocabularyError, match=r"modality 'heat' is unknown; .*known are CT, .*: \{kind: MR\}`") as told:
        KNOWN.named("heat")
    assert "a line such as `heat: {kind: MR}`" in str(told.value)
    assert "did you mean 'FLAIR'" in KNOWN.remedy("FLAIRE")


def test_results_depend_on_the_modalities_that_their_scans_show(own: Path) -> None:
    scan = Scan("nnunet", "p", "k", {"heat": "a.nii.gz"}, {})
    data = Data(sources=("pairs",), split_seed=0, test_fraction=0.2, validation_fraction=0.1)
    before = modalities_meant([scan], data)
    own.write_text("cold: {kind: MR}\n")
    assert modalities_meant([scan], data) == before
    own.write_text("heat: {unit: HU}\n")
    assert modalities_meant([scan], data)["heat"]["unit"] == "HU"
    assert modalities_meant([], data) == before
    told = data.model_copy(update={"modality": {"pairs-x": ("heat",)}})
    assert modalities_meant([], told) == modalities_meant([scan], data)
