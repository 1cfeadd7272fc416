"""Scans for the report's viewer: cropped and coarsened until they fit in what the file may hold.

    embed(viewed, labels, budget_bytes) -> (embedded, left out with the reason)

A case is gzip of image, then layers, uint8, (D, H, W) in order; layers hold a label's number from 1, not its value.
"""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.pages.evaluation.content import LabelTold, Viewed

MOST_VOXELS = 2_500_000  # a case; more is neither seen on a screen nor quick to unpack
LEAST_BYTES, MOST_BYTES = 250_000, 3_000_000  # of a case's share: below, pictures are too coarse to judge by
MARGIN_MM = 25.0  # left around what is labelled when a scan is cropped
OTHER = 255  # the number of a value that no label has


@dataclass(frozen=True)
class Embedded:
    """`origin`, `step`: where its voxels lie in the scan of `full_shape`. `text`: base64."""

    case_id: str
    title: str
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[int, ...]
    step: tuple[int, ...]
    full_shape: tuple[int, ...]
    layers: tuple[str, ...]
    text: str


@dataclass(frozen=True, eq=False)
class Grid:
    """An image and its layers while they shrink."""

    arrays: tuple[np.ndarray, ...]
    spacing_mm: tuple[float, ...]
    origin: tuple[int, ...] = (0, 0, 0)
    step: tuple[int, ...] = (1, 1, 1)


def embed(
    viewed: Sequence[Viewed], labels: Sequence[LabelTold], budget_bytes: int
) -> tuple[list[Embedded], list[tuple[str, str]]]:
    """In the order given, each within its share of the budget, until it is spent. A case is embedded once.

    Raises ValueError for an image that is not uint8 (D, H, W), or a layer of another shape.
    """
    once = list({each.case_id: each for each in reversed(viewed)}.values())[::-1]
    share = int(np.clip(budget_bytes / max(1, len(once)), LEAST_BYTES, MOST_BYTES))
    found, left, spent = list[Embedded](), list[tuple[str, str]](), 0
    for each in once:
        if spent + LEAST_BYTES > budget_bytes:
            left.append((each.case_id, f"the report's {budget_bytes / 1e6:.0f} MB for pictures are spent"))
            continue
        one = _embedded(each, labels, min(share, budget_bytes - spent))
        spent += len(one.text)
        found.append(one)
    return found, left


def _embedded(viewed: Viewed, labels: Sequence[LabelTold], most_bytes: int) -> Embedded:
    _check(viewed)
    grid = Grid((viewed.image, *viewed.layers.values()), tuple(float(mm) for mm in viewed.spacing_mm))
    if viewed.image.size > MOST_VOXELS:
        grid = _cropped(grid)
    while grid.arrays[0].size > MOST_VOXELS:
        grid = _coarser(grid)
    grid = replace(grid, arrays=(grid.arrays[0], *(_numbered(layer, labels) for layer in grid.arrays[1:])))
    while len(text := _packed(grid)) > most_bytes and max(grid.arrays[0].shape) > 16:
        grid = _coarser(grid)
    return Embedded(
        viewed.case_id, viewed.title, grid.arrays[0].shape, grid.spacing_mm, grid.origin, grid.step,
        viewed.image.shape, tuple(viewed.layers), text,
    )  # fmt: skip


def _check(viewed: Viewed) -> None:
    if viewed.image.dtype != np.uint8 or viewed.image.ndim != 3 or not viewed.image.size:
        raise ValueError(
            f"{viewed.case_id}: the image is {viewed.image.dtype} {viewed.image.shape}, not uint8 (D, H, W)"
        )
    for name, layer in viewed.layers.items():
        if layer.shape != viewed.image.shape:
            raise ValueError(f"{viewed.case_id}: {name} is {layer.shape}, the image {viewed.image.shape}")


def _numbered(layer: np.ndarray, labels: Sequence[LabelTold]) -> np.ndarray:
    numbered = np.where(layer == 0, 0, OTHER).astype(np.uint8)
    for number, label in enumerate(labels, start=1):
        numbered[layer == label.value] = number
    return numbered


def _cropped(grid: Grid) -> Grid:
    """To what is labelled, and a margin; whole if nothing is."""
    labelled = np.logical_or.reduce([layer > 0 for layer in grid.arrays[1:]] or [np.zeros(grid.arrays[0].shape, bool)])
    if not labelled.any():
        return grid
    box, origin = list[slice](), list[int]()
    for axis, spacing in enumerate(grid.spacing_mm):
        hit = np.flatnonzero(labelled.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = round(max(MARGIN_MM, 0.25 * (hit[-1] - hit[0]) * spacing) / spacing)
        origin.append(max(0, int(hit[0]) - margin))
        box.append(slice(origin[-1], int(hit[-1]) + margin + 1))
    return Grid(tuple(array[tuple(box)] for array in grid.arrays), grid.spacing_mm, tuple(origin))


def _coarser(grid: Grid) -> Grid:
    """Half the voxels, or a quarter, an eighth, along the axes that are finest (of all within 40 %).

    The image by means of blocks; of labels the block's first, as every other rule favours some structure.
    """
    shape = grid.arrays[0].shape
    finest = min(mm for mm, size in zip(grid.spacing_mm, shape, strict=True) if size > 1)
    by = tuple(2 if mm <= 1.4 * finest and size > 1 else 1 for mm, size in zip(grid.spacing_mm, shape, strict=True))
    whole = tuple(slice(0, size - size % each) for size, each in zip(shape, by, strict=True))
    first = tuple(slice(0, each.stop, factor) for each, factor in zip(whole, by, strict=True))
    cells = [part for each, factor in zip(whole, by, strict=True) for part in (each.stop // factor, factor)]
    image = grid.arrays[0][whole].reshape(cells).mean(axis=(1, 3, 5)).round().astype(np.uint8)
    return Grid(
        (image, *(layer[first] for layer in grid.arrays[1:])),
        tuple(mm * factor for mm, factor in zip(grid.spacing_mm, by, strict=True)),
        grid.origin,
        tuple(step * factor for step, factor in zip(grid.step, by, strict=True)),
    )


def _packed(grid: Grid) -> str:
    whole = b"".join(np.ascontiguousarray(array).tobytes() for array in grid.arrays)
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode()
