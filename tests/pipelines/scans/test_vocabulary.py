"""Structures are data: what the default holds, what a project adds, and what is refused with the remedy."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines.intake.used_structures import structures_meant
from pipelines.params.schema import Data
from pipelines.scans import own_structures, vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.label_names import structure_of
from pipelines.scans.structure import HIGHEST_ID, Structure
from pipelines.scans.vocabulary import FIRST_OWN_ID, VocabularyError
from pipelines.training.classes import classes_of

WORDS = vocabulary.default()
HERE = Path(__file__).parent


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The structures.yaml of a project."""
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / vocabulary.FILE


def test_ids_and_names_that_models_and_label_maps_hold_stay_as_they_are() -> None:
    fixed = {
        1: "hippocampus_anterior", 2: "hippocampus_posterior", 3: "right_ventricle", 4: "myocardium",
        5: "left_ventricle", 6: "tumour_necrotic_core", 7: "tumour_oedema", 8: "tumour_enhancing", 9: "kidney",
        10: "kidney_tumour", 11: "kidney_cyst", 12: "spleen", 13: "liver", 14: "liver_tumour", 15: "pancreas",
        16: "pancreas_tumour", 17: "gallbladder", 18: "stomach", 19: "duodenum", 20: "oesophagus", 21: "aorta",
        22: "inferior_vena_cava", 23: "adrenal_gland", 24: "urinary_bladder", 25: "prostate", 26: "lung",
        27: "left_atrium",
    }  # fmt: skip
    assert {identifier: WORDS.by_id[identifier].name for identifier in fixed} == fixed
    assert max(WORDS.by_id) < FIRST_OWN_ID < HIGHEST_ID


def test_distinct_things_have_distinct_codes() -> None:
    seen: dict[object, str] = {}
    for each in WORDS.values():
        if not each.parts:
            assert seen.setdefault(each.codes, each.name) == each.name
        assert each.laterality in ("", "left", "right", "both")


@pytest.fixture(scope="module")
def codes() -> dict[str, tuple[str, str]]:
    """SNOMED CT code -> its meaning, and the public text that it was read in.

    P: DICOM PS3.16, as pydicom has it. T, T0: TotalSegmentator's mapping of its structures. M: HL7 mCODE's value set of
    radiotherapy structures (TG-263). E: MOOSE's mapping. F: FHIR R4's body sites. G: SNOMED International's documents.
    """
    lines = (HERE / "snomed_codes.csv").read_text().splitlines()[1:]
    return {code: (meaning, source) for code, meaning, source in (line.split("|") for line in lines)}


def test_every_code_was_read_somewhere_and_says_what_it_said_there(codes: dict[str, tuple[str, str]]) -> None:
    for each in WORDS.values():
        for code in (each.category, each.type, each.region, each.modifier):
            assert code is None or (code.scheme, codes[code.value][0]) == ("SCT", code.meaning), each.name


def test_codes_read_in_dicoms_dictionary_are_there(codes: dict[str, tuple[str, str]]) -> None:
    concepts = pytest.importorskip("pydicom.sr.codedict").codes.SCT
    known = {getattr(concepts, word).value for word in concepts.trait_names() if word[0].isupper()}
    assert [code for code, (_, source) in codes.items() if source == "P" and code not in known] == []


def test_public_data_sets_mean_structures_that_are_there() -> None:
    sets = yaml.safe_load((HERE / "datasets.yaml").read_text())
    assert len(sets) > 80
    assert [(name, each) for name, values in sets.items() for each in values.values() if each not in WORDS] == []


def test_left_and_right_are_structures_and_the_whole_is_their_union() -> None:
    for pair in ("kidney", "lung", "adrenal_gland"):
        assert WORDS[pair].laterality == "both"
        sides = {WORDS[part].laterality for part in WORDS[pair].parts}
        assert sides == {"left", "right"}
    assert set(WORDS.covered_ids("kidney")) == {WORDS[n].id for n in ("kidney", "kidney_left", "kidney_right")}
    assert WORDS.atoms("kidney_and_masses") == WORDS.atoms("kidney") | WORDS.atoms("kidney_cyst") | {"kidney_tumour"}


def test_a_structure_is_itself_after_json() -> None:
    for each in WORDS.values():
        assert Structure.from_json(json.loads(json.dumps(each.to_json()))) == each


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("Left Kidney", "kidney_left"), ("kidney_l", "kidney_left"), ("RightKidney", "kidney_right"),
        ("Tumor, kidney", "kidney_tumour"), ("esophagus", "oesophagus"), ("whole tumor", "whole_tumour"),
        ("gall bladder", "gallbladder"), ("heart of gold", None), ("", None),
    ],
)  # fmt: skip
def test_a_name_counts_by_its_words(called: str, name: str | None) -> None:
    assert WORDS.named(called) == name


def test_a_project_adds_its_own_in_a_line(own: Path) -> None:
    own.write_text("bone_metastasis: {id: 10000, synonyms: [bone met]}\nspleen: {synonyms: [lien], tolerance_mm: 5}\n")
    words = vocabulary.here()
    assert words["bone_metastasis"] == words.by_id[10_000]
    assert contract_of("3=bone_metastasis").inverse()[10_000] == 3
    assert words.named("Bone Met") == "bone_metastasis"
    assert words.named("lien") == "spleen"
    assert (words["spleen"].tolerance_mm, words["spleen"].id) == (5, 12)
    assert len(words) == len(WORDS) + 1
    assert words["bone_metastasis"].type.scheme == "99MEDSEG"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lump: {}", "lump: it needs an id, such as {id: 10000}"),
        ("lump: {id: 12}", "id 12 is below 10000; those are the default's. 10000 is free"),
        ("lump: {id: 40000}", "lump.id: 40000: Input should be less than or equal to 32766"),
        ("lump: {id: 10000}\nbump: {id: 10000}", "bump has id 10000, which lump has"),
        ("lump: {id: 10000}\nlump: {id: 10001}", "'lump' is there twice"),
        ("Lump: {id: 10000}", "a name is of small letters"),
        ("lump: {id: 10000, part: [liver]}", "lump.part: ['liver']: Extra inputs are not permitted"),
        ("lump: {id: 10000, parts: [livr]}", "lump has a part 'livr', which no structure is called"),
        ("lump: {id: 10000, parts: [lump]}", "lump is a part of itself"),
        ("lump: {id: 10000, type: [10200004, Liver]}", "it has the codes of liver"),
        ("spleen: {id: 10000}", "of which only colour, synonyms, tolerance_mm can be said here"),
        ("- lump", "must map names of structures"),
        ("lump: {", "not valid YAML"),
    ],
)
def test_what_cannot_be_is_refused_with_name_value_and_bound(own: Path, text: str, told: str) -> None:
    own.write_text(text)
    with pytest.raises(VocabularyError, match=re.escape(told)):
        vocabulary.here()


def test_an_unknown_name_is_told_with_the_nearest_and_how_to_declare_one() -> None:
    with pytest.raises(VocabularyError, match=r"did you mean 'spleen'.*medseg structures add splen"):
        WORDS["splen"]


def test_declaring_keeps_comments_and_gives_the_next_id(own: Path) -> None:
    own.write_text("# ours\nlump: {id: 10004} # since 2026\n")
    declared = own_structures.declare("liver_lump", ["lump of the liver"], None, "liver")
    assert own.read_text().startswith("# ours\nlump: {id: 10004} # since 2026\nliver_lump: ")
    assert (declared.id, declared.region) == (10_005, WORDS["liver"].type)
    assert vocabulary.here()["liver_lump"] == declared
    with pytest.raises(ValueError, match="liver_lump is there already, with id 10005"):
        own_structures.declare("liver_lump")
    with pytest.raises(VocabularyError, match="has a part 'nothing'"):
        own_structures.declare("bad", parts=["nothing"])
    assert "bad" not in own.read_text()
    assert [record["name"] for record in own_structures.check()] == ["lump", "liver_lump"]


def test_results_depend_on_the_structures_that_their_scans_use(own: Path) -> None:
    data = Data(sources=("phantom",), split_seed=0, test_fraction=0.2, validation_fraction=0.1)
    before = structures_meant([], data)
    own.write_text("lump: {id: 10000}\n")
    assert structures_meant([], data) == before
    assert {"kidney", "kidney_left", "whole_tumour", "myocardium"} <= set(before)
    assert "spleen" not in before
    own.write_text("halves: {id: 10000, parts: [myocardium, left_ventricle]}\n")  # a union of what they use
    assert structures_meant([], data) == {**before, "halves": vocabulary.here()["halves"].to_json()}


def test_a_code_decides_only_with_its_organ() -> None:
    cyst, kidney, liver = "367643001", "64033007", "10200004"
    assert structure_of(cyst, "Segment_1") is None
    assert structure_of(cyst, "", kidney) == "kidney_cyst"
    assert structure_of(liver, "Segment_1") == "liver"
    assert structure_of(kidney, "Segment_1") == "kidney"
    assert structure_of(kidney, "Segment_1", side="left") == "kidney_left"
    assert structure_of(kidney, "kidney", side="right") == "kidney_right"


def test_unions_become_their_parts_where_somebody_tells_them() -> None:
    alone = classes_of(["kidney", "spleen"], WORDS)
    assert (alone.names, alone.covers["kidney"]) == (("kidney", "spleen"), (1,))
    both = classes_of(["kidney", "spleen", "kidney_left"], WORDS, ["kidney"])
    assert set(both.names) == {"spleen", "kidney_left", "kidney_right"}
    assert {both.names[number - 1] for number in both.covers["kidney"]} == {"kidney_left", "kidney_right"}
    nested = classes_of(["whole_tumour", "tumour_core"], WORDS)
    assert set(nested.names) == {"tumour_necrotic_core", "tumour_oedema", "tumour_enhancing"}
    with pytest.raises(ValueError, match=r"train\.regions: whole_tumour holds .*tumour_necrotic_core"):
        classes_of(["tumour_oedema"], WORDS, ["whole_tumour"])
