"""BIDS and nnU-Net raw, as people really lay them out: what becomes one scan, and what its label values mean."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.intake import examination, finding, listing
from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS, contract_of
from pipelines.scans.label_names import contract_by_name
from pipelines.scans.manifest import Row
from tests.conftest import save

LABEL = np.zeros((6, 7, 8), np.uint8)
LABEL[1:4, 1:4, 1:4], LABEL[4:5, 4:6, 4:6] = 1, 2


def image(path: Path, seed: int, shape: tuple[int, ...] = LABEL.shape) -> None:
    save(path, np.random.default_rng(seed).integers(1, 500, shape).astype(np.int16))


def taken(raw: Path, *sources: str) -> list[Row]:
    listed = listing.take(raw, raw.parent / "digests.sqlite")
    return examination.examine(finding.find(raw, listed, sources or ("msd", "bids", "nnunet")))


def contract_in(row: Row) -> str:
    (label,) = row.labels
    return label.contract


def the_row(raw: Path, *sources: str) -> Row:
    (row,) = taken(raw, *sources)
    return row


def dataset(raw: Path, **changes: Any) -> Path:
    """nnU-Net raw: two abdominal CTs with labels, one without."""
    folder = raw / "Dataset042_Abdomen"
    for seed, name in enumerate(("imagesTr/a_0000", "imagesTr/b_0000", "imagesTs/c_0000")):
        image(folder / f"{name}.nii.gz", seed)
    for name in "ab":
        save(folder / f"labelsTr/{name}.nii.gz", LABEL)
    index = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "tumor": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
        **changes,
    }
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


def test_an_nnunet_data_set_is_read_by_the_names_in_its_index(tmp_path: Path) -> None:
    dataset(tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    assert [row.quarantined for row in rows] == ["", "", ""]
    assert {row.source for row in rows} == {"nnunet-abdomen"}
    assert [row.modalities for row in rows] == [["CT"]] * 3
    assert [row.annotated for row in rows] == [["liver", "liver_tumour"]] * 2 + [[]]
    assert contract_in(rows[0]) == "1=liver 2=liver_tumour"


def test_nnunet_channels_are_one_scan_and_a_missing_one_is_told(tmp_path: Path) -> None:
    folder = dataset(
        tmp_path / "raw", channel_names={"0": "T1", "1": "T1Gd"}, labels={"background": 0, "ED": 1, "ET": 2}
    )
    image(folder / "imagesTr/a_0001.nii.gz", 10)
    rows = taken(tmp_path / "raw")
    assert rows[0].modalities == ["T1", "T1CE"]
    assert "channel 0001 (T1CE) is missing" in rows[1].quarantined


def test_frames_of_one_patient_in_nnunet_stay_together(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "raw")
    for frame in ("patient007_frame01", "patient007_frame12", "patient008_frame01"):
        image(folder / f"imagesTs/{frame}_0000.nii.gz", hash(frame) % 1000)
    patients = [row.patient for row in taken(tmp_path / "raw") if "patient00" in row.files[0].path]
    assert len(patients) == 3
    assert len(set(patients)) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"labels": {"background": 0, "livr": 1, "tumor": 2}},
            "no structure is called 'livr'",
        ),
        ({"labels": {"background": 1, "liver": 0}}, "a structure has label value 0"),
        ({"labels": ["liver"]}, "labels must map names, it is list"),
        ({"channel_names": {"0": "heat"}}, "channel '0' is called 'heat'"),
        ({"channel_names": {"0": "CT", "1": "CT"}}, "two channels are called 'CT'"),
        ({"file_ending": ".png"}, "file_ending '.png' is not read"),
        ({"dataset": {"a": {"images": ["../../secret.nii.gz"]}}}, "names a file out of the folder"),
        ({"dataset": {"a": {"images": ["/etc/passwd"]}}}, "names a file out of the folder"),
        ({"dataset": {"a": {"images": ["imagesTr/x_0000.nii.gz"]}}}, "listed in dataset.json but missing"),
        ({"dataset": {"a": {"images": 5}}}, "must give images (a list)"),
    ],
)
def test_an_nnunet_index_that_cannot_be_meant_is_refused_with_the_reason(
    tmp_path: Path, changes: Mapping[str, Any], told: str
) -> None:
    dataset(tmp_path / "raw", **changes)
    rows = taken(tmp_path / "raw")
    assert rows
    assert all(told in row.quarantined for row in rows if row.labels or "dataset" in changes or not row.files)
    assert any(told in row.quarantined for row in rows)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '"text"', "\udcff"])
def test_an_index_that_is_no_json_stops_nobody(tmp_path: Path, content: str) -> None:
    folder = dataset(tmp_path / "raw")
    (folder / "dataset.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert all("not a readable" in row.quarantined for row in taken(tmp_path / "raw"))


@pytest.mark.parametrize(
    ("labels", "image", "told"),
    [
        ({"0": "background", "1": "spleen", "2": "liver"}, "./imagesTr/a_0000.nii.gz", ""),
        (
            {"0": "background", "1": "vessel"},
            "imagesTr/a_0000.nii.gz",
            "data.labels: {msd-organs: {",
        ),
        ({"1": "spleen", "2": "liver"}, "../../secret.nii.gz", "names a file out of the folder"),
        ({"1": "spleen", "2": "liver"}, "imagesTr/q.nii.gz", "listed in dataset.json but missing"),
        ({"1": "spleen", "2": "liver"}, 7, "not a readable MSD index (an entry must be a path"),
    ],
)
def test_an_msd_task_is_known_by_its_labels_names(
    tmp_path: Path, labels: dict[str, str], image: object, told: str
) -> None:
    folder = dataset(tmp_path / "raw")
    training = [{"image": image, "label": "labelsTr/a.nii.gz"}]
    index = {"name": "Organs", "modality": {"0": "CT"}, "labels": labels, "training": training}
    (folder.rename(tmp_path / "raw/Task99_Organs") / "dataset.json").write_text(json.dumps(index))
    row = the_row(tmp_path / "raw")
    assert told in row.quarantined if told else row.quarantined == ""
    assert told or row.annotated == ["spleen", "liver"]


def bids(raw: Path, name: str = "A study") -> Path:
    """One subject, two sessions of T1w and FLAIR; the second session's FLAIR lies on another grid."""
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "dataset_description.json").write_text(json.dumps({"Name": name, "BIDSVersion": "1.8.0"}))
    for seed, session in enumerate(("ses-1", "ses-2")):
        stem = raw / "sub-01" / session / "anat" / f"sub-01_{session}"
        image(Path(f"{stem}_T1w.nii.gz"), seed)
        image(Path(f"{stem}_FLAIR.nii.gz"), seed + 10, (6, 7, 8) if session == "ses-1" else (5, 7, 8))
    return raw


def drawn(raw: Path, name: str, table: str = "") -> Path:
    path = raw / "derivatives/manual/sub-01/ses-1/anat" / f"{name}.nii.gz"
    save(path, LABEL)
    if table:
        path.with_name(f"{name}.tsv").write_text(table)
    return path


TABLE = "index\tname\n0\tbackground\n1\ttumour core\n2\tedema\n"


def test_contrasts_of_a_bids_session_on_one_grid_are_one_scan(tmp_path: Path) -> None:
    bids(tmp_path / "raw")
    one, two = taken(tmp_path / "raw")
    assert one.quarantined == two.quarantined == ""
    assert one.modalities == ["FLAIR", "T1"]
    assert len(two.modalities) == 1
    assert "lies on another grid and is left out" in two.notes[0]
    assert one.patient == two.patient


def test_a_bids_label_keeps_the_images_on_its_own_grid(tmp_path: Path) -> None:
    raw = bids(tmp_path / "raw")
    path = raw / "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_T1w_label-whole_dseg.nii.gz"
    save(path, LABEL)
    path.with_name("sub-01_ses-2_T1w_label-whole_dseg.tsv").write_text("index\tname\n1\tnecrotic\n2\tedema\n")
    row = taken(tmp_path / "raw")[1]
    assert row.quarantined == ""
    assert row.modalities == ["T1"]
    assert row.annotated == ["tumour_necrotic_core", "tumour_oedema"]
    assert row.notes == ["channels: FLAIR lies on another grid and is left out; register it"]


@pytest.mark.parametrize(
    ("label", "table", "contract"),
    [
        ("sub-01_ses-1_dseg", "index\tname\n1\tliver\n2\tspleen\n", "1=liver 2=spleen"),
        ("sub-01_ses-1_space-T1w_dseg", "index\tname\n1\tL kidney\n2\tR kidney\n", "1=kidney_left 2=kidney_right"),
        ("sub-01_ses-1_T1w_seg-manual", "index\tname\n1\tliver\n2\tliver cancer\n", "1=liver 2=liver_tumour"),
    ],
)  # fmt: skip
def test_a_bids_label_means_what_its_table_says(tmp_path: Path, label: str, table: str, contract: str) -> None:
    drawn(bids(tmp_path / "raw"), label, table)
    row = taken(tmp_path / "raw")[0]
    assert (row.quarantined, contract_in(row)) == ("", contract)


def test_a_table_above_and_the_label_entity_and_the_data_sets_name_serve_as_well(tmp_path: Path) -> None:
    raw = bids(tmp_path / "one")
    drawn(raw, "sub-01_ses-1_dseg")
    (raw / "derivatives/manual/dseg.tsv").write_text("index\tname\n1\tliver\n2\taorta\n")
    assert contract_in(taken(raw)[0]) == "1=liver 2=aorta"
    raw = bids(tmp_path / "two")
    save(drawn(raw, "sub-01_ses-1_label-prostate_mask"), np.minimum(LABEL, 1))
    assert contract_in(taken(raw)[0]) == "1=prostate"
    raw = bids(tmp_path / "three", "Spleen")
    save(drawn(raw, "sub-01_ses-1_T1w_seg-manual"), np.minimum(LABEL, 1))
    assert contract_in(taken(raw)[0]) == "1=spleen"


@pytest.mark.parametrize(
    ("label", "table", "told"),
    [
        ("sub-01_ses-1_dseg", "", "nothing says what its values mean"),
        ("sub-01_ses-1_dseg", "a\tb\n1\t2\n", "is no table of columns index and name"),
        ("sub-01_ses-1_dseg", "index\tname\n1\tliver\n", "label value 2 outside the contract (0, 1)"),
        ("sub-01_ses-9_dseg", TABLE, "a label without an image of its name"),
    ],
)
def test_a_bids_label_without_a_meaning_is_refused(tmp_path: Path, label: str, table: str, told: str) -> None:
    drawn(bids(tmp_path / "raw"), label, table)
    assert sum(told in row.quarantined for row in taken(tmp_path / "raw")) == 1


def test_masks_of_the_brain_templates_and_probabilities_are_no_labels(tmp_path: Path) -> None:
    raw = bids(tmp_path / "raw")
    for name in ("desc-brain_mask", "space-MNI152NLin6Asym_dseg", "label-GM_probseg"):
        drawn(raw, f"sub-01_ses-1_{name}")
    assert [(row.quarantined, row.labels) for row in taken(raw)] == [("", [])] * 2


def test_several_labels_are_refused_unless_one_of_them_is_the_dseg(tmp_path: Path) -> None:
    raw = bids(tmp_path / "raw")
    for name in ("seg-one", "seg-two"):
        drawn(raw, f"sub-01_ses-1_T1w_{name}", "index\tname\n1\tliver\n2\taorta\n")
    assert "one label twice for one scan" in taken(raw)[0].quarantined
    drawn(raw, "sub-01_ses-1_T1w_dseg", "index\tname\n1\tspleen\n2\taorta\n")
    assert contract_in(taken(raw)[0]) == "1=spleen 2=aorta"


def test_a_data_set_may_move_without_changing_pseudonyms(tmp_path: Path) -> None:
    before = {row.case_id for row in taken(bids(tmp_path / "raw"))}
    assert {row.case_id for row in taken(bids(tmp_path / "other/deep").parent)} == before


@pytest.mark.parametrize(
    ("labels", "of", "contract"),
    [
        ({"Anterior": 1, "Posterior": 2}, "Hippocampus", "1=hippocampus_anterior 2=hippocampus_posterior"),
        ({"RV": 1, "MLV": 2, "LVC": 3}, "ACDC", "1=right_ventricle 2=myocardium 3=left_ventricle"),
        ({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, "KiTS2023", "1=kidney 2=kidney_tumour 3=kidney_cyst"),
        (
            {"whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
            "BraTS",
            "1=tumour_oedema 2=tumour_necrotic_core 3=tumour_enhancing",
        ),
        ({"spleen": 1, "right kidney": 2, "left kidney": 3}, "x", "1=spleen 2=kidney_right 3=kidney_left"),
        ({"kidney": 1, "ignore": 2}, "x", "1=kidney 2=ignore"),
    ],
)  # fmt: skip
def test_labels_are_known_by_the_names_their_fields_use(labels: Mapping[str, Any], of: str, contract: str) -> None:
    found = contract_by_name({"background": 0, **labels}, of)
    assert found.spelled() == contract
    assert contract_of(contract) == found


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"tumor": 1}, "called 'tumor'"),
        ({"liver": 1, "pancreas": 2, "tumor": 3}, "called 'tumor'"),  # of which?
        (
            {"lver": 1},
            'params.yaml what is meant, data.labels: {SOURCE: {"lver": liver}} (a structure, background or ignore)',
        ),
        ({"liver": True}, "whole numbers from 0 on"),
        ({"whole tumor": [1, 2], "spleen": [2], "liver": [2]}, "label value 2 covers"),
    ],
)
def test_a_name_that_could_be_something_else_is_refused(labels: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        contract_by_name(labels, "x")


def test_values_go_to_structures_and_back_also_beyond_a_byte() -> None:
    contract = contract_of("17=hippocampus_anterior 1053=spleen")
    label = np.array([[0, 17, 1053]], np.float32)
    structures, words = contract.to_structures(label), vocabulary.default()
    assert structures.tolist() == [[0, 1, words["spleen"].id]]
    np.testing.assert_array_equal(contract.from_structures(structures, words), label)
    for contract in CONTRACTS.values():
        values = np.array([0, *contract.values], np.float32)
        np.testing.assert_array_equal(contract.from_structures(contract.to_structures(values), words), values)
