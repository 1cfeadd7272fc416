"""Preparation laws, on scans and cases it really made."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines import params
from pipelines.cases.case_making import prepare_case
from pipelines.cases.preparation import CTScale, Preprocessing, SourceRecord, prepare
from pipelines.cases.resampling import resample_label
from pipelines.intake import examination, finding, listing, splits
from pipelines.scans.manifest import Row
from pipelines.scans.volume import read, restore
from pipelines.scans.volume_geometry import Geometry, Volume
from tests.tolerances import agree, rounded

NO_CT = CTScale(-1000.0, 1000.0, 0.0, 300.0)
HEART = ("right_ventricle", "myocardium", "left_ventricle")
ACDC = SourceRecord(("CINE",), HEART, (10.0, 1.5, 1.5), (10.0, 1.5, 1.5), "z_score", (8, 32, 32))
PLAN = Preprocessing(NO_CT, {"acdc": ACDC})


def volume(array: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    affine = np.diag([*reversed(spacing_mm), 1.0])
    d, h, w = array.shape
    return Volume(array.astype(np.float32), spacing_mm, affine, (w, h, d))


@pytest.fixture
def rows(cohort: Path) -> list[Row]:
    listed = listing.take(cohort, cohort.parent / "digests.sqlite")
    found = examination.examine(finding.find(Path("data/raw"), listed, ("acdc",)))
    return splits.assign_splits(
        found, params.Data(sources=("acdc",), split_seed=0, test_fraction=0.3, validation_fraction=0.1)
    )


def test_mr_is_standardised_over_its_non_zero_part() -> None:
    array = np.zeros((8, 8, 8))
    array[2:6, 2:6, 2:6] = np.random.default_rng(0).normal(300, 50, (4, 4, 4))
    image, _ = prepare({"T1": volume(array)}, (1.0, 1.0, 1.0), NO_CT)
    assert image.shape == (1, 4, 4, 4)
    assert abs(image.mean()) < 1e-4
    assert abs(image.std() - 1) < 1e-3


def test_mr_does_not_depend_on_the_scanners_units() -> None:
    array = np.random.default_rng(0).normal(300, 50, (6, 6, 6))
    one, _ = prepare({"MR": volume(array)}, (1.0, 1.0, 1.0), NO_CT)
    other, _ = prepare({"MR": volume(array * 7.5)}, (1.0, 1.0, 1.0), NO_CT)
    agree(one, other, 300 / 50 * rounded(6))  # the mean, six deviations, is subtracted from rounded voxels


def test_ct_is_clipped_and_scaled_by_the_cohort_and_cropped_to_the_body() -> None:
    array = np.full((10, 10, 10), -1000.0)
    array[3:7, 3:7, 3:7] = 60
    array[4, 4, 4] = 3000
    image, geometry = prepare({"CT": volume(array)}, (1.0, 1.0, 1.0), CTScale(-100, 300, 50, 10))
    assert (geometry.origin, geometry.crop_shape) == ((3, 3, 3), (4, 4, 4))
    assert image.max() == pytest.approx(25)
    assert np.median(image) == pytest.approx(1)


def test_channels_are_in_the_order_of_their_names_whatever_the_order_given() -> None:
    rng = np.random.default_rng(0)
    scan = {name: volume(rng.random((5, 5, 5)) + 1) for name in ("T2", "FLAIR", "T1")}
    one, _ = prepare(scan, (1.0, 1.0, 1.0), NO_CT)
    other, _ = prepare(dict(reversed(scan.items())), (1.0, 1.0, 1.0), NO_CT)
    np.testing.assert_array_equal(one, other)


def test_a_label_through_preprocessing_and_back_is_itself(rows: list[Row]) -> None:
    """On the scan's own spacing nothing may be lost; on a finer grid a voxel at a border may move."""
    row = rows[0]
    case = prepare_case(row, PLAN, 50)
    original = read(Path(row.labels[0].path))
    back = restore(case.label, Geometry.from_json(case.record.geometry))
    ids = restore(original.array, Geometry.of(original))
    np.testing.assert_array_equal(back > 0, ids > 0)
    fine = resample_label(resample_label(case.label, (8, 24, 24)), case.label.shape)  # type: ignore[arg-type]
    assert (fine == case.label).mean() > 0.97


def test_the_foreground_index_points_at_its_structure(rows: list[Row]) -> None:
    case = prepare_case(rows[0], PLAN, 5)
    assert len(case.foreground) == 15
    for structure, d, h, w in case.foreground:
        assert case.label[d, h, w] == structure


def test_the_plan_survives_json() -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


def test_weights_older_than_the_plan_are_still_understood() -> None:
    record = json.loads(json.dumps(PLAN.to_json()))
    del record["sources"]["acdc"]["normalisation"], record["sources"]["acdc"]["patch_size"]
    assert Preprocessing.from_json(record).sources["acdc"].spacing_mm == (10.0, 1.5, 1.5)
