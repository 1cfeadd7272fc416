"""What is shipped as bricks and decoded at its end is what the loader would have decoded, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from model.data import casefile, shared_memory
from model.data.augment import box_of, read_region
from model.data.casefile import Case
from model.data.dataset import RawStream, SampleStream, StreamConfig, finish
from model.data.draws import PLAIN_CROP, AugmentConfig, draw
from model.data.payload import PackedBatch, cut_region, pack
from tests.model.data.test_casefile import RECORD, scan, structures

CPU = torch.device("cpu")
SPACING_MM = (1.0, 1.0, 1.0)
STREAM = StreamConfig(
    classes=("left_ventricle",), structures={"left_ventricle": 1}, patch_size={"acdc": (16, 24, 16)}, micro_batch=2,
    seed=1, foreground_fraction=0.5, source_balance=0.5, augment=AugmentConfig(),
)  # fmt: skip


@pytest.fixture(params=[5, 700], ids=["ids of one byte", "ids of two bytes"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    label = structures(count=5).astype(np.int16) * (request.param // 5)
    points = np.column_stack([label[label > 0], np.argwhere(label > 0)])[::50].astype(np.int32)
    record = replace(RECORD, modalities=("FLAIR", "T1"))
    casefile.write(tmp_path / "case.safetensors", Case(record, scan(), label, points))
    return casefile.read(tmp_path / "case.safetensors")


@pytest.mark.parametrize("centre", [(10, 20, 17), (0, 0, 0), (20.5, 39, 34), (90, 90, 90), (-90, 3, 3)])
@pytest.mark.parametrize("config", [PLAIN_CROP, replace(AugmentConfig(), elastic_probability=1.0)])
def test_a_region_decoded_at_its_end_is_the_region(case: Case, centre: Sequence[float], config: AugmentConfig) -> None:
    change = draw(config, 2, (13, 20, 9), SPACING_MM, np.random.default_rng(0))
    region = read_region(case.image, case.label, centre, (13, 20, 9), change)
    box = box_of(case.label.shape, centre, (13, 20, 9), change)
    (other,) = pack([cut_region(case.image, case.label, box, (13, 20, 9), change)], [case.record]).to(CPU).regions
    assert torch.equal(region.image, other.image)
    assert torch.equal(region.label, other.label)
    assert (region.image.dtype, region.label.dtype) == (other.image.dtype, other.label.dtype)
    assert (region.corner, region.shape) == (other.corner, other.shape)


def test_a_batch_shipped_for_a_gpu_is_the_batch_in_one_block_of_few_bytes(case: Case) -> None:
    stream = SampleStream([case], STREAM)
    for index, shipped in enumerate(DataLoader(RawStream(stream), None, sampler=range(4), num_workers=1)):
        assert isinstance(shipped, PackedBatch)
        batch, expected = finish(shipped.to(CPU), STREAM), stream[index]
        for name in ("image", "modality", "target"):
            assert torch.equal(getattr(batch, name), getattr(expected, name))
        assert (batch.cases, batch.index, batch.targets) == (expected.cases, expected.index, expected.targets)
        assert shared_memory.size_of(shipped) == shipped.block.numel()


def test_bricks_are_a_third_of_the_voxels_they_stand_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, label = rng.normal(0, 1, (1, 64, 64, 64)).astype(np.float32), structures((64, 64, 64), 2)
    casefile.write(tmp_path / "case.safetensors", Case(RECORD, image, label, np.zeros((0, 4), np.int32)))
    case = casefile.read(tmp_path / "case.safetensors")
    change = draw(PLAIN_CROP, 1, (64, 64, 64), SPACING_MM, rng)
    box = box_of(case.label.shape, (32, 32, 32), (64, 64, 64), change)
    packed = pack([cut_region(case.image, case.label, box, (64, 64, 64), change)], [case.record])
    decoded = packed.to(CPU)
    assert shared_memory.size_of(packed) < shared_memory.size_of(decoded) / 3
