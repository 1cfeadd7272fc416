"""What a target's values mean: unions, structures within others, regions, and voxels that nobody decided on."""

import numpy as np
import pytest

from model.data.targets import IGNORED, UNDECIDED, meaning

IDS = {"kidney": 9, "left": 300, "right": 10_000, "spleen": 12}
COVERS = {"left": (1,), "right": (2,), "spleen": (3,), "kidney": (1, 2)}


def values(annotated: tuple[str, ...], *ids: int) -> list[int]:
    return meaning(annotated, IDS, COVERS, {}, 4).values[list(ids)].tolist()


def test_a_union_stands_for_its_classes_and_the_rest_for_background() -> None:
    found = meaning(("kidney",), IDS, COVERS, {}, 4)
    assert found.targets.groups == ((0, 3), (1, 2))
    assert found.values[[0, 9, 300, IGNORED]].tolist() == [0, 1, 0, UNDECIDED]
    assert found.targets.values(4) == [0, 1, 1, 0]


def test_a_structure_within_another_takes_its_classes_away() -> None:
    found = meaning(("kidney", "left"), IDS, COVERS, {}, 4)
    assert found.targets.groups == ((0, 3), (2,), (1,))  # a kidney that is not the left one
    assert values(("kidney", "left"), 9, 300) == [1, 2]


def test_of_a_union_all_of_whose_parts_are_told_its_own_voxels_are_undecided() -> None:
    assert values(("kidney", "left", "right"), 9, 300, 10_000) == [UNDECIDED, 1, 2]


def test_regions_are_trained_where_they_can_be_told() -> None:
    regions = {"kidney": (1, 2)}
    assert meaning(("left", "right", "spleen"), IDS, COVERS, regions, 4).targets.regions == ((1, 2),)
    assert meaning(("left", "spleen"), IDS, COVERS, regions, 4).targets.regions == ()
    assert meaning(("kidney", "spleen"), IDS, COVERS, regions, 4).targets.regions == ()  # it is a structure here


def test_structures_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="b and a overlap, and neither lies within the other"):
        meaning(("a", "b"), {"a": 1, "b": 2}, {"a": (1, 2), "b": (2, 3)}, {}, 4)


def test_every_id_has_one_value() -> None:
    found = meaning(tuple(IDS), IDS, COVERS, {}, 4)
    assert found.values.dtype == np.int16
    assert set(np.unique(found.values)) == {UNDECIDED, 0, 1, 2, 3}
