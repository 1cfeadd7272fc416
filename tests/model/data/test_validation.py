"""Validation looks where structures are, and pools what it finds of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from model.data.casefile import Case, CaseRecord
from model.data.dataset import StreamConfig
from model.data.draws import PLAIN_CROP
from model.data.validation import PATCHES, validation_batch, validation_patches
from model.metrics.overlap import dice
from model.tasks.scores import dice_by_case, overlap_by_structure

KIDNEYS = {"kidney_left": 1, "kidney_right": 2}
STREAM = StreamConfig(
    classes=tuple(KIDNEYS), structures=KIDNEYS, patch_size={"kits": (32, 32, 32)}, micro_batch=1,
    seed=0, foreground_fraction=1.0, source_balance=0.0, augment=PLAIN_CROP,
)  # fmt: skip
FAR = {(40, 30, 20): 1, (40, 30, 150): 2}  # 130 voxels apart
SIZE = (80, 64, 176)


def case(blobs: Mapping[tuple[int, int, int], int], case_id: str = "kits-1") -> Case:
    """Balls of radius 8 around the keys, of the structures that the values name."""
    label, grid = np.zeros(SIZE, np.uint8), np.indices(SIZE)
    for centre, value in blobs.items():
        label[sum((axis - at) ** 2 for axis, at in zip(grid, centre, strict=True)) <= 64] = value
    points = np.column_stack([label[label > 0], np.argwhere(label > 0)])[::7].astype(np.int32)
    record = CaseRecord(case_id, "kits", "validation", ("CT",), tuple(KIDNEYS), (1.0, 1.0, 1.0), {})
    return Case(record, label[None].astype(np.float32), label, points)


def shown(case: Case, config: StreamConfig = STREAM) -> list[dict[int, int]]:
    """By patch: voxels of each target value but background."""
    batches = [validation_batch(patch, config) for patch in validation_patches([case], config)]
    return [{value: int((batch.target == value).sum()) for value in (1, 2)} for batch in batches]


def test_two_kidneys_far_apart_are_both_looked_at() -> None:
    for seed in range(5):
        left, right, *_ = shown(case(FAR), replace(STREAM, seed=seed))
        assert max(left[1], right[1]) > 500
        assert max(left[2], right[2]) > 500


def test_two_places_of_one_structure_are_both_looked_at() -> None:
    found = shown(case(dict.fromkeys(FAR, 1)))
    assert len(found) >= 2
    assert sum(patch[1] for patch in found) > 2000


def test_a_case_that_one_patch_shows_takes_one() -> None:
    assert len(shown(case(FAR), replace(STREAM, patch_size={"kits": SIZE}))) == 1
    assert len(shown(case({}), STREAM)) == 1


def test_a_structure_is_never_left_out_for_a_second_look_at_another() -> None:
    """One is everywhere, the other in a corner."""
    everywhere = {(d, h, w): 1 for d in (10, 70) for h in (12, 52) for w in (30, 90, 160)}
    found = shown(case({**everywhere, (40, 30, 60): 2}))
    assert len(found) == PATCHES
    assert max(patch[2] for patch in found[:2]) > 0


def test_patches_are_a_function_of_seed_and_case() -> None:
    cases = [case(FAR), case(FAR, "kits-2")]
    centres = [patch.centre_vox for patch in validation_patches(cases, STREAM)]
    assert centres == [patch.centre_vox for patch in validation_patches(cases, STREAM)]
    assert centres[: len(centres) // 2] != centres[len(centres) // 2 :]
    assert centres != [patch.centre_vox for patch in validation_patches(cases, replace(STREAM, seed=1))]


def test_dice_of_a_case_counts_the_voxels_of_all_its_patches() -> None:
    """A prediction that finds one kidney and misses the other: the mean of patches would say what their number says."""
    patches = validation_patches([case(FAR)], STREAM)
    batches = [validation_batch(patch, STREAM) for patch in patches]
    targets = torch.cat([batch.target for batch in batches]).numpy()
    predicted = [torch.where(batch.target == 1, 1, 0) for batch in batches]
    found = [overlap_by_structure(mask.clone(), batch) for mask, batch in zip(predicted, batches, strict=True)]
    (scores,) = dice_by_case("validation_dice", patches, found)
    assert scores == {
        f"validation_dice.{name}": dice(targets == value, torch.cat(predicted).numpy() == value)
        for name, value in KIDNEYS.items()
    }
    assert list(scores.values()) == [1.0, 0.0]


def test_a_structure_that_neither_mask_has_says_nothing() -> None:
    patches = validation_patches([case({(40, 30, 20): 1})], STREAM)
    found = [overlap_by_structure(torch.zeros(1, 32, 32, 32), validation_batch(each, STREAM)) for each in patches]
    (scores,) = dice_by_case("validation_dice", patches, found)
    assert scores["validation_dice.kidney_left"] == 0
    assert np.isnan(scores["validation_dice.kidney_right"])
