"""Laws of masked-volume modelling and of what fine-tuning takes over from it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model import weights
from model.certificate.flops import COUNTS
from model.data.casefile import Case, CaseRecord
from model.data.dataset import Batch, SampleStream
from model.data.draws import AugmentConfig
from model.data.validation import validation_batch, validation_patches
from model.engine.checkpoint import Checkpoints
from model.engine.optim import layer_scales
from model.engine.parallelize import ParallelNetwork
from model.engine.state import TrainState
from model.engine.task import TrainingTask
from model.engine.trainer import FitConfig, fit
from model.network import cpu_convolution
from model.network.config import PRESETS, strides
from model.network.medsegformer import MedSegFormer
from model.network.sizes import encoder_parameters, pretraining_flops, pretraining_parameters
from model.tasks.masked import MaskedAutoencoder, MaskedModelling, spread
from model.tasks.probe import Probe, discriminant
from model.weights_file import ENCODER, EncoderCard
from tests.model.engine.test_trainer import ALONE, CASES, FIT, STREAM, run_of
from tests.tolerances import agree, evaluation, reordered_sum

UNLABELLED = replace(STREAM, classes=(), structures={})
TASK = MaskedModelling(UNLABELLED, mask_stride=4, mask_fraction=0.5)
CARD = EncoderCard("nano", {}, {}, {}, (), {}, {})
CONFIG = replace(FIT, learning_rate=3e-3, validate_every=3, steps=6)


def new_network() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(PRESETS["nano"])


def batch_of(image: Tensor, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0), index: int = 0) -> Batch:
    modality = torch.arange(3, 3 + image.shape[1]).expand(len(image), -1)
    target = torch.zeros(len(image), *image.shape[2:], dtype=torch.long)
    return Batch(image, modality, target, torch.ones(len(image), 1, dtype=torch.bool), spacing_mm, ("a",), index)


def pretrain(
    folder: Path,
    config: FitConfig = CONFIG,
    task: TrainingTask = TASK,
    on_report: object = None,
    validation: bool = True,
) -> TrainState:
    def report(step: int, values: dict[str, float]) -> None:
        if callable(on_report):
            on_report(step, values)

    stream = SampleStream(CASES[:4], UNLABELLED)
    segmenting = run_of(folder, config, validation=CASES[:2] if validation else [], report=report)
    return fit(replace(segmenting, parallel=ParallelNetwork(new_network()), task=task, stream=stream))


def smooth_image(*shape: int) -> Tensor:
    torch.manual_seed(1)
    coarse = torch.randn(1, shape[0], *(n // 8 for n in shape[1:]))
    return torch.nn.functional.interpolate(coarse, size=shape[1:], mode="trilinear")


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (6.0, 1.0, 1.0)])
def test_what_is_hidden_cannot_be_seen_at_any_scale(spacing_mm: tuple[float, float, float]) -> None:
    """Whatever lies in hidden cells, the prediction is the same."""
    network = new_network().eval()
    batch = batch_of(torch.randn(1, 2, 16, 32, 32), spacing_mm)
    first, cells = TASK.forward(network, batch)
    tokens = TASK.masked_tokens(cells, batch)
    hidden = spread(tokens, strides(spacing_mm)[:2], batch.image.shape[2:]).unsqueeze(1)
    other = replace(batch, image=torch.where(hidden, 100 * torch.randn_like(batch.image), batch.image))
    assert 0.4 < hidden.float().mean() < 0.6
    assert torch.equal(TASK.forward(network, other)[0], first)
    seen = replace(batch, image=torch.where(hidden, batch.image, 100 * torch.randn_like(batch.image)))
    assert not torch.allclose(TASK.forward(network, seen)[0], first)


def test_which_cells_are_hidden_follows_from_seed_and_sample_number() -> None:
    four = batch_of(torch.zeros(4, 1, 16, 16, 16), index=8)
    hidden = TASK.hidden_cells(four)
    assert hidden.flatten(1).sum(1).tolist() == [32] * 4
    for row in range(4):
        alone = batch_of(torch.zeros(1, 1, 16, 16, 16), index=8 + row)
        assert torch.equal(TASK.hidden_cells(alone)[0], hidden[row])
    assert not torch.equal(hidden[0], hidden[1])
    assert not torch.equal(replace(TASK, stream=replace(UNLABELLED, seed=9)).hidden_cells(four), hidden)


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_some_cells_are_hidden_and_some_are_seen(fraction: float) -> None:
    hidden = replace(TASK, mask_fraction=fraction).hidden_cells(batch_of(torch.zeros(1, 1, 8, 8, 8)))
    assert hidden.any()
    assert not hidden.all()


def test_the_mean_of_each_cell_has_loss_one_and_the_truth_none() -> None:
    batch = batch_of(torch.randn(2, 2, 16, 16, 16))
    cells = TASK.hidden_cells(batch)
    agree(TASK.loss((torch.zeros_like(batch.image), cells), batch), torch.ones(2), reordered_sum(32 * 64))
    target, _ = TASK.targets(batch)
    truth = target.unflatten(-1, (4, 4, 4)).permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(batch.image.shape)
    assert TASK.loss((truth, cells), batch).tolist() == [0, 0]


def test_a_loss_does_not_depend_on_what_shares_the_batch() -> None:
    network, pair = new_network(), batch_of(torch.randn(2, 1, 16, 16, 16))
    both = TASK.loss(TASK.forward(network, pair), pair)
    for row in range(2):
        alone = batch_of(pair.image[row : row + 1], index=row)
        agree(TASK.loss(TASK.forward(network, alone), alone)[0], both[row], evaluation(network))


def test_air_and_absent_channels_are_nothing_to_predict() -> None:
    image = torch.randn(1, 2, 16, 16, 16)
    image[:, 0] = 0.01 * image[:, 0]
    batch = batch_of(image)
    assert not TASK.targets(batch)[1][:, 0].any()
    assert TASK.targets(batch)[1][:, 1].all()
    absent = replace(batch, modality=torch.tensor([[3, 0]]))
    assert not TASK.targets(absent)[1].any()
    assert TASK.loss((torch.ones_like(image), TASK.hidden_cells(batch)), absent).item() == 0


def test_a_cell_is_as_thick_as_the_network_leaves_its_axis() -> None:
    batch = batch_of(torch.randn(1, 1, 12, 32, 32), (10.0, 1.5, 1.5))
    assert TASK.by_cell(batch.image, batch.spacing_mm).shape == (1, 1, 12, 8, 8, 16)
    eight = replace(TASK, mask_stride=8)
    assert eight.by_cell(batch.image, batch.spacing_mm).shape == (1, 1, 6, 4, 4, 128)
    assert eight.masked_tokens(eight.hidden_cells(batch), batch).shape == (1, 12, 8, 8)


def test_channels_are_reconstructed_each_by_its_modality_in_any_order() -> None:
    network, batch = new_network().eval(), batch_of(torch.randn(1, 2, 16, 16, 16))
    turned = replace(batch, image=batch.image.flip(1), modality=batch.modality.flip(1))
    one, other = TASK.forward(network, batch)[0], TASK.forward(network, turned)[0]
    agree(other.flip(1), one, evaluation(network))
    assert not torch.allclose(one[:, 0], one[:, 1])


@pytest.mark.parametrize("preset", ["nano", "tiny"])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (10.0, 1.5, 1.5)])
def test_closed_forms_are_those_of_the_built_network(
    preset: str, spacing_mm: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_convolution, "is_needed", lambda _volume: False)  # a CPU's detours count differently
    config, batch = PRESETS[preset], batch_of(torch.randn(1, 2, 12, 40, 24), spacing_mm)
    network = MaskedAutoencoder(config)
    taken = [p.numel() for name, p in network.named_parameters() if name.startswith(weights.PRETRAINED)]
    assert sum(p.numel() for p in network.parameters()) == pretraining_parameters(config)
    assert sum(taken) == encoder_parameters(config)
    with FlopCounterMode(display=False, custom_mapping=COUNTS) as counter, torch.no_grad():
        TASK.forward(network, batch)
    assert counter.get_total_flops() == pretraining_flops(config, (12, 40, 24), spacing_mm, channels=2)


def test_every_parameter_has_a_gradient_whatever_the_channels() -> None:
    for channels in (1, 2):
        network, batch = new_network(), batch_of(torch.randn(1, channels, 16, 16, 16))
        TASK.loss(TASK.forward(network, batch), batch).sum().backward()
        assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def test_pretraining_learns_what_can_be_seen_from_around(tmp_path: Path) -> None:
    image = smooth_image(1, 32, 32, 32).numpy()[0].astype(np.float32)
    record = CaseRecord("a", "acdc", "train", ("CINE",), (), (1.0, 1.0, 1.0), {})
    case = Case(record, image, np.zeros(image.shape[1:], np.uint8), np.zeros((0, 4), np.int32))
    stream = replace(UNLABELLED, augment=AugmentConfig(spatial_probability=0.0), micro_batch=4, foreground_fraction=0)
    config = replace(CONFIG, steps=60, global_batch=4, average_decay=0.9, validate_every=60)
    task = replace(TASK, stream=stream)
    run = replace(run_of(tmp_path, config, validation=[case]), checkpoints=Checkpoints(tmp_path, ALONE, every_s=1e9))
    network = ParallelNetwork(new_network())
    state = fit(replace(run, parallel=network, task=task, stream=SampleStream([case], stream)))
    before, after = (point["validation_explained.mean"] for point in state.curve)
    assert before < 0.1
    assert after > 0.2


def test_a_pretraining_that_stops_and_goes_on_is_equal_to_the_bit(tmp_path: Path) -> None:
    whole = pretrain(tmp_path / "whole")

    class InterruptedRunError(Exception):
        pass

    def interrupt(step: int, _values: dict[str, float]) -> None:
        if step == 3:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        pretrain(tmp_path / "halves", on_report=interrupt)
    rest = pretrain(tmp_path / "halves")
    assert rest.curve == whole.curve
    assert [point["step"] for point in whole.curve] == [0, 3, 6]
    assert all(torch.equal(tensor, rest.tensors()[name]) for name, tensor in whole.tensors().items())


def test_a_picture_shows_what_was_seen_as_it_is_and_predicts_only_what_was_hidden() -> None:
    network, case = new_network().eval(), CASES[5]  # four channels
    image, hidden, painted = TASK.painted(network, case, ALONE.device, "float32")
    (patch,) = validation_patches([case], UNLABELLED, most=1)
    assert torch.equal(image, validation_batch(patch, UNLABELLED).image[0])
    assert 0.4 < hidden.float().mean() < 0.6
    assert torch.equal(painted[:, ~hidden], image[:, ~hidden])
    assert not torch.isclose(painted[:, hidden], image[:, hidden]).all()


def save_encoder(folder: Path, network: MaskedAutoencoder) -> Path:
    folder.mkdir(exist_ok=True)
    tensors = {n: p.data for n, p in network.named_parameters() if n.startswith(weights.PRETRAINED)}
    weights.export(folder, tensors, CARD, ENCODER)
    return folder


def test_fine_tuning_starts_from_the_encoder_and_leaves_the_rest(tmp_path: Path) -> None:
    pretrained, network = new_network(), MedSegFormer(PRESETS["nano"], 4)
    decoder = {name: p.detach().clone() for name, p in network.decoder.named_parameters()}
    weights.load_encoder(network, save_encoder(tmp_path, pretrained))
    for part in ("embedding", "encoder"):
        theirs = dict(getattr(pretrained, part).named_parameters())
        assert all(torch.equal(p, theirs[name]) for name, p in getattr(network, part).named_parameters())
    assert all(torch.equal(p, decoder[name]) for name, p in network.decoder.named_parameters())
    with safe_open(tmp_path / f"{ENCODER}.safetensors", "pt") as file:
        assert json.loads(file.metadata()["medsegformer"]) == json.loads(json.dumps(vars(CARD)))


def test_an_encoder_that_does_not_fit_is_refused_by_name_and_nothing_is_copied(tmp_path: Path) -> None:
    network = MedSegFormer(PRESETS["tiny"], 4)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    with pytest.raises(
        ValueError, match=r"does not fit this network: .*embedding\.condition\.bias is \[16\], not \[32\]"
    ):
        weights.load_encoder(network, save_encoder(tmp_path, new_network()))
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    network = new_network()
    tensors = {n: p.data for n, p in network.named_parameters() if n.startswith(weights.PRETRAINED)}
    del tensors["embedding.condition.bias"]
    weights.export(tmp_path, {**tensors, "encoder.extra": torch.zeros(1)}, CARD, ENCODER)
    with pytest.raises(ValueError, match=r"embedding\.condition\.bias is missing; encoder\.extra is unknown"):
        weights.load_encoder(MedSegFormer(PRESETS["nano"], 4), tmp_path)


def test_a_frozen_encoder_stays_as_it_is_also_over_a_stop(tmp_path: Path) -> None:
    def frozen() -> MedSegFormer:
        torch.manual_seed(0)
        network = MedSegFormer(PRESETS["nano"], 4)
        network.embedding.requires_grad_(False)
        network.encoder.requires_grad_(False)
        return network

    start = {name: p.detach().clone() for name, p in frozen().named_parameters()}
    states = []
    for name, steps in (("whole", (4,)), ("halves", (2, 4))):
        for number in steps:
            config = replace(FIT, steps=number, schedule="trapezoid")
            # A constant rate, so that the shorter run is the beginning of the longer one.
            config = replace(config, learning_rate=1e-3, final_learning_rate=1e-3, warmup_steps=0)
            state = fit(replace(run_of(tmp_path / name, config), parallel=ParallelNetwork(frozen())))
        states.append(state)
    for name, tensor in states[0].final_weights().items():
        assert torch.equal(tensor, states[1].final_weights()[name])
        assert torch.equal(tensor, start[name]) == name.startswith(weights.PRETRAINED), name


def test_layers_nearer_to_the_input_learn_slower() -> None:
    network = MedSegFormer(PRESETS["tiny"], 4)
    names = {parameter: name for name, parameter in network.named_parameters()}
    scales = {names[parameter]: scale for parameter, scale in layer_scales(network, 0.5).items()}
    assert {scale for name, scale in scales.items() if name.startswith("decoder.")} == {1.0}
    assert {scale for name, scale in scales.items() if name.startswith("encoder.stages.3.blocks.1.")} == {0.5}
    assert {scale for name, scale in scales.items() if name.startswith("encoder.stages.3.downsample.")} == {0.25}
    assert {scale for name, scale in scales.items() if name.startswith("embedding.")} == {0.5**7}
    assert set(layer_scales(network, 1.0).values()) == {1.0}


def test_the_discriminant_finds_classes_that_are_linear_in_the_features_however_rare() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5000, 3, dtype=torch.float64)
    classes = (torch.rand(5000) < 0.02).long()
    rows[classes == 1] += torch.tensor([6.0, 0.0, 0.0])
    rows = torch.cat([rows, torch.ones(5000, 1)], dim=1)
    products = rows.T @ torch.cat([rows, torch.nn.functional.one_hot(classes, 3)], dim=1)  # class 2 never occurs
    found = (rows @ discriminant(products)).argmax(1)
    assert (found == classes).double().mean() > 0.998


def test_the_probe_segments_what_is_linear_in_the_features() -> None:
    """Features that are the image itself, whose structures have values of their own."""

    class Values(torch.nn.Module):
        def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
            return torch.cat([image, image**2], dim=1)[:, :, 2::4, 2::4, 2::4].permute(0, 2, 3, 4, 1)

    cases = CASES[:4]
    probe = Probe(replace(STREAM, augment=AugmentConfig()), tuple(cases[:3]))
    scores = probe.score(Values(), cases[3:], ALONE, "float32")
    assert set(scores[0]) == {"probe_dice.right_ventricle", "probe_dice.myocardium"}
    assert min(scores[0].values()) > 0.5
    assert all(np.isfinite(value) for value in scores[0].values())
    thick = [replace(case, record=replace(case.record, spacing_mm=(10.0, 1.5, 1.5))) for case in cases]
    probe = replace(probe, cases=tuple(thick[:3]))  # tokens as thick as the slices: interpolated along two axes only

    class Thick(Values):
        def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
            return torch.cat([image, image**2], dim=1)[:, :, :, 2::4, 2::4].permute(0, 2, 3, 4, 1)

    assert min(probe.score(Thick(), thick[3:], ALONE, "float32")[0].values()) > 0.5
    assert probe.score(Values(), CASES[4:], ALONE, "float32") == []  # a source without labels to learn from
