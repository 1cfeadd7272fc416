"""Label maps for MONAI Label's clients, read back by SimpleITK, which is what Slicer reads them with."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from pipelines.scans.volume import write_label
from pipelines.service.label_image import NIFTI, NRRD, LabelImage

TURNED = np.linalg.qr([[-0.9, 0.1, 0.3], [0.05, 1.1, -0.2], [0.1, 0.2, 1.0]])[0]
OBLIQUE = np.vstack([np.column_stack([TURNED * (0.9, 1.1, 2.4), (12.5, -40.0, 7.25)]), (0, 0, 0, 1)])
IDS = (7, 300)


def written(folder: Path) -> Path:
    label = np.zeros((4, 5, 6), np.int16)
    label[1:3, 2, 3], label[0, 4, 5], label[3, 3, 3] = 7, 300, 12
    write_label(folder / "label.nii.gz", label, OBLIQUE)
    return folder / "label.nii.gz"


@pytest.mark.parametrize(("ending", "compressed"), [(NRRD, True), (NRRD, False), (NIFTI, True)])
def test_voxels_lie_where_they_lay(tmp_path: Path, ending: str, compressed: bool) -> None:
    image = LabelImage.read(written(tmp_path), IDS)
    (tmp_path / f"out{ending}").write_bytes(image.packed(ending, compressed))
    found = sitk.ReadImage(str(tmp_path / f"out{ending}"))
    own = np.asarray(nib.load(tmp_path / "label.nii.gz").dataobj)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found).T, (own == 7) + 2 * (own == 300))
    for voxel in ((0, 0, 0), (3, 4, 5), (1, 2, 3)):
        ras = (OBLIQUE @ [*voxel, 1])[:3]
        np.testing.assert_allclose(found.TransformIndexToPhysicalPoint(voxel), ras * (-1, -1, 1), atol=1e-4)


def test_only_what_is_there_is_told(tmp_path: Path) -> None:
    image = LabelImage.read(written(tmp_path), (7, 9, 300))
    assert image.present() == [1, 3]
    assert image.centroid(3) == [0, 4, 5]


def test_a_type_that_cannot_hold_the_numbers_is_widened(tmp_path: Path) -> None:
    assert LabelImage.read(written(tmp_path), IDS, "uint16").numbers.dtype == np.uint16
    assert LabelImage.read(written(tmp_path), range(1, 301)).numbers.dtype == np.uint16
