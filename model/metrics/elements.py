"""How much surface lies between neighbouring voxels: marching cubes (Lorensen and Cline 1987) as a table of areas.

A cell is spanned by the centres of 2x2x2 voxels. Its code has a bit for each of them that is inside: the highest for
(0, 0, 0), the lowest for (1, 1, 1), the last axis fastest. The surface of a cell passes half-way between neighbours of
which one is inside and one outside. Two choices of marching cubes are free, and made as Nikolov et al. 2018
(arXiv 1809.04430, surface-distance) made them: on a face with two corners diagonally opposite, the corners of the
cell's minority are kept apart; a polygon of more than four sides, which is bent, is cut into the triangles that have
the largest area in a cubic cell. One axis fewer gives contours, their elements lengths; one axis alone has end points.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np

Point = tuple[float, ...]
Edge = tuple[Point, Point]


def areas(spacing_mm: Sequence[float]) -> np.ndarray:
    """Area in mm2 of a cell's surface by its code, float64 (256,); of two axes lengths in mm (16,), of one 1 an end."""
    if len(spacing_mm) == 1:
        return np.array([0.0, 1.0, 1.0, 0.0])
    if len(spacing_mm) == 2:
        lines, scale = _all_lines(), np.asarray(spacing_mm)
    else:
        depth, height, width = spacing_mm
        lines, scale = _all_normals(), np.array([height * width, depth * width, depth * height])
    return np.asarray(np.linalg.norm(lines * scale, axis=-1).sum(axis=-1))


@cache
def _all_normals() -> np.ndarray:
    """Normals of the triangles of every code, as long as their area in a cell of 1 mm: (256, triangles, 3)."""
    return _padded([_normals(min(code, 255 - code)) for code in range(256)])


@cache
def _all_lines() -> np.ndarray:
    """Lines of every code of a 2x2 neighbourhood, from end to end in a cell of 1 mm: (16, lines, 2)."""
    return _padded([[np.subtract(*line) for line in _face(_corners(code, 2))] for code in range(16)])


def _padded(vectors: list[list[np.ndarray]]) -> np.ndarray:
    size = next(len(vector) for each in vectors for vector in each)
    table = np.zeros((len(vectors), max(map(len, vectors)), size))
    for row, each in zip(table, vectors, strict=True):
        row[: len(each)] = np.reshape(each, (len(each), size))
    return table


@cache
def _normals(code: int) -> list[np.ndarray]:
    inside = _corners(code, 3)
    if sum(inside.values()) > 4:  # the minority is what is kept apart
        inside = {corner: not within for corner, within in inside.items()}
    lines = []
    for axis, side in product(range(3), (0, 1)):
        face = {corner: within for corner, within in inside.items() if corner[axis] == side}
        lines += _face(face)
    return [normal for polygon in _polygons(lines) for normal in _largest(polygon)]


def _corners(code: int, axes: int) -> dict[Point, bool]:
    corners = list(product((0, 1), repeat=axes))
    return {corner: bool(code >> bit & 1) for bit, corner in zip(reversed(range(len(corners))), corners, strict=True)}


def _face(inside: dict[Point, bool]) -> list[Edge]:
    """Where the surface crosses a face: lines between the middles of its cut edges."""
    (a, b, c, d) = inside
    ring = [a, b, d, c]
    middles = [
        tuple((p + q) / 2 for p, q in zip(corner, after, strict=True)) if inside[corner] != inside[after] else None
        for corner, after in zip(ring, ring[1:] + ring[:1], strict=True)
    ]
    cut = [middle for middle in middles if middle is not None]
    if len(cut) < 4:
        return [(cut[0], cut[1])] if cut else []
    return [(cut[i - 1], cut[i]) for i in range(4) if inside[ring[i]]]  # around each of the corners inside


def _polygons(lines: list[Edge]) -> list[list[Point]]:
    """The closed polygons that the lines of the six faces make up."""
    found = []
    while lines:
        first, last = lines.pop()
        polygon = [first]
        while last != first:
            polygon.append(last)
            line = next(line for line in lines if last in line)
            lines.remove(line)
            last = line[0] if line[1] == last else line[1]
        found.append(polygon)
    return found


def _largest(polygon: list[Point]) -> list[np.ndarray]:
    """Normals of the triangles into which a polygon is cut so that their area is largest."""
    if len(polygon) < 3:
        return []
    a, b = np.array(polygon[0]), np.array(polygon[-1])
    cuts = [
        [
            np.cross(np.array(polygon[i]) - a, b - a) / 2,
            *_largest(polygon[: i + 1]),
            *_largest(polygon[i:]),
        ]
        for i in range(1, len(polygon) - 1)
    ]
    return max(cuts, key=lambda normals: sum(float(np.linalg.norm(normal)) for normal in normals))
