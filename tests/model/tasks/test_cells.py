"""A coarser output is held to the voxels in the middle of its cells."""

import pytest
import torch

from model.tasks.cells import at_middles


@pytest.mark.parametrize(
    ("voxels", "cell", "middles"),
    [(8, 2, [1, 3, 5, 7]), (7, 2, [1, 3, 5, 6]), (5, 4, [2, 4]), (6, 4, [2, 5]), (7, 4, [2, 6]), (3, 1, [0, 1, 2])],
)
def test_the_last_cell_may_end_before_its_middle(voxels: int, cell: int, middles: list[int]) -> None:
    target = torch.arange(2 * voxels).view(2, voxels, 1, 1)
    found = at_middles(target, (cell, 1, 1), (len(middles), 1, 1))
    torch.testing.assert_close(found, target[:, middles])


def test_every_axis_has_its_own_cell() -> None:
    target = torch.arange(4 * 6 * 5).view(1, 4, 6, 5)
    torch.testing.assert_close(at_middles(target, (1, 2, 4), (4, 3, 2)), target[:, :, [1, 3, 5]][..., [2, 4]])
