"""Layouts of published sets and plain folders, from files on: what becomes a scan, and what its labels mean."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from zlib import crc32

import numpy as np
import pytest

from model.network.config import MODALITIES
from pipelines.intake import claims, examination, finding, listing
from pipelines.params import schema
from pipelines.params.bysource import LAYOUTS
from pipelines.scans import labels, scan_files, vocabulary
from pipelines.scans.key import Pseudonyms
from pipelines.scans.manifest import Row
from pipelines.scans.naming import Names, published
from pipelines.sources import readers
from tests.conftest import save

SHAPE = (6, 7, 8)
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[1:4, 1:4, 1:4], LABEL[4:5, 4:6, 4:6] = 1, 2


def image(path: Path, seed: int = 0, ct: bool = False) -> Path:
    values = np.random.default_rng([seed, crc32(path.as_posix().encode())]).integers(1, 500, SHAPE)
    return save(path, (values - 400 * ct).astype(np.int16))


def taken(raw: Path, labels: Any = None, modality: Any = None) -> list[Row]:
    """Of all layouts, as `medseg data check` does it."""
    listed = listing.take(raw, raw.parent / "digests.sqlite")
    return examination.examine(finding.find(raw, listed, tuple(readers()), None, labels, modality))


def usable(rows: list[Row]) -> list[Row]:
    assert [row.quarantined for row in rows] == [""] * len(rows)
    return rows


def contracts(row: Row) -> set[str]:
    return {label.contract for label in row.labels}


def brats(raw: Path, name: str, highest: int = 3, *sequences: str) -> None:
    for number, sequence in enumerate(sequences or ("t1n", "t1c", "t2w", "t2f")):
        image(raw / name / f"{name}-{sequence}.nii.gz", number)
    save(raw / name / f"{name}-seg.nii.gz", np.where(LABEL == 2, highest, LABEL).astype(np.uint8))


def test_every_layout_is_one_of_the_parameters_and_every_modality_of_the_networks() -> None:
    assert set(get_args(schema.Layout)) == {*readers(), "dicom", "phantom"} == {*LAYOUTS, "phantom"}
    assert get_args(schema.Modality) == MODALITIES[1:]


def test_brats_from_2023_on_is_read_by_its_names_and_occasions_of_a_patient_stay_together(tmp_path: Path) -> None:
    brats(tmp_path / "raw", "BraTS-GLI-00001-000")
    brats(tmp_path / "raw", "BraTS-GLI-00001-001")
    brats(tmp_path / "raw", "BraTS-MEN-00001-000", 3, "t2f")
    one, other, meningioma = usable(taken(tmp_path / "raw"))
    assert (one.source, meningioma.source) == ("brats-gli", "brats-men")
    assert one.modalities == ["FLAIR", "T1", "T1CE", "T2"]
    assert one.patient == other.patient != meningioma.patient
    assert one.annotated == ["tumour_necrotic_core", "tumour_oedema", "tumour_enhancing"]
    assert one.drawn == ["tumour_necrotic_core", "tumour_enhancing"]


def test_a_resection_cavity_is_expected_after_treatment_only(tmp_path: Path) -> None:
    brats(tmp_path / "raw", "BraTS-GLI-00002-100", 4)
    brats(tmp_path / "raw", "BraTS-GLI-00003-000", 4)
    after, before = taken(tmp_path / "raw")
    assert after.quarantined == ""
    assert "label value 4 outside the contract (0, 1, 2, 3)" in before.quarantined


def test_names_without_an_occasion_and_of_ones_own_are_read_as_the_later_years(tmp_path: Path) -> None:
    brats(tmp_path / "raw", "BraTS-GoAT-00001")
    brats(tmp_path / "raw", "case7")
    assert {row.source for row in usable(taken(tmp_path / "raw"))} == {"brats-goat", "brats"}


def test_a_file_is_of_one_layout(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    image(raw / "images/volume-0.nii.gz", 1, ct=True)
    save(raw / "labels/segmentation-0.nii.gz", LABEL)
    (row,) = usable(taken(raw))
    assert (row.source, row.annotated) == ("lits", ["liver", "liver_tumour"])


def test_values_that_changed_from_year_to_year_have_to_be_said(tmp_path: Path) -> None:
    brats(tmp_path / "raw", "BraTS-PED-00001-000", 2)
    (row,) = taken(tmp_path / "raw")
    assert "say it in params.yaml, data.labels: {brats-ped: {1: a structure}}" in row.quarantined
    (row,) = usable(taken(tmp_path / "raw", {"brats-ped": {"1": "tumour_enhancing", "2": "ignore"}}))
    assert row.annotated == ["tumour_enhancing"]


def test_a_value_of_a_known_contract_can_be_said_otherwise(tmp_path: Path) -> None:
    folder = tmp_path / "raw/BraTS2021_00001"
    image(folder / "BraTS2021_00001_flair.nii.gz")
    save(folder / "BraTS2021_00001_seg.nii.gz", np.where(LABEL == 2, 3, LABEL).astype(np.uint8))
    assert "label value 3 outside the contract (0, 1, 2, 4)" in taken(tmp_path / "raw")[0].quarantined
    (row,) = usable(taken(tmp_path / "raw", {"brats": {"3": "tumour_enhancing"}}))
    assert row.drawn == ["tumour_necrotic_core", "tumour_enhancing"]


def total(raw: Path, case: str, masks: Mapping[str, int], image_name: str = "ct") -> None:
    image(raw / case / f"{image_name}.nii.gz", len(case), ct=image_name == "ct")
    for name, value in masks.items():
        save(raw / case / "segmentations" / f"{name}.nii.gz", (value == LABEL).astype(np.uint8))


def test_totalsegmentators_masks_become_one_label_and_tell_what_was_annotated(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    total(raw / "Totalsegmentator_dataset_v201", "s0001", {"spleen": 1, "kidney_left": 2, "aorta": 9})
    total(raw / "TotalsegmentatorMRI_dataset_v200", "s0001", {"spleen": 1}, "mri")
    mr, ct = usable(taken(raw))
    assert (ct.source, mr.source) == ("totalsegmentator-v201", "totalsegmentator-mri-v200")
    assert ct.case_id != mr.case_id  # both sets count from one
    assert (ct.modalities, mr.modalities) == (["CT"], ["MR"])
    assert sorted(ct.annotated) == ["aorta", "kidney_left", "spleen"]
    assert ct.drawn == ["kidney_left", "spleen"]  # an empty mask: looked for, and not there
    words = vocabulary.default()
    assert np.unique(labels.read(ct)).tolist() == sorted([0, words["spleen"].id, words["kidney_left"].id])


def test_a_mask_of_an_unknown_name_is_told_and_can_be_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    total(raw, "hospital_7", {"spleen": 1, "spleeen_bit": 2, "scapulette": 2})
    (row,) = taken(raw)
    assert "data.labels: {totalsegmentator: {" in row.quarantined
    assert '"scapulette": background' in row.quarantined
    own = {"scapulette": "background", "spleeen_bit": "ignore"}
    (row,) = usable(taken(raw, {"totalsegmentator": own}))
    assert contracts(row) == {"1=spleen", "1=ignore"}
    assert claims.unread_below(raw, tuple(readers())) == claims.Unread({}, [], [])  # a mask that is not read is claimed


def test_a_hundred_masks_do_not_count_as_a_hundred_volumes_in_memory(tmp_path: Path) -> None:
    total(tmp_path / "raw", "s0001", {"spleen": 1})
    listed = listing.take(tmp_path / "raw", tmp_path / "digests.sqlite")
    (row,) = finding.find(tmp_path / "raw", listed, ("totalsegmentator",))
    two = examination.load_of(0, Row(**{**vars(row), "files": [*row.files, *row.labels]}))
    many = examination.load_of(0, Row(**{**vars(row), "files": [*row.files, *row.labels * 100]}))
    assert many.memory_bytes == two.memory_bytes


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_lits_is_read_beside_and_in_folders_apart(tmp_path: Path, ending: str) -> None:
    raw = tmp_path / "raw"
    for number in range(2):
        image(raw / "one" / f"volume-{number}{ending}", number, ct=True)
    save(raw / "one" / f"segmentation-0{ending}", LABEL)
    save(raw / "two" / f"segmentation-1{ending}", LABEL)
    image(raw / f"test-volume-0{ending}", 7, ct=True)
    save(raw / f"segmentation-130{ending}", LABEL)
    rows = taken(raw)
    assert [row.quarantined for row in rows if not row.images] == ["segmentation-130" + ending + ": a segmentation wi"
        "thout its volume"]  # fmt: skip
    assert sorted(row.annotated for row in usable([row for row in rows if row.images])) == [
        [],
        ["liver", "liver_tumour"],
        ["liver", "liver_tumour"],
    ]


AMOS = ["background", "spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "arota",
        "postcava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder",
        "prostate/uterus"]  # fmt: skip


def test_amos_is_read_by_its_index_and_its_numbers_tell_ct_from_mr(tmp_path: Path) -> None:
    raw = tmp_path / "raw/amos22"
    entries: dict[str, list[dict[str, str]]] = {"training": [], "validation": [], "test": []}
    for name, part, folder in (
        ("amos_0001", "training", "Tr"),
        ("amos_0507", "validation", "Va"),
        ("amos_0002", "test", "Ts"),
    ):
        image(raw / f"images{folder}/{name}.nii.gz", int(name[-3:]), ct=name < "amos_05")
        entries[part].append({"image": f"./images{folder}/{name}.nii.gz"})
        if part != "test":
            save(raw / f"labels{folder}/{name}.nii.gz", LABEL)
            entries[part][-1]["label"] = f"./labels{folder}/{name}.nii.gz"
    index = {
        "name": "AMOS",
        "modality": {"0": "CT", "1": "MR"},
        "tensorImageSize": "3D",
        "labels": {str(value): name for value, name in enumerate(AMOS)},
    }
    (raw / "dataset.json").write_text(json.dumps({**index, **entries}))
    rows = usable(taken(tmp_path / "raw"))
    assert {row.source for row in rows} == {"msd-amos"}
    assert sorted((row.modalities, len(row.annotated)) for row in rows) == [(["CT"], 0), (["CT"], 15), (["MR"], 15)]
    assert {"aorta", "inferior_vena_cava", "urinary_bladder"} <= set(rows[0].annotated or rows[1].annotated)


@pytest.mark.parametrize("folders", [("imagesTr", "labelsTr"), ("images", "labels")])
def test_flare_2022_is_known_by_its_names_and_later_years_have_to_be_said(
    tmp_path: Path, folders: tuple[str, str]
) -> None:
    raw = tmp_path / "raw"
    for name in ("FLARE22_Tr_0001", "FLARE23_0001"):
        image(raw / "flare" / folders[0] / f"{name}_0000.nii.gz", 1, ct=True)
        save(raw / "flare" / folders[1] / f"{name}.nii.gz", LABEL)
    known, later = taken(raw)
    assert (known.source, known.quarantined, len(known.annotated)) == ("flare-22", "", 13)
    assert known.drawn == ["liver", "kidney_right"]
    assert "data.labels: {flare-23: {1: a structure}}" in later.quarantined


def pair(raw: Path, name: str, *images: str) -> None:
    for number, each in enumerate(images or (name,)):
        image(raw / "images" / f"{each}.nii.gz", number)
    save(raw / "labels" / f"{name}.nii.gz", LABEL)


def test_a_plain_pair_of_folders_means_what_params_say(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    pair(raw / "Knee study", "a")
    pair(raw / "Knee study", "b")
    pair(raw / "other", "a")
    assert "data.labels: {pairs-knee-study: {1: a structure}}" in taken(raw)[0].quarantined
    meanings = {"pairs-knee-study": {"1": "spleen", "2": "background"}, "pairs": {"1": "liver", "2": "ignore"}}
    assert "data.modality: {pairs-knee-study: CT}" in taken(raw, meanings)[0].quarantined
    knee, _, other = usable(taken(raw, meanings, {"pairs-knee-study": ("T1",), "pairs": ("PD",)}))
    assert (knee.source, knee.modalities, knee.annotated) == ("pairs-knee-study", ["T1"], ["spleen"])
    assert (other.source, other.modalities, other.annotated) == ("pairs-other", ["PD"], ["liver"])
    assert knee.patient != other.patient


def test_a_pairs_image_may_be_called_after_its_modality_or_channel(tmp_path: Path) -> None:
    raw, meanings = tmp_path / "raw", {"pairs": {"1": "spleen", "2": "liver"}}
    pair(raw / "by_name", "p1", "p1_t1gd", "p1-FLAIR")
    pair(raw / "by_name", "p2_MR")
    pair(raw / "by_number", "p1", "p1_0000", "p1_0001")
    image(raw / "by_number/images/p2_0000.nii.gz", 3)
    image(raw / "by_number/images/p2_0001.nii.gz", 4)
    rows = usable(taken(raw, meanings, {"pairs-by-number": ("T1", "T2")}))
    assert sorted((row.source, row.modalities, len(row.labels)) for row in rows) == [
        ("pairs-by-name", ["FLAIR", "T1CE"], 1),
        ("pairs-by-name", ["MR"], 1),
        ("pairs-by-number", ["T1", "T2"], 0),
        ("pairs-by-number", ["T1", "T2"], 1),
    ]
    told = taken(raw, meanings, {"pairs-by-number": ("T1",)})
    assert sum("nothing says what it shows" in row.quarantined for row in told) == 2
    told = taken(raw, meanings, {"pairs-by-number": ("T1", "T1")})
    assert sum("gives two of its channels one modality" in row.quarantined for row in told) == 2


def decathlon(raw: Path, task: str, **changes: Any) -> Path:
    """A 4-D task: channel k of scan s is a field of its own."""
    stem = f"{task.lower()}_001"
    fields = np.stack([np.random.default_rng(k).integers(1, 500, SHAPE) for k in range(2)], -1).astype(np.int16)
    folder = raw / f"Task05_{task}"
    save(folder / f"imagesTr/{stem}.nii.gz", fields)
    save(folder / f"labelsTr/{stem}.nii.gz", LABEL)
    index = {
        "name": task.upper(),
        "modality": {"0": "T2", "1": "ADC"},
        "labels": {"0": "background", "1": "spleen", "2": "prostate"},
        "training": [{"image": f"./imagesTr/{stem}.nii.gz", "label": f"./labelsTr/{stem}.nii.gz"}],
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps({key: value for key, value in index.items() if value is not None}))
    return folder


def test_channels_of_a_4d_file_are_the_channels_of_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = decathlon(Path("raw"), "Prostate")
    (row,) = usable(taken(Path("raw")))
    assert row.modalities == ["ADC", "T2"]
    assert [file.path.rpartition("#")[2] for file in row.images] == ["1", "0"]
    assert len({file.content for file in row.images}) == 2
    for file in row.images:
        expected = np.random.default_rng(int(file.path[-1])).integers(1, 500, SHAPE)
        np.testing.assert_array_equal(scan_files.read(row, file).array, expected.transpose(2, 1, 0))
    assert claims.unread_below(Path("raw"), tuple(readers())).unclaimed == []
    save(folder / "imagesTr/prostate_001.nii.gz", np.ones(SHAPE, np.int16))
    assert "has no channel number 1" in taken(Path("raw"))[0].quarantined


def test_other_4d_files_are_refused_by_name(tmp_path: Path) -> None:
    decathlon(tmp_path / "raw", "Cine", modality={"0": "MRI"})
    (row,) = taken(tmp_path / "raw")
    assert "cine_001.nii.gz: has 4 dimensions (6, 7, 8, 2) where 3 are due" in row.quarantined


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"modality": None}, "modality must map names, it is NoneType"),
        ({"modality": {"0": "heat"}}, "channel '0' is called 'heat'; known are CT, MR"),
        ({"modality": {"0": "T2", "1": "T2w"}}, "two channels are called 'T2w'"),
        ({"training": None}, "training must list scans, it is empty or missing"),
        ({"training": 5}, "training must list scans, it is int"),
        ({"training": [{"label": "x"}]}, "an entry must be a path, or paths as image and label"),
        ({"name": 7}, "name must be text, it is int"),
        ({"labels": None}, "labels must map values to names, it is NoneType"),
        ({"labels": {"a": "b"}}, "labels must map values to names, as in"),
    ],
)
def test_what_a_decathlon_index_lacks_is_told(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    decathlon(tmp_path / "raw", "Prostate", **changes)
    (row,) = taken(tmp_path / "raw")
    assert told in row.quarantined
    assert "dataset.json" in row.quarantined


def test_endings_in_capitals_are_claimed_in_every_layout(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    brats(raw, "BraTS-GLI-00001-000")
    total(raw, "s0001", {"spleen": 1})
    decathlon(raw, "Prostate")
    pair(raw / "p", "x")
    image(raw / "volume-1.nii.gz", 3, ct=True)
    image(raw / "images/FLARE22_Tr_0001_0000.nii.gz", 4, ct=True)
    before = len(finding.find(raw, listing.take(raw, tmp_path / "digests.sqlite"), tuple(readers())))
    for path in list(raw.rglob("*.nii.gz")):
        path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))
    assert claims.unread_below(raw, tuple(readers())).unclaimed == []
    after = finding.find(raw, listing.take(raw, tmp_path / "digests.sqlite"), tuple(readers()))
    assert len(after) == before == 6
    assert not [row for row in after if "missing" in row.quarantined]


@pytest.mark.parametrize(
    "path",
    [
        "brats/BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f.nii.gz",
        "lits/volume-130.nii",
        "imagesTr/FLARE22_Tr_0001_0000.nii.gz",
        "amos22/imagesTr/amos_0507.nii.gz",
        "s0001/ct.nii.gz",
    ],
)
def test_running_numbers_of_published_sets_name_nobody(path: str) -> None:
    assert published(path)


def test_published_numbers_need_no_key(tmp_path: Path) -> None:
    names = Names(Pseudonyms(b"1" * 32))
    for source, own in (("brats", "BraTS-GLI-00001"), ("lits", "volume-7"), ("flare", "FLARE22_Tr_0001"),
                        ("msd", "amos/amos_0001"), ("totalsegmentator", "v201/s0001")):  # fmt: skip
        names.identifier(source, own)
    assert (names.source("brats", "gli"), names.source("totalsegmentator", "v201"), names.keyed) == (
        "brats-gli", "totalsegmentator-v201", False,
    )  # fmt: skip
    names.identifier("lits", "volume-4711")
    assert names.keyed
