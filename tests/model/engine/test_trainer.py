"""Laws of the training loop and of the sample stream, on real small cases."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from model.data import casefile
from model.data.casefile import Case, CaseRecord, open_cases
from model.data.dataset import Batch, RawStream, SampleStream, StreamConfig, collate, finish, loader
from model.data.draws import PLAIN_CROP, AugmentConfig
from model.engine.checkpoint import Checkpoints
from model.engine.optim import LossScale, WeightAverage, learning_rate
from model.engine.parallelize import ParallelNetwork
from model.engine.progress import Report
from model.engine.ranks import Ranks
from model.engine.state import TrainState
from model.engine.trainer import (
    FitConfig,
    Run,
    StepResult,
    accumulate,
    fit,
    micro_batches,
    micro_steps,
    new_state,
    update,
)
from model.engine.watch import Watch
from model.network.config import PRESETS
from model.network.medsegformer import MedSegFormer
from model.tasks.segmentation import Segmentation
from tests import tolerances

HEART = {"right_ventricle": 3, "myocardium": 4}
BRAIN = {"tumour_oedema": 7}
STREAM = StreamConfig(
    classes=("right_ventricle", "myocardium", "tumour_oedema"),
    structures={**HEART, **BRAIN},
    patch_size={"acdc": (16, 16, 16), "brats": (16, 16, 16)},
    micro_batch=2,
    seed=3,
    foreground_fraction=0.7,
    source_balance=0.5,
    augment=AugmentConfig(),
)
FIT = FitConfig(
    steps=4, global_batch=4, optimizer="adamw", learning_rate=1e-3, final_learning_rate=1e-5,
    schedule="cosine", warmup_steps=1, beta2=0.99, weight_decay=0.01, clip_norm=1.0, precision="float32",
    average_decay=0.9, validate_every=2,
)  # fmt: skip
ALONE = Ranks(0, 1, torch.device("cpu"))
TASK = Segmentation(STREAM)
EVERY_STEP_S, NEVER_S = 0.0, 1e9  # between two checkpoints


def make_case(number: int, source: str, modalities: tuple[str, ...], structures: dict[str, int]) -> Case:
    rng = np.random.default_rng(number)
    label = np.zeros((20, 20, 20), np.uint8)
    for position, value in enumerate(structures.values()):
        label[4 + 6 * position : 10 + 6 * position, 4:16, 4:16] = value
    image = (label * 0.3 + rng.normal(0, 0.1, (len(modalities), 20, 20, 20))).astype(np.float16)
    foreground = np.column_stack([label[label > 0], np.argwhere(label > 0)])[::20].astype(np.int32)
    record = CaseRecord(f"{source}-{number}", source, "train", modalities, tuple(structures), (1.0, 1.0, 1.0), {})
    return Case(record, image, label, foreground)


CASES = [
    *(make_case(number, "acdc", ("CINE",), HEART) for number in range(4)),
    make_case(4, "brats", ("FLAIR", "T1CE"), BRAIN),
    make_case(5, "brats", ("FLAIR", "T1", "T1CE", "T2"), BRAIN),
]


def new_network() -> MedSegFormer:
    torch.manual_seed(0)
    return MedSegFormer(PRESETS["nano"], num_classes=4)


def train(
    folder: Path,
    config: FitConfig = FIT,
    cases: Sequence[Case] = CASES,
    validation: Sequence[Case] = (),
    reported: list[tuple[int, dict[str, float]]] | None = None,
    micro_batch: int = 2,
    every_s: float = EVERY_STEP_S,
) -> TrainState:
    """A whole run on one rank, or what is left of it: `folder` keeps its checkpoints, one each `every_s`."""

    def report(step: int, values: dict[str, float]) -> None:
        if reported is not None:
            reported.append((step, values))

    return fit(run_of(folder, config, cases, validation, report, micro_batch, every_s))


def run_of(
    folder: Path,
    config: FitConfig = FIT,
    cases: Sequence[Case] = CASES,
    validation: Sequence[Case] = (),
    report: Report = lambda step, values: None,
    micro_batch: int = 2,
    every_s: float = EVERY_STEP_S,
) -> Run:
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()  # of a run that was interrupted here: a process that ended would write no more
    return Run(
        parallel=ParallelNetwork(new_network()),
        task=TASK,
        stream=SampleStream(cases, replace(STREAM, micro_batch=micro_batch)),
        validation=validation,
        config=config,
        ranks=ALONE,
        report=report,
        checkpoints=Checkpoints(folder, ALONE, every_s),
        watch=Watch(folder, 0),
    )


def first_step(
    network: MedSegFormer, batches: Iterator[Batch], micro_batch: int = 2, seed: int = 3, task: Segmentation = TASK
) -> StepResult:
    """Gradients of one step, left in the network."""
    nothing: Any = None  # is reported or saved
    stream = SampleStream((), replace(STREAM, micro_batch=micro_batch, seed=seed))
    run = Run(ParallelNetwork(network), task, stream, (), FIT, ALONE, nothing, nothing, nothing)
    return accumulate(run, new_state(network, FIT), batches)


def same(one: Batch, other: Batch) -> bool:
    tensors = all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("image", "modality", "target"))
    return tensors and one.targets == other.targets


def test_a_micro_batch_is_a_pure_function_of_its_number() -> None:
    stream, again = SampleStream(CASES, STREAM), SampleStream(CASES, STREAM)
    late = stream[7]
    for index in range(7):
        again[index]
    assert same(late, again[7])
    assert not same(late, again[8])
    assert not same(late, SampleStream(CASES, replace(STREAM, seed=4))[7])


def test_worker_processes_do_not_change_the_stream() -> None:
    stream = SampleStream(CASES, STREAM)
    for one, other in zip(loader(stream, range(4), 0), loader(stream, range(4), 1), strict=True):
        assert same(one, other)


def test_augmenting_where_the_network_is_gives_the_same_batches() -> None:
    """As on a GPU: the loader reads regions, the rank finishes them."""
    stream = SampleStream(CASES, STREAM)
    for index, raw in enumerate(DataLoader(RawStream(stream), None, sampler=range(4), num_workers=1)):
        assert same(finish(raw.to(ALONE.device), STREAM), stream[index])


def test_any_number_of_ranks_takes_the_same_micro_batches() -> None:
    whole = list(micro_batches(0, 6, micro_steps(4, 2, 1), ALONE))
    ranks = [list(micro_batches(0, 6, micro_steps(4, 2, 2), Ranks(rank, 2, ALONE.device))) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == whole == list(range(12))
    for step in range(6):  # and within the same optimiser step
        assert {ranks[0][step], ranks[1][step]} == set(whole[2 * step : 2 * step + 2])


def test_ranks_that_cannot_share_the_batch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"global_batch 4 cannot be shared by 3 ranks"):
        micro_steps(4, 2, 3)


def test_a_micro_batch_is_of_one_source_and_marks_what_it_annotates() -> None:
    stream = SampleStream(CASES, STREAM)
    seen = set()
    for index in range(20):
        batch = stream[index]
        (targets,) = set(batch.targets)
        seen.add(targets.groups)
        assert set(batch.target.unique().tolist()) <= set(range(len(targets.groups)))
    assert seen == {((0, 3), (1,), (2,)), ((0, 1, 2), (3,))}


def test_a_case_with_fewer_channels_is_filled_up_with_absent_ones() -> None:
    patches = [(torch.ones(2, 4, 4, 4), torch.zeros(4, 4, 4)), (torch.ones(4, 4, 4, 4), torch.zeros(4, 4, 4))]
    batch = collate([case.record for case in CASES[4:6]], patches, STREAM)
    assert (batch.modality == 0).sum() == 2
    assert batch.image[0, 2:].abs().sum() == 0


def test_foreground_oversampling_reaches_a_small_structure() -> None:
    case = make_case(0, "acdc", ("CINE",), HEART)
    label = np.zeros((64, 64, 64), np.uint8)
    label[2, 2, 2] = 3
    far = Case(case.record, np.zeros((1, 64, 64, 64), np.float16), label, np.array([[3, 2, 2, 2]], np.int32))
    config = replace(STREAM, foreground_fraction=1.0, augment=PLAIN_CROP)
    assert all((SampleStream([far], config)[index].target > 0).any() for index in range(3))


def test_a_sample_does_not_depend_on_the_size_of_its_micro_batch() -> None:
    alone = [SampleStream(CASES[:4], replace(STREAM, micro_batch=1))[index] for index in range(4)]
    pairs = [SampleStream(CASES[:4], STREAM)[index] for index in range(2)]
    for one, other in zip(
        alone, [pair for batch in pairs for pair in zip(batch.cases, batch.image, strict=True)], strict=True
    ):
        assert one.cases == (other[0],)
        assert torch.equal(one.image[0], other[1])


class DrawingTask(Segmentation):
    """Tells what the network would have drawn first."""

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        return super().loss(outputs, batch) * 0 + self.drawn

    def forward(self, network: torch.nn.Module, batch: Batch) -> Any:
        object.__setattr__(self, "drawn", float(torch.rand(())))
        return super().forward(network, batch)


def test_what_a_step_drops_follows_from_seed_and_number_not_from_their_sum() -> None:
    batch = SampleStream(CASES, STREAM)[0]

    def drawn(seed: int, number: int) -> float:
        batches = iter([replace(batch, index=number)] * 2)
        return first_step(new_network(), batches, seed=seed, task=DrawingTask(STREAM)).loss

    assert drawn(0, 5) == drawn(0, 5)
    assert len({drawn(0, 5), drawn(5, 0), drawn(0, 6)}) == 3


def test_training_lowers_the_loss_and_the_average_follows(tmp_path: Path) -> None:
    state = train(tmp_path, replace(FIT, steps=30, validate_every=30), every_s=NEVER_S)
    batches = [SampleStream(CASES, STREAM)[index] for index in range(2)]
    trained = new_network()
    trained.load_state_dict(state.network.state_dict())
    first, last = (first_step(each, iter(batches)).loss for each in (new_network(), trained))
    assert last < 0.8 * first
    assert state.average is not None
    assert state.average.updates == 30


def gradients(micro_batch: int, batches: list[Batch]) -> dict[str, torch.Tensor]:
    network = new_network()
    first_step(network, iter(batches), micro_batch)
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def same_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], voxels: int) -> None:
    relative = tolerances.gradients(new_network(), voxels)
    assert ours.keys() == theirs.keys()
    all_ours, all_theirs = (torch.cat([gradient.flatten() for gradient in each.values()]) for each in (ours, theirs))
    tolerances.agree(all_ours, all_theirs, relative, "all gradients")
    for name, gradient in theirs.items():
        if not tolerances.UNDETERMINED.match(name):
            tolerances.agree(ours[name], gradient, tolerances.CANCELLATION * relative, name)


def test_accumulated_micro_batches_equal_one_big_batch_also_with_uneven_foreground() -> None:
    small = [SampleStream(CASES[:4], STREAM)[index] for index in range(2)]
    names = ("image", "modality", "target")
    big = replace(small[0], **{name: torch.cat([getattr(part, name) for part in small]) for name in names})
    big = replace(big, cases=small[0].cases + small[1].cases, targets=small[0].targets + small[1].targets)
    one, other = gradients(2, small), gradients(4, [big])
    same_gradients(one, other, big.target.numel())


def test_two_threads_find_the_gradients_of_one() -> None:
    batches = [SampleStream(CASES, STREAM)[index] for index in range(2)]
    one, before = gradients(2, batches), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two, again = (gradients(2, batches) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    same_gradients(two, one, 4 * 16**3)
    assert all(torch.equal(two[name], again[name]) for name in two)


def test_a_gradient_that_is_not_finite_skips_the_step() -> None:
    state = new_state(new_network(), FIT)
    before = [p.detach().clone() for p in state.network.parameters()]
    for parameter in state.network.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    next(state.network.parameters()).grad = torch.full_like(next(state.network.parameters()), float("nan"))
    assert update(state, 1.0) is None
    assert all(torch.equal(old, new) for old, new in zip(before, state.network.parameters(), strict=True))


def test_a_run_with_a_broken_case_skips_its_steps_names_it_and_stops_above_a_bound(tmp_path: Path) -> None:
    cases = [replace_image(CASES[0], np.nan), CASES[1]]
    config = replace(FIT, steps=100, global_batch=1)
    with pytest.raises(ValueError, match=r"21 of the last 100 steps .* cases in them: acdc-0 \(21 times\)\."):
        train(tmp_path, config, cases, micro_batch=1, every_s=NEVER_S)


def test_a_broken_case_that_comes_seldom_is_counted_and_the_run_ends(tmp_path: Path) -> None:
    cases = [replace_image(CASES[0], np.inf), *CASES[1:4]]
    state = train(tmp_path, replace(FIT, steps=12, global_batch=1), cases, micro_batch=1, every_s=NEVER_S)
    assert state.step == 12
    assert state.suspects == {"acdc-0": len(state.skipped)}
    assert 0 < len(state.skipped) < 12
    assert all(parameter.isfinite().all() for parameter in state.network.parameters())


def replace_image(case: Case, value: float) -> Case:
    return Case(case.record, np.full_like(case.image, value), case.label, case.foreground)


def test_the_same_run_twice_is_equal_to_the_bit(tmp_path: Path) -> None:
    one, other = (train(tmp_path / name, every_s=NEVER_S).final_weights() for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("precision", "optimizer"), [("float32", "adamw"), ("float16", "adamw"), ("float32", "muon")])
def test_a_run_that_stops_and_goes_on_is_equal_to_the_bit(tmp_path: Path, precision: str, optimizer: str) -> None:
    config = replace(FIT, steps=6, precision=precision, optimizer=optimizer, global_batch=2)
    whole = train(tmp_path / "whole", config, validation=CASES[:1], micro_batch=1)

    class InterruptedRunError(Exception):
        pass

    def interrupt(step: int, _values: dict[str, float]) -> None:
        if step == 4:
            raise InterruptedRunError

    folder = tmp_path / "halves"
    halves = run_of(folder, config, validation=CASES[:1], report=interrupt, micro_batch=1)
    with pytest.raises(InterruptedRunError):
        fit(halves)
    halves.checkpoints.wait()
    assert (folder / "latest").read_text() == "step-0000003"
    rest = train(folder, config, validation=CASES[:1], micro_batch=1)
    assert rest.curve == whole.curve
    for kept in ("network", "first_moment", "second_moment", "average"):
        assert any(name.startswith(kept) for name in whole.tensors())
    assert all(torch.equal(tensor, rest.tensors()[name]) for name, tensor in whole.tensors().items())


def test_the_loss_scale_halves_at_an_overflow_and_the_step_is_skipped(tmp_path: Path) -> None:
    state = new_state(new_network(), replace(FIT, precision="float16"))
    state.scale.value = 2.0**24
    for parameter in state.network.parameters():
        parameter.grad = torch.full_like(parameter, 1e36) * 1e10
    assert update(state, 1.0) is None
    assert state.scale.value == 2.0**23


def test_the_loss_scale_doubles_after_many_good_steps_and_stays_one_when_off() -> None:
    scale, off = LossScale(True, initial=4.0), LossScale(False)
    for _ in range(LossScale.GROW_EVERY):
        scale.update(True)
        off.update(True)
    assert (scale.value, off.value) == (8.0, 1.0)


def test_validation_reports_every_annotated_structure_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    reported: list[tuple[int, dict[str, float]]] = []
    validated = train(tmp_path / "one", validation=CASES, reported=reported, every_s=NEVER_S)
    plain = train(tmp_path / "other", every_s=NEVER_S)
    point = next(values for step, values in reported if step == 2)
    assert set(point) == {
        f"validation_dice.{name}" for name in ("right_ventricle", "myocardium", "tumour_oedema", "mean")
    }
    for one, other in zip(validated.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_a_run_reports_is_complete_and_possible(tmp_path: Path) -> None:
    reported: list[tuple[int, dict[str, float]]] = []
    train(tmp_path, replace(FIT, steps=2), reported=reported)
    values = reported[-1][1]
    assert 0 < values["model_flops_utilisation"] < 1
    assert 0 < values["data_wait_fraction"] < 1
    assert values["voxels_per_s"] > 0
    assert values["memory_gib"] > 0.05
    assert values["checkpoint_stall_s"] > 0
    assert {"loss", "learning_rate", "gradient_norm", "loss_scale", "skipped_steps", "seconds_left"} <= set(values)


@pytest.mark.parametrize("schedule", ["cosine", "trapezoid"])
def test_the_learning_rate_warms_up_peaks_and_ends_where_stated(schedule: str) -> None:
    rates = [learning_rate(step, 100, 10, 1e-3, 1e-5, schedule) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-5)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_trapezoid_stays_at_its_peak_up_to_the_middle() -> None:
    rates = [learning_rate(step, 101, 1, 1e-3, 0.0, "trapezoid") for step in range(101)]
    assert rates[50] == 1e-3
    assert rates[75] == pytest.approx(5e-4, rel=0.05)


def test_the_average_of_constant_weights_is_those_weights() -> None:
    network = new_network()
    average = WeightAverage(network, 0.9)
    for _ in range(3):
        average.update()
    for name, tensor in network.state_dict().items():
        assert torch.equal(average.average[name], tensor)


def test_a_case_of_another_split_never_enters_training(tmp_path: Path) -> None:
    held_out = Case(replace(CASES[0].record, split="test"), CASES[0].image, CASES[0].label, CASES[0].foreground)
    casefile.write(tmp_path / "a.safetensors", held_out)
    with pytest.raises(ValueError, match="holds acdc-0 of split 'test'"):
        open_cases(tmp_path, "train")
