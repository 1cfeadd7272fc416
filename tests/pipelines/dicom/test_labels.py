"""Labels drawn on a DICOM series land on its voxels: SEG as highdicom writes it, RTSTRUCT, NIfTI beside the series."""

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.codedict import codes

from pipelines.intake import examination, finding
from pipelines.scans import vocabulary
from pipelines.scans.label_names import structure_of
from tests.pipelines.dicom import dicom_files as files
from tests.pipelines.dicom.test_series import brought, volume_of

KIDNEY, TUMOUR, CYST = (vocabulary.default()[name].id for name in ("kidney", "kidney_tumour", "kidney_cyst"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


def described(number: int, label: str, code: Any = None) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number, segment_label=label, segmented_property_category=codes.SCT.Organ,
        segmented_property_type=code or codes.SCT.Kidney, algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )  # fmt: skip


def segmented(
    raw: Path,
    mask: np.ndarray,
    names: list[str],
    kind: str = "BINARY",
    folder: str = "seg",
    on: str = "s",
    change: Any = None,
    **made: Any,
) -> None:
    """A SEG of `mask` ((n, rows, columns) or with a last axis of segments) on the series in raw/`on`. `change(seg)`:
    last word."""
    sources = sorted((dcmread(path) for path in (raw / on).glob("*.dcm")), key=lambda ds: ds.InstanceNumber)
    seg = hd.seg.Segmentation(
        source_images=sources, pixel_array=mask, segmentation_type=kind,
        segment_descriptions=[described(n, name) for n, name in enumerate(names, 1)],
        series_instance_uid=files.uid(folder, "series"), sop_instance_uid=files.uid(folder), series_number=9,
        instance_number=1, manufacturer="ACME", manufacturer_model_name="M", software_versions="1",
        device_serial_number="1", **made,
    )  # fmt: skip
    (raw / folder).mkdir(parents=True, exist_ok=True)
    if change:
        change(seg)
    seg.save_as(raw / folder / "seg.dcm")


def masks() -> tuple[np.ndarray, np.ndarray]:
    """A kidney, and a tumour inside it; (slice, row, column)."""
    kidney = np.zeros((6, 20, 24), dtype=bool)
    kidney[1:5, 4:14, 6:18] = True
    tumour = np.zeros_like(kidney)
    tumour[2:4, 6:10, 8:12] = True
    return kidney, tumour


def label_of(record: dict[str, Any]) -> np.ndarray:
    """(slice, row, column)."""
    volume = record["volumes"][0]
    assert volume["quarantined"] == ""
    label = nib.load(record["folder"] / volume["label"])
    assert np.array_equal(label.affine, volume_of(record).affine)
    return np.asarray(label.dataobj).transpose(2, 1, 0)


def test_overlapping_segments_give_the_part_over_the_whole(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    segmented(raw, np.stack([kidney, tumour], axis=-1).astype(np.uint8), ["Kidneys", "Kidney tumor"])
    (record,) = brought(raw)
    assert np.array_equal(label_of(record), np.where(tumour, TUMOUR, np.where(kidney, KIDNEY, 0)))
    assert record["volumes"][0]["annotated"] == ["kidney", "kidney_tumour"]
    assert record["volumes"][0]["notes"] == [
        f"structures overlap in {tumour.sum()} voxels: the smaller one was taken there"
    ]


def test_a_kidney_of_one_side_is_that_kidney_and_the_other_stays_unknown(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    segmented(raw, kidney.astype(np.uint8), ["Left kidney"])
    (record,) = brought(raw)
    assert record["volumes"][0]["annotated"] == ["kidney_left"]
    segmented(raw, np.stack([kidney, tumour], axis=-1).astype(np.uint8), ["Left kidney", "Right Kidney"])
    (record,) = brought(raw)
    assert np.array_equal(label_of(record) > 0, kidney | tumour)
    assert sorted(record["volumes"][0]["annotated"]) == ["kidney_left", "kidney_right"]


def test_a_label_map_segmentation_is_read_by_its_values(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    segmented(raw, np.where(tumour, 2, kidney).astype(np.uint8), ["kidney", "renal cyst"], "LABELMAP")
    (record,) = brought(raw)
    assert np.array_equal(label_of(record), np.where(tumour, CYST, np.where(kidney, KIDNEY, 0)))


def test_a_fractional_segmentation_is_cut_at_a_half(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    share = np.where(tumour, 0.75, np.where(kidney, 0.25, 0.0)).astype(np.float32)
    segmented(raw, share, ["kidney"], "FRACTIONAL")
    (record,) = brought(raw)
    assert np.array_equal(label_of(record) > 0, tumour)


def test_a_segment_that_is_no_structure_of_the_system_is_left_out_and_never_quoted(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    stacked = np.stack([kidney, tumour], axis=-1).astype(np.uint8)
    segmented(raw, stacked, ["kidney", "Quillfeather contour 2"])
    seg = dcmread(raw / "seg" / "seg.dcm")
    seg.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeValue = "99999999"  # nobody's
    seg.save_as(raw / "seg" / "seg.dcm")
    (record,) = brought(raw)
    assert np.array_equal(label_of(record) > 0, kidney)
    assert "1 segment is no structure of the vocabulary" in record["volumes"][0]["notes"][0]
    assert "uillfeather" not in json.dumps(record, default=str)


def test_a_segmentation_of_another_series_is_refused_with_the_reason(raw: Path) -> None:
    kidney, _ = masks()
    files.series(raw / "s")
    segmented(raw, kidney.astype(np.uint8), ["kidney"])
    for path in (raw / "s").glob("*.dcm"):
        path.unlink()
    files.series(raw / "t", series="t", study="b")
    refused = [record for record in brought(raw) if record["quarantined"]]
    assert [record["quarantined"] for record in refused] == [
        "a segmentation drawn on a series that is not in the folder"
    ]


def test_contours_are_filled_where_the_voxel_centre_is_inside_and_inner_ones_are_holes(raw: Path) -> None:
    files.series(raw / "s", files.voxels(6, 60, 60), origin_mm=(0.0, 0.0, 0.0))
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)

    def circle(radius_mm: float, z_mm: float) -> np.ndarray:
        return np.stack([20 + radius_mm * np.cos(angle), 24 + radius_mm * np.sin(angle), np.full(200, z_mm)], axis=1)

    lines = [circle(radius, 2.5 * k) for k in (1, 2, 3) for radius in (12.0, 5.0)]
    files.structure_set(
        raw / "rt.dcm", dcmread(next((raw / "s").glob("*.dcm"))), {"Kidneys": lines, "Contour 2": lines[:1]}
    )
    (record,) = brought(raw)
    label = label_of(record)
    y, x = np.meshgrid(0.8 * np.arange(60), 0.7 * np.arange(60), indexing="ij")
    distance = np.hypot(x - 20, y - 24)
    assert np.array_equal(label[2] > 0, (distance < 12) & (distance > 5))
    assert not label[[0, 4, 5]].any()
    assert "1 segment is no structure" in record["volumes"][0]["notes"][0]


def test_a_label_on_a_tilted_series_is_corrected_with_it(raw: Path) -> None:
    kidney, _ = masks()
    stored = np.where(kidney, 500, 0).astype(np.int16) + files.voxels() // 50
    files.series(raw / "s", stored, "MR", step_mm=(0, 0.8, 2.5))
    segmented(raw, kidney.astype(np.uint8), ["kidney"])
    (record,) = brought(raw)
    label, image = label_of(record), np.asarray(volume_of(record).dataobj).transpose(2, 1, 0)
    assert label.shape == image.shape == (6, 25, 24)
    assert np.array_equal(label > 0, image > 250)


def test_a_nifti_label_beside_the_series_is_taken_by_its_name_or_its_json(raw: Path) -> None:
    kidney, tumour = masks()
    files.series(raw / "s")
    (record,) = brought(raw)
    affine = volume_of(record).affine
    nib.save(nib.Nifti1Image(kidney.astype(np.uint8).transpose(2, 1, 0), affine), raw / "s" / "kidney.nii.gz")
    both = np.where(tumour, 7, 0).astype(np.uint8).transpose(2, 1, 0)
    nib.save(nib.Nifti1Image(both, affine), raw / "s" / "drawn by someone.nii")
    (raw / "s" / "drawn by someone.json").write_text('{"7": "kidney_tumour"}')
    (record,) = brought(raw)
    assert np.array_equal(label_of(record), np.where(tumour, TUMOUR, np.where(kidney, KIDNEY, 0)))
    wrong = affine.copy()
    wrong[0, 3] += 5
    nib.save(nib.Nifti1Image(kidney.astype(np.uint8).transpose(2, 1, 0), wrong), raw / "s" / "kidney.nii.gz")
    (record,) = brought(raw)
    assert "does not lie on the series' grid" in record["volumes"][0]["quarantined"]


def test_series_of_one_study_on_one_grid_make_one_scan_with_the_label(raw: Path) -> None:
    kidney, _ = masks()

    def weighted(echo: float, repetition: float) -> Any:
        return lambda ds, k: (setattr(ds, "EchoTime", echo), setattr(ds, "RepetitionTime", repetition))

    files.series(raw / "s", modality="MR", series="t2", change=weighted(90, 4000))
    segmented(raw, kidney.astype(np.uint8), ["kidney"])
    files.series(raw / "t", files.voxels(seed=1), modality="MR", series="t1", change=weighted(10, 500))
    files.series(raw / "u", files.voxels(4), modality="MR", series="other grid", change=weighted(10, 500))
    brought(raw)
    rows = examination.examine(finding.find_deidentified(raw.parent / "deidentified", raw.parent / "digests.sqlite"))
    assert [row.quarantined for row in rows] == ["", ""]
    assert sorted(row.modalities for row in rows) == [["T1"], ["T1", "T2"]]
    assert [row.annotated for row in rows if row.labels] == [["kidney"]]
    assert len({row.patient for row in rows}) == 1


@pytest.mark.parametrize(
    ("code", "name", "structure"),
    [
        ("", "Kidney", "kidney"), ("", "KIDNEY_LEFT", "kidney_left"), ("", "Left Ventricle", "left_ventricle"),
        ("64033007", "anything", "kidney"), ("", "hippocampus anterior", "hippocampus_anterior"),
        ("5366008", "x", "hippocampus"), ("108369006", "Kidney tumor", "kidney_tumour"), ("", "brain salad", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_a_structure_is_known_by_name_or_by_an_unambiguous_code(code: str, name: str, structure: str | None) -> None:
    assert structure_of(code, name) == structure
