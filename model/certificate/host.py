"""Memory of the machines around the GPUs: what loaders and checkpoints take of each node, of which no GPU knows.

loaders       micro-batches ahead, in /dev/shm; on their way to a GPU also page-locked
checkpoints   each rank's part of weights, moments and average, float32, page-locked while a thread writes it
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any

import numpy as np

from model.certificate.estimate import MASTER_BYTES, MOMENT_BYTES
from model.certificate.launch_plan import LaunchPlan
from model.data.draws import AugmentConfig, draw
from model.data.shared_memory import loader_memory
from model.engine.hardware import GPUS_IN_A_NODE

DRAWS = 64
VOXEL_BYTES = LABEL_BYTES = 1  # as bricks are stored and shipped, of a channel
GIB = 2**30


def host_memory(plan: LaunchPlan, augment: AugmentConfig, loaders: int) -> dict[str, Any]:
    """Of one node, with `loaders` processes a rank: as the certificate tells it."""
    ranks = min(plan.ranks, GPUS_IN_A_NODE)
    mean, largest = region_factors(augment, plan.patch, plan.spacing_mm)
    patches_bytes = plan.micro_batch * plan.voxels * (plan.channels * VOXEL_BYTES + LABEL_BYTES)
    taken, most = (loader_memory(ceil(factor * patches_bytes), loaders, ranks) for factor in (mean, largest))
    state_bytes = plan.parameters * (MASTER_BYTES + MOMENT_BYTES + MASTER_BYTES * plan.averaged)
    staged_bytes = ranks * state_bytes / plan.group
    return {
        "ranks": ranks,
        "loaders": loaders,
        "batch_mib": mean * patches_bytes / 2**20,
        "region_factor": {"mean": mean, "largest": largest},
        "shared_gib": taken.shared_bytes / GIB,
        "shared_most_gib": most.shared_bytes / GIB,  # if all batches were of the largest region
        "pinned_by_loaders_gib": taken.pinned_bytes / GIB,
        "pinned_by_checkpoints_gib": staged_bytes / GIB,
        "pinned_gib": (taken.pinned_bytes + staged_bytes) / GIB,
        "descriptors": taken.descriptors,
    }


def region_factors(augment: AugmentConfig, patch: Sequence[int], spacing_mm: Sequence[float]) -> tuple[float, float]:
    """How many times the patch's voxels the region has that it is sampled from: mean and largest of DRAWS draws.

    A patch that is turned, shrunk or bent needs the box around where its voxels come from; a case that ends earlier
    makes it smaller.
    """
    edges, rng = np.array(patch, dtype=float), np.random.default_rng(0)
    factors = []
    for _ in range(DRAWS):
        change = draw(augment, 1, patch, spacing_mm, rng)
        box = np.abs(change.matrix) @ (edges - 1) + 1
        if change.control is not None:
            box += np.ptp(change.control.reshape(3, -1), axis=1)
        factors.append(prod(np.ceil(box)) / prod(edges))
    return float(np.mean(factors)), float(np.max(factors))
