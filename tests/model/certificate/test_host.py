"""Memory of the machines around the GPUs."""

from dataclasses import replace

import numpy as np
import pytest

from model.certificate.host import host_memory, region_factors
from model.certificate.launch_plan import LaunchPlan
from model.data.augment import read_region
from model.data.draws import AugmentConfig, draw
from model.network.config import PRESETS

STILL = AugmentConfig(rotation_rad=0.0, scale=0.0, elastic_mm=0.0)
PLAN = LaunchPlan(
    network=PRESETS["nano"], classes=4, channels=4, patch=(64, 64, 64), ranks=32, group=8, strategy="hsdp",
    checkpointing="none", micro_batch=2, global_batch=64,
)  # fmt: skip


def test_without_augmentation_a_batch_is_its_patches_a_byte_a_voxel_of_each_channel_and_the_label() -> None:
    host = host_memory(PLAN, STILL, loaders=8)
    assert host["region_factor"] == {"mean": 1.0, "largest": 1.0}
    assert host["batch_mib"] == 2 * 5 * 64**3 / 2**20
    assert host["shared_gib"] >= 8 * 8 * host["batch_mib"] / 1024  # of 8 ranks with 8 loaders, some batches each
    assert host["ranks"] == 8


def test_checkpoints_lock_the_ranks_parts_of_weights_moments_and_average() -> None:
    host, averaged = (host_memory(replace(PLAN, averaged=flag), STILL, 0) for flag in (False, True))
    assert host["pinned_by_checkpoints_gib"] == pytest.approx(PLAN.parameters * 12 / 2**30)  # one copy a node
    assert averaged["pinned_by_checkpoints_gib"] == pytest.approx(PLAN.parameters * 16 / 2**30)
    assert host["pinned_gib"] == pytest.approx(host["pinned_by_checkpoints_gib"] + host["pinned_by_loaders_gib"])
    assert host["shared_gib"] == 0  # no loaders, nothing ahead


def test_the_factor_is_what_regions_of_a_large_case_have() -> None:
    """Held to the regions that are really read: the same draws in a case that is larger than any of them."""
    augment, shape, rng = AugmentConfig(), (32, 32, 32), np.random.default_rng(0)
    image, label = np.zeros((1, 128, 128, 128), np.float32), np.zeros((128, 128, 128), np.uint8)
    sizes = []
    for _ in range(64):
        region = read_region(image, label, (64, 64, 64), shape, draw(augment, 1, shape, (1.0, 1.0, 1.0), rng))
        sizes.append(region.label.numel() / 32**3)
    mean, largest = region_factors(augment, shape, (1.0, 1.0, 1.0))
    assert mean == pytest.approx(np.mean(sizes), rel=0.15)
    assert largest == pytest.approx(np.max(sizes), rel=0.15)
