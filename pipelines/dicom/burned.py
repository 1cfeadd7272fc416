"""Is text burned into the pixels? Stated by the header, or seen near the border.

Seen: in the outer quarter of a slice, a row of at least MIN_GLYPHS separate bright shapes of a letter's size, of nearly
one height, close to each other and on one line. Anatomy has edges there too, but not five such shapes in a row. It is a
plain detector: it finds the annotations that consoles and screen captures write into margins, not handwriting, not text
over anatomy, not text of less than 5 voxels height. What it suspects is quarantined, for a person to look at.
"""

import numpy as np
from pydicom import Dataset
from scipy import ndimage

from pipelines.dicom.reading import text

MARGIN = 0.25  # of each side
MIN_GLYPHS = 5
GLYPH_VOXELS = (5, 40)  # height
SLICES_LOOKED_AT = 9  # an annotation is on every slice, or on the first and last
FROM_FILM = ("DF", "DV", "SD", "WSD", "DRW", "SYN")  # values of ConversionType


def stated(dataset: Dataset) -> str:
    """The header's own statement that the pixels hold text, or nothing."""
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        return "BurnedInAnnotation is YES: the pixels hold text"
    if from_film(dataset) and not text(dataset, "SOPClassUID"):
        return "a digitised film, video or screen: its pixels may hold text"
    return ""


def from_film(dataset: Dataset) -> bool:
    """Does the header say that film, video or screen was digitised? In an image of a scanner's own class it is a
    leftover of some archive, so that there the detector decides."""
    return text(dataset, "ConversionType").upper() in FROM_FILM


def seen(slices: np.ndarray) -> int | None:
    """The first slice (n, rows, columns) with text-like shapes in its margin, or None."""
    chosen = np.unique(np.linspace(0, len(slices) - 1, SLICES_LOOKED_AT).astype(int))
    return next((int(k) for k in chosen if glyphs_in_a_row(slices[k]) >= MIN_GLYPHS), None)


def glyphs_in_a_row(image: np.ndarray) -> int:
    """The most letter-like shapes on one line in the margin of a (rows, columns) image."""
    low, high = float(np.median(image[_margin(image.shape)])), float(image.max())
    if high <= low:
        return 0
    bright = (image > low + 0.7 * (high - low)) & _margin(image.shape)
    labels, count = ndimage.label(bright, structure=np.ones((3, 3)))
    if not MIN_GLYPHS <= count <= 5000:  # thousands: noise
        return 0
    boxes = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if GLYPH_VOXELS[0] <= height <= GLYPH_VOXELS[1] and 1 <= width <= 1.5 * height:
            if not 0.1 <= (labels[rows, columns] == index).mean() <= 0.95 and width > 0.4 * height:
                continue  # letters are neither blocks nor specks; I, l and 1 are bars
            boxes.append((rows.start, rows.stop, columns.start, columns.stop))
    return _longest_line(sorted(boxes, key=lambda box: box[2]))


def _margin(shape: tuple[int, ...]) -> np.ndarray:
    rows, columns = shape
    margin = np.ones(shape, dtype=bool)
    top, left = round(rows * MARGIN), round(columns * MARGIN)
    margin[top : rows - top, left : columns - left] = False
    return margin


def _longest_line(boxes: list[tuple[int, int, int, int]]) -> int:
    """The longest chain of boxes (top, bottom, left, right; sorted by left), each beside the one before."""
    best = [1] * len(boxes)
    for i, (top, bottom, left, _) in enumerate(boxes):
        for j in range(i):
            other_top, other_bottom, _, other_right = boxes[j]
            height, other_height = bottom - top, other_bottom - other_top
            near = -1 <= left - other_right <= 1.5 * max(height, other_height)
            alike = min(height, other_height) >= 0.6 * max(height, other_height)
            level = abs(bottom - other_bottom) <= 0.2 * max(height, other_height) + 1
            if near and alike and level:
                best[i] = max(best[i], best[j] + 1)
    return max(best, default=0)
