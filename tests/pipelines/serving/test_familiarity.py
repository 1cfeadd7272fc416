"""Scans that are unlike those of training are told, with the reason; what is alike is not, whatever its scale."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.network.config import rows_of
from pipelines.cases.preparation import CTScale, prepare
from pipelines.scans.volume_geometry import Geometry, Volume
from pipelines.serving import bottleneck, familiarity
from pipelines.serving.appearance import appearance, names
from pipelines.serving.conditions import Conditions
from pipelines.serving.familiarity import NETWORK, Familiarity, Known, Look, Rows
from pipelines.serving.references import Reference, known_of
from pipelines.serving.segmenter import Segmenter
from tests.pipelines.serving.networks import write_weights

SCALE = CTScale(-200.0, 300.0, 50.0, 100.0)
PATIENTS = 24


def scan(number: int, modality: str = "CT") -> np.ndarray:
    """A body with a bright organ at its front, top and right, another one a patient."""
    rng = np.random.default_rng(number)
    d, h, w = np.meshgrid(*(np.linspace(-1, 1, n) for n in (24, 32, 28)), indexing="ij")
    body = d**2 + (h / rng.uniform(0.85, 0.95)) ** 2 + (w / rng.uniform(0.85, 0.95)) ** 2 < 1
    at = np.asarray([0.3, 0.35, 0.3]) + rng.uniform(-0.06, 0.06, 3)
    organ = (d - at[0]) ** 2 + (h - at[1]) ** 2 + (w - at[2]) ** 2 < 0.1
    values = np.where(body, 40.0, -1000.0) + np.where(organ, 120.0, 0.0) + rng.normal(0, 12, body.shape)
    return (values if modality == "CT" else values + 1100 * body).astype(np.float32)


def look(array: np.ndarray, spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0), modality: str = "CT") -> Look:
    affine = np.diag([*spacing_mm[::-1], 1.0])
    d, h, w = array.shape
    volume = Volume(array, spacing_mm, affine, (w, h, d))
    image, geometry = prepare({modality: volume}, (2.0, 2.0, 2.0), SCALE)
    return appearance(image, [modality], geometry)


def rows(numbers: object, patients: list[str]) -> Rows:
    return Rows(np.asarray(numbers, np.float64), np.asarray(patients))


@pytest.fixture(scope="module")
def known() -> Familiarity:
    looks, patients = [look(scan(number)) for number in range(PATIENTS)], [f"p{n}" for n in range(PATIENTS)]
    groups = {group: Known.of(group, rows([each[group] for each in looks], patients)) for group in looks[0]}
    return Familiarity("ab" * 32, {"kits": groups})


def test_new_patients_of_the_same_kind_are_familiar(known: Familiarity) -> None:
    judged = [known.judged("kits", look(scan(number))) for number in range(100, 120)]
    assert not [each for each in judged if each.unfamiliar]
    assert all(not each.reasons and each.score is not None for each in judged)


@pytest.mark.parametrize(
    ("spoilt", "told"),
    [
        (lambda body: body + 1024, "intensities of CT"),
        (lambda body: body / 1000, "intensities of CT"),
        (lambda body: body[::-1], "what is bright where of CT"),
        (lambda body: body[:, :, ::-1], "what is bright where of CT"),
        (lambda body: np.minimum(body, 45), "intensities of CT"),
        (lambda body: body + np.random.default_rng(0).normal(0, 60, body.shape), "grain of CT"),
        (lambda body: body[:14, :18, :16], "field of view"),
    ],
)
def test_damage_is_told_by_what_it_spoils(known: Familiarity, spoilt: object, told: str) -> None:
    array = np.ascontiguousarray(spoilt(scan(200)), np.float32)  # type: ignore[operator]
    judged = known.judged("kits", look(array))
    assert judged.unfamiliar
    assert told in "; ".join(judged.reasons)
    assert all(warning.startswith("unfamiliar scan: ") for warning in judged.warnings)


def test_a_wrong_unit_of_length_is_told_in_millimetres(known: Familiarity) -> None:
    judged = known.judged("kits", look(scan(200), (20.0, 2.0, 2.0)))
    assert any("voxel size" in each and "foot to head, mm: 20, training 2 to 2" in each for each in judged.reasons)


def test_the_scale_of_an_mr_does_not_matter() -> None:
    one = look(scan(3, "T1"), modality="T1")
    other = look(scan(3, "T1") * 37, modality="T1")
    for group, numbers in one.items():
        np.testing.assert_allclose(numbers, other[group], atol=1e-3)


def test_every_number_has_a_name() -> None:
    for group, numbers in look(scan(0)).items():
        assert len(names(group)) == len(numbers)


def test_one_voxel_has_a_look() -> None:
    geometry = Geometry((1, 1, 1), tuple(map(tuple, np.eye(4).tolist())), (1, 1, 1), (0, 0, 0), (1, 1, 1), (1, 1, 1))
    assert all(np.isfinite(numbers).all() for numbers in appearance(np.ones((1, 1, 1, 1)), ["CT"], geometry).values())


def test_it_is_the_same_after_a_file_and_refused_of_other_code(
    known: Familiarity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Familiarity(known.weights_sha256, known.sources, {"kidney": 0.8})
    whole.write(tmp_path / "f.safetensors")
    found = familiarity.read(tmp_path / "f.safetensors")
    new = look(scan(300))
    assert found.judged("kits", new).score == pytest.approx(whole.judged("kits", new).score, rel=1e-5)
    assert found.counts() == {"kits": PATIENTS}
    assert found.unsure({"kidney": 0.7, "spleen": 0.1}) == [
        "kidney: confidence 0.70 is below 0.80, which 98 of 100 held-out scans reach"
    ]
    assert found.unsure({"kidney": 0.9}) == found.unsure({"kidney": 0.0}) == []
    monkeypatch.setattr(familiarity, "made_by", lambda: "0" * 64)
    with pytest.raises(ValueError, match="was made by other code; evaluate and register again"):
        familiarity.read(tmp_path / "f.safetensors")
    (tmp_path / "f.safetensors").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="is not readable"):
        familiarity.read(tmp_path / "f.safetensors")


def test_of_what_nothing_is_known_nothing_is_said(known: Familiarity) -> None:
    new = look(scan(300))
    assert known.judged("brats", new).score is None
    assert not known.judged("brats", new).unfamiliar
    assert "too few to tell" in known.judged("brats", new).reasons[0]
    assert "nothing can be told" in Familiarity().judged("kits", new).reasons[0]
    assert known.judged("kits", new).to_json()["bound"] == 1


def test_a_patients_own_scans_do_not_vouch_for_each_other() -> None:
    pairs = np.repeat(np.arange(6.0)[:, None] ** 2, 2, axis=0)
    alone, together = (Known.of("field", rows(pairs, [f"p{n // by}" for n in range(12)])).bound for by in (2, 1))
    assert alone > together
    assert Known.of("field", rows(np.zeros((6, 3)), [f"p{n}" for n in range(6)])).bound == pytest.approx(3**0.5)


def test_of_few_patients_others_tell_how_much_patients_differ() -> None:
    rng = np.random.default_rng(0)
    names = [f"p{n}" for n in range(40)]
    few, many = rows(rng.normal(5, 1, (2, 4)), names[:2]), rows(rng.normal(0, 1, (40, 4)), names)
    found = Known.of("field", few, [many])
    assert max(found.distance(row) for row in rng.normal(5, 1, (200, 4))) <= found.bound
    assert min(found.distance(row) for row in rng.normal(40, 1, (200, 4))) > found.bound
    references = [Reference(f"c{n}", "few", {"field": few.numbers[n]}) for n in range(2)]
    patients = {f"c{n}": names[n] for n in range(40)}
    assert not known_of(references, patients)
    lenders = [Reference(f"c{n}", "many", {"field": many.numbers[n]}) for n in range(40)]
    assert known_of([*references, *lenders], patients)["few"]["field"].bound == pytest.approx(found.bound)
    backwards = known_of([*references, *lenders][::-1], patients)  # scans come as they are ready: the file is the same
    for source, groups in known_of([*references, *lenders], patients).items():
        assert all(np.array_equal(known.seen, backwards[source][name].seen) for name, known in groups.items())


@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_the_encoder_alone_hears_what_segmenting_hears(
    tmp_path_factory: pytest.TempPathFactory, flips: tuple[int, ...]
) -> None:
    weights = write_weights(tmp_path_factory.mktemp("model") / "weights")
    segmenter = Segmenter.load(weights, Conditions.of_here(0.5, flips))
    segmenter.precision = torch.float32
    image = np.random.default_rng(0).normal(0, 1, (1, 20, 12, 24)).astype(np.float32)
    affine = tuple(map(tuple, np.eye(4).tolist()))
    geometry = Geometry((24, 12, 20), affine, (20, 12, 24), (0, 0, 0), (20, 12, 24), (2.0, 2.0, 2.0))
    heard = segmenter.segment(image, ["CT"], "kits", geometry).bottleneck
    rows = torch.tensor(rows_of(["CT"], segmenter.network.config.modalities))
    alone = bottleneck.mean_of(
        segmenter.network, torch.from_numpy(image), rows, (2.0, 2.0, 2.0), (16, 16, 16), 0.5, flips=flips
    )
    assert heard.shape == (segmenter.network.config.widths[-1],)
    np.testing.assert_allclose(heard, alone, atol=1e-5)
    assert not segmenter.network.encoder._forward_hooks
    assert NETWORK not in appearance(image, ["CT"], geometry)
