"""The area of every surface element."""

import math
from itertools import permutations

import numpy as np
import pytest

from model.metrics import elements

SPACING_MM = (5.0, 0.7, 1.3)


def code_of(*inside: tuple[int, int, int]) -> int:
    return sum(1 << 7 - int("".join(map(str, corner)), 2) for corner in inside)


def test_a_plane_between_voxels_has_the_area_of_their_face() -> None:
    areas = elements.areas(SPACING_MM)
    d, h, w = SPACING_MM
    assert areas[0b11110000] == pytest.approx(h * w)
    assert areas[0b11001100] == pytest.approx(d * w)
    assert areas[0b10101010] == pytest.approx(d * h)


def test_one_corner_is_cut_off_by_a_triangle_and_one_edge_by_a_rectangle() -> None:
    areas = elements.areas(SPACING_MM)
    d, h, w = SPACING_MM
    assert areas[code_of((0, 0, 0))] == pytest.approx(math.sqrt((d * h) ** 2 + (d * w) ** 2 + (h * w) ** 2) / 8)
    assert areas[code_of((0, 0, 0), (1, 0, 0))] == pytest.approx(d * math.hypot(h, w) / 2)


def test_nothing_and_everything_have_no_surface_and_inside_is_as_good_as_outside() -> None:
    for axes in (1, 2, 3):
        areas = elements.areas(SPACING_MM[:axes])
        assert areas[0] == areas[-1] == 0
        assert (areas[1:-1] > 0).all()
        np.testing.assert_allclose(areas, areas[::-1])


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_turning_the_axes_turns_the_table(order: tuple[int, int, int]) -> None:
    codes = np.arange(256).astype(np.uint8)
    turned = np.packbits(
        np.unpackbits(codes[:, None], axis=1)
        .reshape(256, 2, 2, 2)
        .transpose(0, *(axis + 1 for axis in order))
        .reshape(256, 8),
        axis=1,
    )[:, 0]
    spacing_mm = [SPACING_MM[axis] for axis in order]
    np.testing.assert_allclose(elements.areas(spacing_mm)[turned], elements.areas(SPACING_MM), rtol=1e-12)


def test_corners_diagonally_opposite_are_kept_apart() -> None:
    areas = elements.areas(SPACING_MM)
    assert areas[code_of((0, 0, 0), (0, 1, 1))] == pytest.approx(2 * areas[code_of((0, 0, 0))])


def test_the_tables_are_those_of_surface_distance() -> None:
    from surface_distance import lookup_tables

    for spacing_mm in np.random.default_rng(0).uniform(0.2, 6, (10, 3)):
        np.testing.assert_allclose(
            elements.areas(spacing_mm),
            lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm),
            rtol=1e-12,
        )
        plane_mm = spacing_mm[:2]
        lengths = lookup_tables.create_table_neighbour_code_to_contour_length(plane_mm)
        np.testing.assert_allclose(elements.areas(plane_mm), lengths, rtol=1e-12)
