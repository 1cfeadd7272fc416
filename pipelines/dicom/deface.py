"""Take the face off a head scan, by geometry alone.

Below the level of the brows and in front of the middle of the skull base the head is replaced by background. The level
and the front come from the outline of the head, not from landmarks, so it works on every sequence and needs no
template; it is coarse. What it is not: it was not tested against face recognition, the ears stay, and a head whose top
is not in the scan, or that is tilted by more than about 20 degrees, is left alone and the note says so. It removes the
front of the orbits and, in some heads, voxels of the frontal base.
"""

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from pydicom import Dataset
from scipy import ndimage

from pipelines.dicom.reading import text

BROW_BELOW_TOP_MM = 85.0  # adults 80-100
FRONT_SHARE = 0.36  # of the head's length from front to back
MIN_HEIGHT_MM = 60.0
HEAD_PARTS = ("HEAD", "BRAIN", "SKULL", "FACE", "ORBIT", "HEADNECK")
_WORDS = ("head", "brain", "skull", "face", "orbit", "cerebr", "hirn", "schaedel", "kopf")


def is_head(dataset: Dataset) -> bool:
    """By the coded body part, else by the descriptions."""
    if part := text(dataset, "BodyPartExamined").upper():
        return part in HEAD_PARTS
    words = " ".join(text(dataset, name) for name in ("StudyDescription", "SeriesDescription", "ProtocolName")).lower()
    return any(word in words for word in _WORDS)


def without_face(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, str]:
    """(i, j, k) voxels and their affine to RAS mm -> a copy without the face, and a note of what was done."""
    turn = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
    back = ornt_transform(axcodes2ornt("RAS"), io_orientation(affine))
    turned = apply_orientation(array, turn).copy()
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(turn[:, 0])]
    background = float(np.percentile(turned, 1))
    head = _outline(turned)
    heights = np.flatnonzero(head.any(axis=(0, 1)))
    if not len(heights) or (heights[-1] == head.shape[2] - 1 and head[:, :, -1].mean() > 0.25):
        return array, "face kept: the top of the head is not in the scan"
    if (heights[-1] - heights[0]) * spacing_mm[2] < MIN_HEIGHT_MM:
        return array, "face kept: too little of the head is in the scan"
    brow = heights[-1] - round(BROW_BELOW_TOP_MM / spacing_mm[2])
    lengths = np.flatnonzero(head.any(axis=(0, 2)))
    front = lengths[-1] - round(FRONT_SHARE * (lengths[-1] - lengths[0]))
    if brow <= 0:
        return array, "no face in the scan: it ends above the brows"
    turned[:, front:, :brow] = background
    return np.ascontiguousarray(apply_orientation(turned, back)), "face removed in front of the skull base"


def _outline(array: np.ndarray) -> np.ndarray:
    """The largest bright part, filled slice by slice."""
    low, high = np.percentile(array, (2, 98))
    labels, count = ndimage.label(ndimage.gaussian_filter(array.astype(np.float32), 1) > low + 0.15 * (high - low))
    if not count:
        return np.zeros(array.shape, dtype=bool)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())
