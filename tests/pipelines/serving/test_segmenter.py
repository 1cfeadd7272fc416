"""A segmenter's answer is that of the plain method: all probabilities at once, resampled as a whole."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from model.tasks.inference import sliding_window
from pipelines.cases.resampling import resample
from pipelines.scans import vocabulary
from pipelines.scans.volume import restore
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving.certainty import EVERYTHING, FOREGROUND
from pipelines.serving.conditions import Conditions
from pipelines.serving.segmenter import Segmenter
from tests.pipelines.serving.networks import SPACING, write_weights

WINDOW, CLASSES = 16, 5


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("model") / "weights", WINDOW, CLASSES)


def loaded(weights: Path, flips: tuple[int, ...] = (), overlap: float = 0.5) -> Segmenter:
    found = Segmenter.load(weights, Conditions.of_here(overlap, flips))
    found.precision = torch.float32
    return found


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (1, *size)).astype(np.float32)


def geometry(crop: tuple[int, int, int], spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Geometry:
    """Of a crop that begins at voxel 1, 2, 3 of a scan that ends with it; its file's axes point left, back and up."""
    d, h, w = (n + at for n, at in zip(crop, (1, 2, 3), strict=True))
    affine = tuple(map(tuple, np.diag([-1.0, -1.0, 1.0, 1.0]).tolist()))
    return Geometry((w, h, d), affine, (d, h, w), (1, 2, 3), crop, spacing_mm)


def plain(segmenter: Segmenter, scan: np.ndarray) -> np.ndarray:
    record, groups = segmenter.plan.sources["kits"], [(index,) for index in range(CLASSES + 1)]
    modality = torch.tensor([1])
    scanned = (segmenter.network, torch.from_numpy(scan), modality, record.spacing_mm, groups, (WINDOW,) * 3)
    return sliding_window(*scanned, segmenter.overlap).numpy()


@pytest.mark.parametrize("crop", [(30, 20, 36), (20, 14, 24), (12, 25, 9)])
def test_both_label_maps_are_those_of_the_plain_method(weights: Path, crop: tuple[int, int, int]) -> None:
    segmenter, scan, place = loaded(weights), image(20, 14, 24), geometry(crop)
    probability = plain(segmenter, scan)
    ids = np.array([0, *(segmenter.card.structures[name] for name in segmenter.card.classes)], np.uint8)
    found = segmenter.segment(scan, ["CT"], "kits", place)
    shares = np.stack([resample(each, crop, order=1) for each in probability])
    ordered = np.sort(shares, axis=0)
    sure = restore((ordered[-1] - ordered[-2] > 1e-5).astype(np.uint8), place) > 0
    assert found.label.shape == place.file_shape
    np.testing.assert_array_equal(found.label[sure], restore(ids[shares.argmax(0)], place)[sure])
    assert sure.sum() > 0.99 * np.prod(crop)
    assert (found.on_grid == ids[probability.argmax(0)]).mean() > 0.999


def test_confidence_and_volume_are_told_of_classes_and_of_unions_that_they_make_up(weights: Path) -> None:
    segmenter, scan = loaded(weights), image(20, 14, 24)
    found = segmenter.segment(scan, ["CT"], "kits", geometry((40, 28, 48)))
    probability, words = plain(segmenter, scan), vocabulary.default()
    told = set(segmenter.card.classes)
    whole = {name for name in words if words.atoms(name) <= set().union(*map(words.atoms, told))}
    assert told < set(found.confidence) == set(found.volume_ml) == whole
    for name, confidence in found.confidence.items():
        own = [n for n, each in enumerate(segmenter.card.classes, 1) if words.atoms(each) <= words.atoms(name)]
        soft, mask = probability[own].sum(0, dtype=np.float64), np.isin(probability.argmax(0), own)
        assert confidence == pytest.approx(2 * (soft * mask).sum() / (soft + mask).sum(), abs=1e-5)
        assert found.volume_ml[name] == pytest.approx(soft.sum() * 8 / 1000, rel=1e-5)
    assert found.flip_dice == found.reliability == {}


def test_with_flips_the_views_are_compared(weights: Path) -> None:
    found = loaded(weights, flips=(1, 2)).segment(image(20, 14, 24), ["CT"], "kits", geometry((20, 14, 24)))
    assert set(found.flip_dice) == set(found.confidence)
    assert all(0 <= value <= 1 for value in found.flip_dice.values() if not np.isnan(value))
    alone = loaded(weights).segment(image(20, 14, 24), ["CT"], "kits", geometry((20, 14, 24)))
    assert found.confidence != alone.confidence


def test_with_a_reference_probabilities_are_held_against_it(weights: Path) -> None:
    segmenter, scan = loaded(weights), image(20, 14, 24)
    said = segmenter.segment(scan, ["CT"], "kits", geometry((20, 14, 24))).on_grid
    found = segmenter.segment(scan, ["CT"], "kits", geometry((20, 14, 24)), reference=said).reliability
    assert found[EVERYTHING].counts.sum() == found[EVERYTHING].right.sum() == said.size
    assert found[FOREGROUND].counts.sum() == (said > 0).sum()
    none = np.zeros_like(said)
    nothing = segmenter.segment(scan, ["CT"], "kits", geometry((20, 14, 24)), none, ()).reliability[EVERYTHING]
    assert nothing.counts.sum() == nothing.right.sum() == said.size  # of what nobody annotated nothing is wrong


def test_windows_that_overflow_are_told_once_a_scan(
    weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = loaded(weights, overlap=0.0)
    expected = segmenter.segment(image(16, 16, 32), ["CT"], "kits", geometry((16, 16, 32))).label
    segmenter.precision = torch.bfloat16
    forward = type(segmenter.network).forward

    def overflowing(*arguments: object, **more: object) -> torch.Tensor:
        logits = forward(*arguments, **more)  # type: ignore[arg-type]
        return logits * torch.inf if torch.is_autocast_enabled("cpu") else logits

    monkeypatch.setattr(type(segmenter.network), "forward", overflowing)
    with caplog.at_level(logging.WARNING):
        found = segmenter.segment(image(16, 16, 32), ["CT"], "kits", geometry((16, 16, 32)))
    assert [record.message for record in caplog.records] == [
        "2 of 2 windows overflowed in bfloat16 and were repeated in float32"
    ]
    np.testing.assert_array_equal(found.label, expected)


def test_the_grid_of_the_network_is_used_as_it_is_where_the_files_is_the_same(weights: Path) -> None:
    place = geometry((20, 14, 24), SPACING)
    found = loaded(weights).segment(image(20, 14, 24), ["CT"], "kits", place)
    np.testing.assert_array_equal(found.label, restore(found.on_grid, place))
