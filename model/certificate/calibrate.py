"""Times on the GPU at hand what a certificate has to guess, in under a minute.

Timed are probes - a large product, a depth-wise convolution, attention, a copy, empty kernels; between several GPUs a
gather and a reduce - and, of the network that is planned, one block of each stage and level, every full-resolution
module and the loss: forward and backward, at the plan's shapes and precision, checkpointed and compiled as training
does it.

From the probes follow the rates. What the network's parts then take longer (or shorter) than the model says becomes
one factor on all of them: at the rates that a calibration hands on, the parts together take what was measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from math import inf
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from model.certificate.calibration import Calibration, PartTiming, Versions
from model.certificate.launch_plan import LaunchPlan
from model.certificate.timed_pieces import COPY, DEPTHWISE, PRODUCT, Piece, ProbeSizes, network_pieces, probe_pieces
from model.certificate.timing import PLANNED
from model.engine.hardware import GPUS_IN_A_NODE, Gpu

Announce = Callable[[str], None]
LIMIT_S = 60.0
WARM_UP, REPEATS = 2, 5
RATE_OF = {PRODUCT: "products", DEPTHWISE: "depthwise", COPY: "memory"}
NO_TIME = "not measured: the time was up"
NO_ROOM = "not measured: it does not fit in this GPU's memory"
ONE_GPU = "links and hidden are assumed: there is one GPU (start with torchrun on several to measure them)"


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, after some that compile, choose algorithms and warm caches."""
    for _ in range(WARM_UP):
        call()
    return median(_once(call, device) for _ in range(REPEATS))


@dataclass
class Bench:
    """Where pieces are timed, and for how long altogether. Another `clock`, seconds of a call, is for tests."""

    device: torch.device
    limit_s: float = LIMIT_S
    sizes: ProbeSizes = field(default_factory=ProbeSizes)
    clock: Callable[[Callable[[], object], torch.device], float] = timed
    started: float = field(default_factory=time.monotonic)
    longest_s: float = 0.0  # that a piece took with all its repetitions

    def has_time(self) -> bool:
        """For one more piece, if it takes as long as the longest so far."""
        return time.monotonic() - self.started + self.longest_s < self.limit_s

    def seconds(self, piece: Piece) -> float:
        """Of one call. Raises torch.OutOfMemoryError; memory is given back either way."""
        began = time.monotonic()
        try:
            return self.clock(piece.ready(self.device), self.device)
        finally:
            piece.give_back()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.longest_s = max(self.longest_s, time.monotonic() - began)


def calibrate(
    plan: LaunchPlan,
    gpu: Gpu,
    card: str,
    compiled: bool,
    bench: Bench,
    announce: Announce = lambda _: None,
) -> Calibration:
    """Of `gpu`, which the driver calls `card`. Probes come first, then the dearest parts of the network."""
    if plan.precision == "float32":
        gpu = replace(gpu, flops=gpu.flops / 2)  # TF32
    rates, note = message_rates(gpu, bench)
    probes = probe_pieces(plan, bench.sizes)
    measured = {probe.name: _timed_or_told(probe, bench, announce) for probe in probes}
    rates |= probed_rates(probes, {name: seconds for name, (seconds, _) in measured.items()}, gpu)
    rates["launch_s"] = launch_s(bench)
    announce("counting the network's parts")
    parts = sorted(network_pieces(plan, compiled), key=lambda part: -part.times * part.modelled_s(gpu, PLANNED))
    measured |= {part.name: _timed_or_told(part, bench, announce) for part in parts}
    made = date.today().isoformat()
    probed = Calibration(gpu.key, card, versions_here(), plan.precision, made, rates, 1.0, (), (note,))
    timings = tuple(
        PartTiming(
            piece.name, piece.times, piece.modelled_s(gpu, PLANNED), piece.modelled_s(gpu, probed.applied()),
            *measured[piece.name],
        )
        for piece in (*probes, *parts)
    )  # fmt: skip
    factor = unexplained(timings)
    return replace(probed, parts=timings, unexplained=factor, rates=_slowed(rates, factor))


def probed_rates(probes: Sequence[Piece], seconds: Mapping[str, float | None], gpu: Gpu) -> dict[str, float]:
    """The share of the data sheet's figure that each probe reached."""
    rates = {}
    for probe in probes:
        took_s = seconds[probe.name]
        if probe.name in RATE_OF and took_s:
            flops = sum(each.flops for each in probe.record.operations)
            moved_bytes = sum(each.moved_bytes for each in probe.record.operations)
            ideal_s = {
                PRODUCT: flops / gpu.flops,
                DEPTHWISE: flops / gpu.vector_flops,
                COPY: moved_bytes / gpu.memory_bytes_per_s,
            }
            rates[RATE_OF[probe.name]] = ideal_s[probe.name] / took_s
    return rates


def unexplained(timings: Sequence[PartTiming]) -> float:
    """How many times as long the network's parts took as the model says at the rates of the probes."""
    known = [(each.times * each.measured_s, each.times * each.calibrated_s) for each in timings if each.measured_s]
    measured_s, modelled_s = (sum(column) for column in zip(*known, strict=True)) if known else (0.0, 0.0)
    return measured_s / modelled_s if modelled_s else 1.0


def message_rates(gpu: Gpu, bench: Bench) -> tuple[dict[str, float], str]:
    """Of a gather and a reduce over all ranks, if there are several; how much of a gather hides behind products."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if world == 1:
        return {}, ONE_GPU
    part = torch.zeros(bench.sizes.sent_bytes // 4 // world, device=bench.device)
    whole = torch.zeros(len(part) * world, device=bench.device)
    square = torch.ones(bench.sizes.product_edge, bench.sizes.product_edge, device=bench.device)
    gather_s = bench.clock(partial(dist.all_gather_into_tensor, whole, part), bench.device)
    reduce_s = bench.clock(partial(dist.reduce_scatter_tensor, part, whole), bench.device)
    product_s = bench.clock(partial(torch.mm, square, square), bench.device)
    products = int(gather_s / product_s) + 1  # they take at least as long as the gather, on the slowest rank too
    products = int(_largest(products, bench.device))

    def both() -> None:
        message = dist.all_gather_into_tensor(whole, part, async_op=True)
        for _ in range(products):
            torch.mm(square, square)
        message.wait()

    exposed_s = bench.clock(both, bench.device) - products * product_s
    network = GPUS_IN_A_NODE * gpu.network_bytes_per_s if world > GPUS_IN_A_NODE else inf
    sent_bytes = 2 * 4 * len(part) * (world - 1)
    rates = {
        "links": sent_bytes / (gather_s + reduce_s) / min(gpu.node_link_bytes_per_s, network),
        "hidden": min(1.0, max(0.0, 1 - exposed_s / gather_s)),
    }
    return rates, f"links and hidden were measured between {world} GPUs"


def launch_s(bench: Bench) -> float:
    """Of a kernel that has next to nothing to do."""
    one = torch.zeros(1, device=bench.device)

    def launches() -> None:
        for _ in range(bench.sizes.launches):
            one.add_(1)

    return bench.clock(launches, bench.device) / bench.sizes.launches


def versions_here() -> Versions:
    """What a measurement here holds for."""
    try:
        driver = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        driver = None
    return Versions(torch.__version__.partition("+")[0], driver[0] if driver else "")


def _once(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _largest(value: float, device: torch.device) -> float:
    """Over all ranks."""
    found = torch.tensor(float(value), device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)


def _timed_or_told(piece: Piece, bench: Bench, announce: Announce) -> tuple[float | None, str]:
    """Seconds, or why there are none."""
    if not bench.has_time():
        return None, NO_TIME
    announce(f"timing {piece.name}")
    try:
        return bench.seconds(piece), ""
    except torch.OutOfMemoryError:
        return None, NO_ROOM


def _slowed(rates: Mapping[str, float], factor: float) -> dict[str, float]:
    """So that every kernel takes `factor` times as long."""
    slower = {name: rate / factor for name, rate in rates.items() if name in RATE_OF.values()}
    return {**rates, **slower, "launch_s": factor * rates["launch_s"]}
