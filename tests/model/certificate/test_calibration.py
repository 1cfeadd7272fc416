"""A calibration finds the rates of a GPU that keeps to the model, and tells what it did not measure.

There is no GPU here: a bench that takes as long as the model says stands for one, and a CPU shows that the pieces run.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest
import torch

from model.certificate import calibration
from model.certificate.calibrate import NO_ROOM, NO_TIME, ONE_GPU, Bench, calibrate, message_rates
from model.certificate.calibration import Calibration, Versions
from model.certificate.launch_plan import LaunchPlan
from model.certificate.timed_pieces import Piece, ProbeSizes, network_pieces
from model.certificate.timing import PLANNED, Rates
from model.certificate.ways import Goal, estimated
from model.engine.hardware import find_gpu
from model.network.config import PRESETS
from tests.model.engine.ranks import Job, meet, run

A100 = find_gpu("a100-80gb")
CPU = torch.device("cpu")
PLAN = LaunchPlan(
    network=PRESETS["nano"], classes=4, channels=2, patch=(16, 16, 16), ranks=1, group=1, strategy="fsdp",
    checkpointing="selective", micro_batch=1, global_batch=1, precision="float16",
)  # fmt: skip
LARGE = replace(PLAN, network=replace(PRESETS["base"], depths=(2, 3, 4, 5)), patch=(128, 128, 128))
TRUE = replace(PLANNED, products=0.31, depthwise=0.02, memory=0.6)
SMALL = ProbeSizes(product_edge=64, copied_bytes=1 << 16, sent_bytes=1 << 16, launches=10)
HERE = Versions("2.13.0", "")


@dataclass
class PretendedBench(Bench):
    """Takes as long as the model says at other rates than are assumed; network parts `slower` times as long."""

    device: torch.device = CPU
    rates: Rates = TRUE
    slower: float = 1.0
    clock: Callable[[Callable[[], object], torch.device], float] = lambda _call, _device: 0.004

    def seconds(self, piece: Piece) -> float:
        return (self.slower if piece.times else 1.0) * piece.modelled_s(A100, self.rates)


@pytest.fixture(scope="module")
def exact() -> Calibration:
    return calibrate(LARGE, A100, "card", False, PretendedBench())


def test_the_rates_of_a_gpu_that_keeps_to_the_model_are_found(exact: Calibration) -> None:
    found = exact.applied()
    for name in ("products", "depthwise", "memory"):  # what starts cost is searched for in steps
        assert getattr(found, name) == pytest.approx(getattr(TRUE, name), rel=0.03)
    assert (found.links, found.hidden) == (PLANNED.links, PLANNED.hidden)
    assert exact.notes == (ONE_GPU,)
    assert exact.rates["launch_s"] == pytest.approx(TRUE.launch_s, rel=0.05)  # the network's, not an empty kernel's
    assert exact.unexplained == pytest.approx(1.0, rel=0.03)


def test_parts_that_take_longer_than_the_probes_say_slow_every_rate() -> None:
    found = calibrate(LARGE, A100, "card", False, PretendedBench(slower=1.5))
    assert found.unexplained == pytest.approx(1.5, rel=0.03)
    assert found.applied().products == pytest.approx(TRUE.products / 1.5, rel=0.03)
    assert found.applied().memory == pytest.approx(TRUE.memory / 1.5, rel=0.03)


def test_every_block_and_full_resolution_module_is_a_part_as_often_as_a_step_has_it(exact: Calibration) -> None:
    times = {part.name: part.times for part in exact.parts if part.times}
    assert [times[f"encoder.stages.{stage}.blocks.0"] for stage in range(4)] == [2, 3, 4, 5]
    named = {name.split(".")[0] for name in times}
    assert named == {"embedding", "encoder", "decoder", "loss"}
    full = [name for name in times if name.startswith("embedding") or name.startswith("decoder.to_")]
    assert len(full) >= 6
    assert {part.name for part in exact.parts if not part.times} >= {"a large product", "attention, forward", "a copy"}


def test_a_part_has_the_operations_of_the_whole_step_at_the_same_place() -> None:
    """The parts' FLOPs are those that the certificate's own simulation gives to these modules."""
    from model.certificate.simulate import simulate

    plan = replace(PLAN, strategy="none", precision="float32", checkpointing="none")
    whole = simulate(plan, 0)
    for part in network_pieces(plan):
        if part.name.startswith("encoder"):
            theirs = sum(each.flops for each in whole.operations if each.module.startswith(part.name))
            assert sum(each.flops for each in part.record.operations) == theirs > 0


def test_the_parts_run_for_real() -> None:
    """Forward and backward on a CPU, in its own precision, to a time above 0; nothing is left of the weights."""
    plan = replace(PLAN, precision="float32")
    seen: list[str] = []
    found = calibrate(plan, A100, "CPU", False, Bench(CPU, 600.0, SMALL, clock=once), seen.append)
    assert all(part.measured_s and part.measured_s > 0 and not part.note for part in found.parts)
    assert len(seen) == len(found.parts) + 1
    assert {"products", "depthwise", "memory", "launch_s"} == set(found.rates)


def once(call: Callable[[], object], _device: torch.device) -> float:
    import time

    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def test_what_does_not_fit_is_told_and_the_rest_is_measured() -> None:
    @dataclass
    class SmallGpu(PretendedBench):
        def seconds(self, piece: Piece) -> float:
            if piece.name == "decoder.to_full":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().seconds(piece)

    parts = {part.name: part for part in calibrate(PLAN, A100, "card", False, SmallGpu()).parts}
    assert (parts["decoder.to_full"].measured_s, parts["decoder.to_full"].note) == (None, NO_ROOM)
    assert parts["decoder.to_half"].measured_s is not None


def test_when_the_time_is_up_nothing_more_is_measured_and_the_rates_stay_assumed() -> None:
    found = calibrate(PLAN, A100, "card", False, PretendedBench(limit_s=0.0))
    assert {part.note for part in found.parts} == {NO_TIME}
    assert found.applied().products == PLANNED.products
    assert found.unexplained == 1.0


def test_a_calibration_survives_its_file_and_another_torch_driver_or_precision_is_told(
    exact: Calibration, tmp_path: Path
) -> None:
    made = replace(exact, versions=Versions("2.13.0", "580.1"))
    calibration.write(made, tmp_path)
    find = calibration.find
    assert find(A100.key, "float16", Versions("2.13.0", "580.1"), tmp_path)[0] == made
    found, told = find(A100.key, "float16", HERE, tmp_path)  # certified on a machine without that GPU
    assert found == made
    assert told.startswith("measured on card on ")
    for precision, versions, reason in (
        ("float16", Versions("2.14.0", ""), "PyTorch 2.13.0, here is 2.14.0"),
        ("float16", Versions("2.13.0", "590.2"), "driver 580.1, here is 590.2"),
        ("bfloat16", HERE, "precision float16, here is bfloat16"),
    ):
        found, told = find(A100.key, precision, versions, tmp_path)
        assert found is None
        assert "is not used" in told
        assert reason in told
    assert find("h100", "float16", HERE, tmp_path) == (None, calibration.ASSUMED)


def test_a_broken_calibration_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "calibration-h100.json").write_text(json.dumps({"gpu": "h100"}))
    with pytest.raises(ValueError, match=r"calibration-h100.json is no calibration .*medseg certify --calibrate"):
        calibration.find("h100", "float16", HERE, tmp_path)


def test_a_slower_gpu_makes_a_longer_step(exact: Calibration) -> None:
    assumed, measured = (
        estimated(LARGE, A100, Goal(1, 1.0, rates=rates)).timing for rates in (PLANNED, exact.applied())
    )
    assert measured.without_s > assumed.without_s  # kernels; what starting them costs is a rate of its own
    assert (
        {field.name for field in fields(Rates)}
        >= {"products", "links"}
        == {"products", "links"} & set(asdict(exact.applied()))
    )


def between(rank: int, job: Job) -> None:
    meet(rank, job)
    rates, note = message_rates(A100, Bench(CPU, 600.0, SMALL))
    (job.folder / f"{rank}.json").write_text(json.dumps([rates, note]))


def test_messages_are_timed_between_real_ranks(tmp_path: Path) -> None:
    run(Job(tmp_path, 2), between)
    rates, note = json.loads((tmp_path / "0.json").read_text())
    assert 0 < rates["links"] < 1  # of NVLink
    assert 0 <= rates["hidden"] <= 1
    assert note == "links and hidden were measured between 2 GPUs"
