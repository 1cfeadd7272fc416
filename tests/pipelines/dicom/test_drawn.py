"""Labels as other tools write them: outlines through voxel centres, crumbs, codes of findings, older codes."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from pipelines.dicom.polygon import filled
from pipelines.scans.label_names import structure_of
from tests.pipelines.dicom import dicom_files as files
from tests.pipelines.dicom.test_labels import label_of, segmented
from tests.pipelines.dicom.test_series import brought, volume_of

KIDNEY, LIVER, BRAIN, CYST, EDEMA, NEOPLASM = (
    "64033007", "10200004", "12738006", "367643001", "79654002", "108369006",
)  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    files.series(tmp_path / "raw" / "s", files.voxels(8, 32, 32), origin_mm=(0.0, 0.0, 0.0))
    return tmp_path / "raw"


def box(low: float, high: float) -> np.ndarray:
    """Corners as (row, column)."""
    return np.array([[low, low], [low, high], [high, high], [high, low]], dtype=float)


def drawn(raw: Path, *contours: tuple[int, np.ndarray]) -> None:
    """An RTSTRUCT of a liver: (slice, corners) on the series of the fixture."""
    lines = [np.insert(corners[:, ::-1] * (0.7, 0.8), 2, 2.5 * k, axis=1) for k, corners in contours]
    files.structure_set(raw / "rt.dcm", dcmread(next((raw / "s").glob("*.dcm"))), {"Liver": lines})


def volume(raw: Path) -> dict[str, Any]:
    (record,) = brought(raw)
    found = record["volumes"][0]
    return {**found, "label": label_of(record) if found["label"] else None}


def test_an_outline_through_voxel_centres_has_them_inside_on_all_sides(raw: Path) -> None:
    drawn(raw, *((k, box(8, 13)) for k in (2, 3, 4)))
    found = volume(raw)["label"]
    assert (found > 0).sum() == 108
    assert (found[2:5, 8:14, 8:14] > 0).all()


def test_a_hole_is_cut_out_without_its_rim(raw: Path) -> None:
    drawn(raw, *((k, corners) for k in (2, 3, 4) for corners in (box(6, 15), box(9, 12))))
    found = volume(raw)["label"][3] > 0
    assert found.sum() == 100 - 4
    assert not found[10:12, 10:12].any()


def test_contours_of_one_or_two_points_are_left_out_and_counted(raw: Path) -> None:
    crumbs = [(5, box(9, 10)[:2]), (6, box(9, 10)[:1])]
    drawn(raw, *((k, box(8.5, 14.5)) for k in (2, 3, 4)), *crumbs)
    found = volume(raw)
    assert (found["label"] > 0).sum() == 108
    assert found["notes"] == ["2 contours of fewer than 3 points: left out"]


def test_a_single_crumb_is_told_in_the_singular(raw: Path) -> None:
    drawn(raw, (2, box(8.5, 14.5)), (5, box(9, 10)[:2]))
    assert volume(raw)["notes"] == ["1 contour of fewer than 3 points: left out"]


@pytest.mark.parametrize("turn_deg", [0, 45, 90])
def test_a_mask_and_its_outline_are_the_same(turn_deg: int) -> None:
    """A diamond and a square with corners on centres: |r| + |c| <= 6, or max <= 6."""
    turn = np.radians(turn_deg)
    reach = 6 * (np.sqrt(2) if turn_deg != 45 else 1)
    angle = np.pi / 4 + turn + np.pi / 2 * np.arange(4)
    corners = 16 + reach * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    row, column = np.indices((32, 32)) - 16
    wanted = (abs(row) + abs(column) if turn_deg == 45 else np.maximum(abs(row), abs(column))) <= 6
    inside, on = filled(corners, (32, 32))
    assert np.array_equal(inside | on, wanted)
    assert not (inside & on).any()
    assert on.sum() == (24 if turn_deg == 45 else 48)


def test_an_outline_that_leaves_the_image_is_cut_at_its_border() -> None:
    inside, on = filled(box(-1e9, 1e9), (32, 32))
    assert inside.all()
    assert not on.any()
    inside, on = filled(box(40, 50), (32, 32))
    assert not (inside | on).any()


def beside(raw: Path, name: str, columns: int) -> None:
    affine = volume_of(brought(raw)[0]).affine
    drawn_there = np.roll(mask(), columns, axis=2).transpose(2, 1, 0)
    nib.save(nib.Nifti1Image(drawn_there, affine), raw / "s" / f"{name}.nii.gz")


def test_nifti_labels_of_two_sides_are_both_taken_and_one_alone_is_that_side(raw: Path) -> None:
    beside(raw, "kidney left", 0)
    assert volume(raw)["annotated"] == ["kidney_left"]
    (raw / "s" / "kidney left.nii.gz").rename(raw / "left")
    beside(raw, "kidney right", 8)
    (raw / "left").rename(raw / "s" / "kidney left.nii.gz")
    found = volume(raw)
    assert (found["label"] > 0).sum() == 216
    assert found["notes"] == []


def test_a_nifti_label_and_an_object_of_one_structure_are_told(raw: Path) -> None:
    beside(raw, "liver", 8)
    segmented(raw, mask(), ["Liver"])
    found = volume(raw)
    assert (found["label"] > 0).sum() == 216
    assert found["notes"][0].startswith("2 objects drew liver")


def test_a_nifti_label_beside_the_series_may_end_in_capitals(raw: Path) -> None:
    affine = volume_of(brought(raw)[0]).affine
    nib.save(nib.Nifti1Image(mask().transpose(2, 1, 0), affine), raw / "s" / "liver.nii.gz")
    (raw / "s" / "liver.nii.gz").rename(raw / "s" / "LIVER.NII.GZ")
    assert (volume(raw)["label"] > 0).sum() == 108


# Codes


def coded(value: str, scheme: str = "SCT", region: str = "") -> Any:
    """A change of every segment's code, and of its anatomic region."""

    def change(seg: Dataset) -> None:
        for item in seg.SegmentSequence:
            code = item.SegmentedPropertyTypeCodeSequence[0]
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, "x"
            if region:
                item.AnatomicRegionSequence = [
                    files._item(CodeValue=region, CodingSchemeDesignator="SCT", CodeMeaning="x")
                ]

    return change


def mask() -> np.ndarray:
    result = np.zeros((8, 32, 32), dtype=np.uint8)
    result[2:5, 8:14, 8:14] = 1
    return result


@pytest.mark.parametrize(
    ("name", "change", "structures"),
    [
        ("Hepatic cyst", coded(CYST), []),
        ("Segment 1", coded(CYST), []),
        ("Segment 1", coded(CYST, region=LIVER), []),
        ("Segment 1", coded(CYST, region=KIDNEY), ["kidney_cyst"]),
        ("Edema", coded(EDEMA), []),
        ("Edema", coded(EDEMA, region=BRAIN), ["tumour_oedema"]),
        ("tumor edema", coded(EDEMA), ["tumour_oedema"]),
        ("Segment 1", coded("T-62000", "SRT"), ["liver"]),
        ("Segment 1", coded("T-62000", "99SDM"), ["liver"]),
        ("Segment 1", coded("T-99999", "SRT"), []),
    ],
)
def test_a_finding_counts_with_its_organ_and_older_codes_are_known(
    raw: Path, name: str, change: Any, structures: list[str]
) -> None:
    segmented(raw, mask(), [name], change=change)
    assert volume(raw)["annotated"] == structures


@pytest.mark.parametrize(
    ("code", "region", "structure"),
    [
        (EDEMA, "", None), (EDEMA, BRAIN, "tumour_oedema"), (EDEMA, LIVER, None), (CYST, "9846003", "kidney_cyst"),
        (NEOPLASM, "", None), (NEOPLASM, LIVER, "liver_tumour"), (NEOPLASM, BRAIN, "tumour_enhancing"),
        (LIVER, "", "liver"), (LIVER, "818983003", "liver"),
    ],
)  # fmt: skip
def test_the_code_of_a_finding_says_nothing_without_its_organ(code: str, region: str, structure: str | None) -> None:
    assert structure_of(code, "Segment 1", region) == structure


@pytest.mark.parametrize("name", ["Background", "Segment 2"])
def test_a_background_segment_is_no_unknown_structure(raw: Path, name: str) -> None:
    def change(seg: Dataset) -> None:
        code = seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0]
        if name != "Background":
            code.CodeValue, code.CodingSchemeDesignator = "125040", "DCM"

    segmented(raw, np.stack([mask(), 1 - mask()], axis=-1), ["Liver", name], change=change)
    found = volume(raw)
    assert (found["annotated"], found["notes"]) == (["liver"], [])
    assert (found["label"] > 0).sum() == 108


def test_two_objects_that_drew_one_structure_are_told(raw: Path) -> None:
    for folder in ("one", "two"):
        segmented(raw, mask(), ["Liver"], folder=folder)
    notes = volume(raw)["notes"]
    assert notes == ["2 objects drew liver: all of what they drew was taken; leave one if they are versions"]


def test_the_two_sides_of_a_pair_in_two_objects_are_no_versions(raw: Path) -> None:
    segmented(raw, mask(), ["Left kidney"], folder="one")
    segmented(raw, np.roll(mask(), 8, axis=2), ["Right kidney"], folder="two")
    assert volume(raw)["notes"] == []


def test_a_side_in_a_code_counts_as_one_in_the_name(raw: Path) -> None:
    def left(seg: Dataset) -> None:
        side = files._item(CodeValue="7771000", CodingSchemeDesignator="SCT", CodeMeaning="Left")
        code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
        code.SegmentedPropertyTypeModifierCodeSequence = [side]

    segmented(raw, mask(), ["Kidney"], change=left)
    assert volume(raw)["annotated"] == ["kidney_left"]
