"""Which source a micro-batch is of: the same for all that work side by side, a pure function of its number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from model.data.dataset import SampleStream
from model.data.draws import Purpose, generator, torch_seed
from pipelines.params import profiles
from pipelines.training import configs
from tests.model.engine.test_trainer import CASES, STREAM, same

BLOCKED = replace(STREAM, micro_batch=1, source_block=64)


def test_at_32_ranks_every_micro_step_of_xl_is_of_one_source() -> None:
    settings = profiles.settings("xl-a100x32")
    for recipe in (settings.train, settings.pretrain):
        block = configs.source_block(recipe)
        stream = SampleStream(CASES, replace(BLOCKED, source_block=block, micro_batch=recipe.micro_batch))
        of_a_step = recipe.global_batch // recipe.micro_batch
        for first in range(0, 20 * of_a_step, 32):
            assert len({stream.source_of(first + rank) for rank in range(32)}) == 1
        assert of_a_step // block >= 2  # a step still mixes


def test_presets_of_few_micro_batches_draw_each_alone() -> None:
    for name in ("smoke", "hippocampus", "multi"):
        assert configs.source_block(profiles.settings(name).train) == 1


def test_sources_come_in_the_proportions_of_the_balance() -> None:
    stream = SampleStream(CASES, BLOCKED)
    drawn = [stream.source_of(index) for index in range(0, 64 * 2000, 64)]
    for source, probability in zip(stream.sources, stream.probabilities, strict=True):
        deviation = np.sqrt(probability * (1 - probability) / len(drawn))
        assert drawn.count(source) / len(drawn) == pytest.approx(probability, abs=4 * deviation)


def test_a_block_changes_no_sample_but_its_source() -> None:
    """The draw of voxels and augmentation is the same wherever the source is."""
    alone, blocked = SampleStream(CASES, replace(BLOCKED, source_block=1)), SampleStream(CASES, BLOCKED)
    for index in range(6):
        if alone.source_of(index) == blocked.source_of(index):
            assert same(alone[index], blocked[index])
    assert {blocked.source_of(index) for index in range(64)} == {blocked.source_of(0)}
    assert alone.source_of(64) == blocked.source_of(64)


def test_seeds_and_numbers_that_add_up_alike_draw_apart() -> None:
    for purpose in Purpose:
        seeds = {torch_seed(seed, number, purpose) for seed in range(8) for number in range(8)}
        assert len(seeds) == 64
    assert len({torch_seed(1, 2, purpose) for purpose in Purpose}) == len(Purpose)
    assert generator(0, 5, Purpose.PATCH).random() != generator(5, 0, Purpose.PATCH).random()
