"""Gliomas for BraTS's own program: its names, its values, on one grid."""

from pathlib import Path

import nibabel as nib
import numpy as np

from pipelines.evaluation import brats
from pipelines.scans import vocabulary
from pipelines.scans.manifest import File, Row
from pipelines.scans.volume import write_label
from pipelines.work.digests import sha256_of
from tests.conftest import save
from tests.pipelines.evaluation.made import scored

WORDS = vocabulary.default()


def test_a_glioma_is_written_in_the_values_of_brats(tmp_path: Path) -> None:
    label = np.zeros((6, 5, 4), np.uint8)
    label[0], label[1], label[2] = 1, 2, 4  # of 2020, where 4 is what enhances
    path = save(tmp_path / "a-label.nii.gz", label)
    row = Row(
        "a",
        "p",
        "brats",
        "test",
        ["FLAIR"],
        [File("label", str(path), sha256_of(path), path.stat().st_size, "brats")],
        [],
        [1.0, 1.0, 1.0],
    )
    predicted = np.zeros((6, 5, 4), np.uint8)
    predicted[0] = WORDS["tumour_enhancing"].id
    (tmp_path / "predictions").mkdir()
    write_label(tmp_path / "predictions/a.nii.gz", predicted, np.asarray(nib.load(path).affine))
    scores = [scored("a", 0.5, name) for name in sorted(brats.NEEDED)]
    assert brats.export(tmp_path / "brats", tmp_path / "predictions", scores, {"a": row}, WORDS) == 1
    found = [
        nib.load(tmp_path / "brats" / part / "BraTS-GLI-00001-000.nii.gz") for part in ("references", "predictions")
    ]
    reference, prediction = (np.asarray(each.dataobj) for each in found)
    assert sorted(np.unique(reference).tolist()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(found[0].affine, found[1].affine)
    np.testing.assert_array_equal(prediction == 3, reference == 1)
    assert "BraTS-GLI-00001-000,a" in (tmp_path / "brats/cases.csv").read_text()


def test_a_case_that_was_not_measured_on_all_parts_is_none(tmp_path: Path) -> None:
    scores = [scored("a", 0.5, name) for name in sorted(brats.NEEDED)[:2]]
    assert brats.export(tmp_path / "brats", tmp_path, scores, {}, WORDS) == 0
    assert not (tmp_path / "brats").exists()
