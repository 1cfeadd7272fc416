"""What probabilities say of their own label map: known values, and whole arrays against blocks."""

import numpy as np
import pytest
import torch

from model.data.targets import IGNORED, meaning
from model.tasks.inference import largest
from pipelines.serving.certainty import BINS, EVERYTHING, FOREGROUND, Calibrating, Certainty, CertaintyCounts, agreement

MEMBERS = {"left": [1], "right": [2], "both": [1, 2]}
IDS = {"left": 10, "right": 11, "both": 12}


def probabilities(*size: int) -> torch.Tensor:
    return torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).mul(2).softmax(0)


def taken(probability: torch.Tensor, parts: int = 1) -> Certainty:
    found = Certainty(MEMBERS, 3)
    for part in probability.chunk(parts, dim=1):
        found.take(part, *largest(part))
    return found


def test_soft_dice_confidence_is_its_formula_in_any_blocks() -> None:
    probability = probabilities(6, 5, 4)
    which = probability.argmax(0)
    for parts in (1, 3):
        found = taken(probability, parts).confidence()
        for name, own in MEMBERS.items():
            mask, soft = torch.isin(which, torch.tensor(own)).double(), probability[own].sum(0).double()
            assert found[name] == pytest.approx(float(2 * (soft * mask).sum() / (soft + mask).sum()), rel=1e-6)
        assert taken(probability, parts).voxels()["both"] == pytest.approx(float(probability[1:].sum()), rel=1e-6)


def test_whoever_is_certain_has_confidence_one_and_an_empty_mask_has_none() -> None:
    certain = torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1]]]), 3).permute(3, 0, 1, 2).float()
    assert taken(certain).confidence()["left"] == taken(certain).confidence()["both"] == 1
    assert np.isnan(taken(certain).confidence()["right"])
    unsure = torch.tensor([0.6, 0.2, 0.2]).view(3, 1, 1, 1).expand(3, 2, 2, 2)
    assert taken(unsure).confidence() == {"left": 0, "right": 0, "both": 0}


def test_agreement_of_views_is_the_mean_of_their_dice() -> None:
    views = [torch.tensor(view) for view in ([0, 1, 1, 2], [0, 1, 2, 2], [0, 0, 0, 0])]
    pairs = torch.zeros(3, 3, 3, dtype=torch.float64)
    for number, (one, other) in enumerate(((0, 1), (0, 2), (1, 2))):
        for a, b in zip(views[one], views[other], strict=True):
            pairs[number, a, b] += 1
    found = agreement(MEMBERS, pairs.numpy())
    assert found["left"] == pytest.approx((2 / 3 + 0 + 0) / 3)
    assert found["both"] == pytest.approx((1 + 0 + 0) / 3)
    assert np.isnan(agreement({"none": [2]}, np.zeros((1, 3, 3)))["none"])


def calibrated(
    annotated: tuple[str, ...], reference: np.ndarray, probability: torch.Tensor
) -> dict[str, CertaintyCounts]:
    covers = {"left": (1,), "right": (2,), "both": (1, 2)}
    meant = meaning(annotated, IDS, covers, {}, 3)
    found = Calibrating(meant, [meant.targets.values(3)[index] for index in range(3)])
    for part, voxels in zip(probability.chunk(2, dim=1), np.array_split(reference, 2), strict=True):
        found.take(voxels, part, *largest(part))
    return found.found


def test_calibration_counts_voxels_hits_and_probabilities_by_bin_without_the_undecided() -> None:
    probability = probabilities(6, 5, 4)
    best, which = (array.numpy() for array in probability.max(0))
    reference = np.array([0, 10, 11], np.int16)[np.random.default_rng(0).integers(0, 3, which.shape)]
    reference[0, 0] = IGNORED
    found = calibrated(("left", "right"), reference, probability)
    decided = reference != IGNORED
    right = np.array([0, 10, 11])[which] == reference
    for kind, chosen in ((EVERYTHING, decided), (FOREGROUND, decided & ((reference > 0) | (which > 0)))):
        for number, (low, high) in enumerate(zip(found[kind].edges, found[kind].edges[1:], strict=False)):
            inside = chosen & (best >= low) & ((best < high) | (high == 1))
            assert found[kind].counts[number] == inside.sum()
            assert found[kind].right[number] == (inside & right).sum()
            assert found[kind].probability[number] == pytest.approx(best[inside].sum(), rel=1e-6)
        assert found[kind].counts.sum() == chosen.sum()
        assert len(found[kind].counts) == BINS


def test_a_reference_that_knows_only_the_union_is_met_by_the_sum_of_its_parts() -> None:
    probability = torch.tensor([0.4, 0.3, 0.3]).view(3, 1, 1, 1).expand(3, 2, 2, 2).contiguous()
    reference = np.full((2, 2, 2), IDS["both"], np.int16)
    found = calibrated(("both",), reference, probability)[EVERYTHING]
    assert found.counts[12] == found.right[12] == 8  # 0.6
    assert found.probability[12] == pytest.approx(8 * 0.6)


def test_of_structures_that_nobody_annotated_nothing_is_said() -> None:
    probability = torch.tensor([0.3, 0.3, 0.4]).view(3, 1, 1, 1).expand(3, 2, 2, 2).contiguous()
    found = calibrated(("left",), np.zeros((2, 2, 2), np.uint8), probability)
    assert found[EVERYTHING].right.sum() == 8
    assert found[FOREGROUND].counts.sum() == 0
