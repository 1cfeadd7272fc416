"""Which patches of a case the validation curve looks at: where its structures are, and at as many places as it takes.

    for patch in validation_patches(cases, config):
        batch = validation_batch(patch, config)

Each patch lies around a voxel of the foreground that no earlier patch of the case holds, of a structure that none has
shown if there is one. The draw depends on the seed and the case alone: all points of a curve look at the same patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from model.data.casefile import Case
from model.data.dataset import Batch, Patch, RawBatch, StreamConfig, finish, keep_inside
from model.data.draws import PLAIN_CROP, Purpose, draw, generator

PATCHES = 4  # of a case at most; two kidneys, a lesion elsewhere, and one more. A case that one patch shows takes one


def validation_patches(cases: Sequence[Case], config: StreamConfig, most: int = PATCHES) -> list[Patch]:
    """Up to `most` plain patches of every case, one after the other; of a case without foreground, its middle."""
    patches = []
    for case in cases:
        shape = config.patch_size[case.record.source]
        plain = draw(PLAIN_CROP, case.image.shape[0], shape, case.record.spacing_mm, np.random.default_rng(0))
        patches += [Patch(case, centre, shape, plain) for centre in _centres(case, shape, config.seed, most)]
    return patches


def validation_batch(patch: Patch, config: StreamConfig) -> Batch:
    return finish(RawBatch((patch.read(),), (patch.case.record,)), config)


def _centres(case: Case, shape: Sequence[int], seed: int, most: int) -> list[tuple[float, float, float]]:
    size, foreground = case.label.shape, case.foreground[:]
    if not len(foreground):
        return [keep_inside(np.array(size) / 2, size, shape)]
    number = int.from_bytes(hashlib.sha256(case.record.case_id.encode()).digest()[:8], "little")
    rng = generator(seed, number, Purpose.VALIDATION)
    ids, voxels = foreground[:, 0], foreground[:, 1:]
    hidden = np.ones(len(ids), dtype=bool)
    centres: list[tuple[float, float, float]] = []
    while hidden.any() and len(centres) < most:
        unseen = hidden & ~np.isin(ids, ids[~hidden])
        candidates = np.flatnonzero(unseen if unseen.any() else hidden)
        structure = rng.choice(np.unique(ids[candidates]))
        centre = keep_inside(voxels[rng.choice(candidates[ids[candidates] == structure])], size, shape)
        corner = np.floor(centre) - np.array(shape) // 2
        hidden &= ~((voxels >= corner) & (voxels < corner + shape)).all(axis=1)
        centres.append(centre)
    return centres
