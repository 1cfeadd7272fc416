"""Times on the GPU at hand what a certificate has to guess, in under a minute.

Timed are probes - a large product, a depth-wise convolution, attention, a copy, empty kernels; between several GPUs a
gather and a reduce - and, of the network that is planned, one block of each stage and level, every full-resolution
module and the loss: forward and backward, at the plan's shapes and precision, checkpointed and compiled as training
does it.

From the probes follow the rates. What the network's parts then take longer (or shorter) than the model says is shared
between what starting a kernel costs the CPU, which is several times that of an empty kernel's under autograd and
checkpointing, and one factor on all rates: at what a calibration hands on, the parts together take what was measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from math import inf, log
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from model.certificate.calibration import Calibration, PartTiming, Versions
from model.certificate.launch_plan import LaunchPlan
from model.certificate.timed_pieces import COPY, DEPTHWISE, PRODUCT, Piece, ProbeSizes, network_pieces, probe_pieces
from model.certificate.timing import PLANNED, Rates
from model.engine.hardware import GPUS_IN_A_NODE, Gpu

Announce = Callable[[str], None]
LIMIT_S = 60.0
WARM_UP, REPEATS = 2, 5  # calls at least
SETTLED_S = 0.25  # of each, at least, on a GPU: a CPU that starts kernels gets quicker for as long
# Starts of a kernel that are tried: from an empty one's to 64 times that; factors: from 1 / SLOWEST to SLOWEST.
SLOWEST, HALVINGS = 1024.0, 16
STARTS = ((2.0, range(7)), (2**0.25, range(-3, 4)), (2 ** (1 / 32), range(-4, 5)))  # ratios, finer and finer
RATE_OF = {PRODUCT: "products", DEPTHWISE: "depthwise", COPY: "memory"}
NO_TIME = "not measured: the time was up"
NO_ROOM = "not measured: it does not fit in this GPU's memory"
ONE_GPU = "links and hidden are assumed: there is one GPU (start with torchrun on several to measure them)"


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, after some that compile, choose algorithms and warm caches."""
    for least in (WARM_UP, REPEATS):
        took_s: list[float] = []
        while len(took_s) < least or (device.type == "cuda" and sum(took_s) < SETTLED_S):
            took_s.append(_once(call, device))
    return median(took_s)


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
    seconds = {part.name: took_s for part in parts if (took_s := measured[part.name][0])}
    known = [(part, seconds[part.name]) for part in parts if part.name in seconds]
    factor, rates["launch_s"] = explained(known, gpu, _assumed_but(rates))
    rates = {name: rate / factor if name in RATE_OF.values() else rate for name, rate in rates.items()}
    found = _assumed_but(rates)
    timings = tuple(
        PartTiming(
            piece.name, piece.times, piece.modelled_s(gpu, PLANNED), piece.modelled_s(gpu, found), *measured[piece.name]
        )
        for piece in (*probes, *parts)
    )
    made = date.today().isoformat()
    return Calibration(gpu.key, card, versions_here(), plan.precision, made, rates, factor, timings, (note,))


def _assumed_but(measured: Mapping[str, Any]) -> Rates:
    return replace(PLANNED, **measured)


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


def explained(parts: Sequence[tuple[Piece, float]], gpu: Gpu, probed: Rates) -> tuple[float, float]:
    """What makes the model take as long as was measured: a factor on the GPU's time, and seconds to start a kernel.

    `parts`: with the seconds measured. Of all pairs that give the right sum, the one under which the single parts are
    off the least; the cheapest start of equally good ones, and never less than an empty kernel's.
    """
    best = (inf, 1.0, probed.launch_s)
    for ratio, steps in STARTS:
        middle_s = best[2]
        for step in steps:
            start_s = max(probed.launch_s, middle_s * ratio**step)
            best = min(best, _tried(parts, gpu, replace(probed, launch_s=start_s)), key=_as_good)
    return best[1:]


def _as_good(tried: tuple[float, float, float]) -> tuple[float, float]:
    """To one part in a thousand, then by the start."""
    off_s, _, start_s = tried
    return (round(log(off_s), 3) if 0 < off_s < inf else off_s, start_s)


def _tried(parts: Sequence[tuple[Piece, float]], gpu: Gpu, rates: Rates) -> tuple[float, float, float]:
    """Seconds by which the parts are off, the factor that makes the sum right, and what a start costs."""
    factor = _factor(parts, gpu, rates, sum(part.times * took_s for part, took_s in parts))
    if factor is None:
        return inf, 1.0, rates.launch_s
    slowed = _slowed(rates, factor)
    off_s = sum(part.times * abs(part.modelled_s(gpu, slowed) - took_s) for part, took_s in parts)
    return off_s, factor, rates.launch_s


def _factor(parts: Sequence[tuple[Piece, float]], gpu: Gpu, rates: Rates, measured_s: float) -> float | None:
    """By halving. None if starting the kernels alone takes longer."""

    def modelled_s(factor: float) -> float:
        return sum(part.times * part.modelled_s(gpu, _slowed(rates, factor)) for part, _ in parts)

    least, most = SLOWEST**-1, SLOWEST
    if not parts or modelled_s(least) > measured_s:
        return None
    for _ in range(HALVINGS):
        middle = (least * most) ** 0.5
        least, most = (middle, most) if modelled_s(middle) < measured_s else (least, middle)
    return (least * most) ** 0.5


def _slowed(rates: Rates, factor: float) -> Rates:
    """So that every kernel takes `factor` times as long."""
    return replace(rates, **{name: getattr(rates, name) / factor for name in RATE_OF.values()})


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
