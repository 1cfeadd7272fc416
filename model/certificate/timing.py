"""From a record to seconds: a roofline of every kernel and message of the step.

A kernel takes as long as its arithmetic at the rate of the units that do it, or its reading and writing at the rate of
the memory, whichever is more. What `compile` joins is one kernel (`fusion.py`). A message takes a ring's time on the
slowest link it crosses, and a latency for every hop. Messages run beside kernels, but not all of them, so a part of
what could be hidden is counted. Two terms are told apart from all that: products that do not fill all multiprocessors
(`occupancy.py`), and parts of the network whose kernels end before the CPU has started the next ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from model.certificate.fusion import joined
from model.certificate.launch_plan import LaunchPlan
from model.certificate.occupancy import occupancy
from model.certificate.operations import DEPTHWISE, Operation, StepRecord
from model.engine.hardware import GPUS_IN_A_NODE, Gpu

SHORTEST_S = 4e-6  # of a kernel that has next to nothing to do
SELECTIVE_LAUNCHES = 2.5  # times dearer is an eager operation under selective checkpointing's dispatch mode (measured)
HOP_S = {"node": 2e-6, "network": 6e-6}  # of one step of a ring


@dataclass(frozen=True)
class Rates:
    """Which share of a data sheet's figure is reached."""

    products: float  # large matrix products and dense convolutions on the tensor cores
    depthwise: float  # depth-wise convolutions, of the float32 units beside the tensor cores
    memory: float
    links: float
    hidden: float  # of the messages that have kernels to run beside
    launch_s: float = 12e-6  # of the CPU, to start a kernel; measured on one core of a server, eager
    occupancy: bool = True  # whether products that do not fill all multiprocessors count as slower


# Assumptions, not measurements: no A100 was at hand. Planned is meant to be beaten by any careful run: large products
# and dense convolutions a little above half of the tensor cores' peak, depth-wise 3^3 kernels, a weak point of every
# GPU, a tenth of the vector units'. Fast is what good kernels could reach.
PLANNED = Rates(products=0.55, depthwise=0.10, memory=0.75, links=0.7, hidden=0.8)
FAST = Rates(products=0.8, depthwise=0.3, memory=0.9, links=0.9, hidden=1.0, launch_s=6e-6)


@dataclass(frozen=True)
class Traffic:
    """One kind of message over one link, in a whole step of one rank."""

    name: str  # all-gather | reduce-scatter | all-reduce
    link: str  # node | network
    count: int
    sent_bytes: float
    seconds: float


@dataclass(frozen=True)
class Timing:
    step_s: float
    exposed_s: float  # of the messages: not hidden behind kernels
    update_s: float  # gradient norm and optimizer, once a step
    traffic: list[Traffic]
    flops_by_part: dict[str, int]  # of one rank in a step, recomputation included
    kernel_seconds: dict[str, float]
    mfu: float
    occupancy_s: float = 0.0  # of the step: products that do not fill all multiprocessors
    launches_s: float = 0.0  # of the step: the GPU waits for the CPU to start kernels
    without_s: float = 0.0  # the step without these two terms

    @property
    def mfu_without(self) -> float:
        """Model FLOP utilisation without the terms of occupancy and launches."""
        return self.mfu * self.step_s / self.without_s if self.without_s else self.mfu

    @property
    def communication_share(self) -> float:
        """Of the step: the time in which kernels wait for messages."""
        return self.exposed_s / self.step_s


def timing(record: StepRecord, plan: LaunchPlan, gpu: Gpu, rates: Rates = PLANNED) -> Timing:
    if plan.precision == "float32":
        gpu = replace(gpu, flops=gpu.flops / 2)  # TF32
    found = [
        (name, stretch_of(joined(operations, record.compiled), plan, gpu, rates), times)
        for name, operations, times in stretches(record, plan)
    ]

    def total(what: Callable[[Stretch], float]) -> float:
        return sum(times * what(stretch) for _, stretch, times in found)

    kernels: defaultdict[str, float] = defaultdict(float)
    flops: Counter[str] = Counter()
    traffic: dict[tuple[str, str], Traffic] = {}
    for _, stretch, times in found:
        for kind, seconds in stretch.kernels.items():
            kernels[kind] += times * seconds
        flops.update({part: times * count for part, count in stretch.flops.items()})
        for message in stretch.messages:
            traffic[message.name, message.link] = _sum(traffic.get((message.name, message.link)), message, times)
    step_s = total(lambda each: each.busy_s + each.exposed_s(each.busy_s, rates))
    return Timing(
        step_s=step_s,
        exposed_s=total(lambda each: each.exposed_s(each.busy_s, rates)),
        update_s=sum(each.busy_s + each.exposed_s(each.busy_s, rates) for name, each, _ in found if name == "update"),
        traffic=list(traffic.values()),
        flops_by_part={part: count for part, count in flops.most_common() if count},
        kernel_seconds=dict(sorted(kernels.items(), key=lambda item: -item[1])),
        mfu=plan.model_flops / (step_s * plan.ranks * gpu.flops),
        occupancy_s=total(lambda each: each.occupancy_s),
        launches_s=total(lambda each: each.launches_s),
        without_s=total(lambda each: each.kernel_s + each.exposed_s(each.kernel_s, rates)),
    )


@dataclass
class Stretch:
    """A part of a step. `kernel_s`: of all kernels, at the rates alone."""

    kernel_s: float = 0.0
    occupancy_s: float = 0.0
    launches_s: float = 0.0
    kernels: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    flops: Counter[str] = field(default_factory=Counter)
    messages: list[Traffic] = field(default_factory=list)

    @property
    def busy_s(self) -> float:
        return self.kernel_s + self.occupancy_s + self.launches_s

    def exposed_s(self, beside_s: float, rates: Rates) -> float:
        """Of the messages, with so many seconds of kernels to run beside."""
        message_s = sum(message.seconds for message in self.messages)
        return max(message_s - rates.hidden * beside_s, (1 - rates.hidden) * message_s)


def stretch_of(operations: Sequence[Operation], plan: LaunchPlan, gpu: Gpu, rates: Rates) -> Stretch:
    """A part of the network waits for the CPU as a whole: a GPU's queue of kernels is much shorter than a step."""
    stretch = Stretch()
    gpu_s: defaultdict[str, float] = defaultdict(float)
    cpu_s: defaultdict[str, float] = defaultdict(float)
    for operation in operations:
        if operation.whole_bytes:
            stretch.messages.append(traffic_of(operation, plan, gpu, rates))
            continue
        part, full_s = network_part(operation), kernel_seconds(operation, gpu, replace(rates, occupancy=False))
        seconds = operation.times * kernel_seconds(operation, gpu, rates)
        stretch.kernel_s += operation.times * full_s
        stretch.occupancy_s += seconds - operation.times * full_s
        stretch.kernels[kernel_kind(operation)] += seconds
        stretch.flops[part] += operation.times * operation.flops
        gpu_s[part] += seconds
        cpu_s[part] += operation.times * start_of_a_kernel_s(operation.module, plan, rates)
    stretch.launches_s = sum(max(0.0, cpu_s[part] - gpu_s[part]) for part in gpu_s)
    return stretch


def start_of_a_kernel_s(module: str, plan: LaunchPlan, rates: Rates) -> float:
    """Of the CPU. Of the network, blocks alone are checkpointed selectively."""
    dispatched = plan.checkpointing == "selective" and not plan.compile and ".blocks." in module
    return rates.launch_s * (SELECTIVE_LAUNCHES if dispatched else 1)


def stretches(record: StepRecord, plan: LaunchPlan) -> Iterator[tuple[str, Sequence[Operation], int]]:
    """The parts of a step and how often each happens: of two micro-steps, the first stands for all but the last."""
    for (name, _), operations in zip(record.marks, record.stretches(), strict=True):
        repeated = name == "micro-step 1" and len(record.marks) > 2
        yield name, operations, plan.accumulation - 1 if repeated else 1


def kernel_seconds(operation: Operation, gpu: Gpu, rates: Rates) -> float:
    depthwise = operation.name.endswith(DEPTHWISE)
    rate = gpu.vector_flops * rates.depthwise if depthwise else gpu.flops * rates.products
    if rates.occupancy:
        rate *= occupancy(operation.products, gpu.multiprocessors)
    return max(operation.flops / rate, operation.moved_bytes / (gpu.memory_bytes_per_s * rates.memory), SHORTEST_S)


def traffic_of(operation: Operation, plan: LaunchPlan, gpu: Gpu, rates: Rates) -> Traffic:
    """A message of `operation.times` blocks: what a rank sends, and how long a ring takes."""
    replicated = operation.name == "all-reduce"
    ranks = plan.ranks // plan.group if replicated else plan.group
    within = (plan.ranks if replicated else plan.group) <= GPUS_IN_A_NODE
    link = "node" if within else "network"
    # A ring through whole nodes leaves each by all of its network cards; one through a GPU of each, by that GPU's own.
    cards = GPUS_IN_A_NODE if not replicated or plan.group == 1 else 1
    speed = gpu.node_link_bytes_per_s if within else min(gpu.node_link_bytes_per_s, cards * gpu.network_bytes_per_s)
    rounds = 2 if replicated else 1
    sent_bytes = rounds * operation.whole_bytes * (ranks - 1) / ranks
    seconds = sent_bytes / (speed * rates.links) + rounds * (ranks - 1) * HOP_S[link]
    times = operation.times
    return Traffic(operation.name, link, times, times * sent_bytes, times * seconds)


def kernel_kind(operation: Operation) -> str:
    """What bounds a kernel."""
    if operation.name.endswith(DEPTHWISE):
        return "depth-wise convolutions"
    if "convolution" in operation.name:
        return "dense convolutions"
    if operation.flops:
        return "matrix products and attention"
    return "optimizer" if operation.phase == "update" else "reading and writing memory"


def network_part(operation: Operation) -> str:
    """Where FLOPs are spent: the part of the network, and whether they are spent a second time."""
    again = ", recomputed" if operation.phase == "recompute" else ""
    return f"{_place(operation.module)}, {operation.phase}" if not again else f"{_place(operation.module)}{again}"


def _place(module: str) -> str:
    """`encoder.stages.2.blocks.5.attention.query` is in `encoder stage 3`."""
    names = module.split(".")
    if names[:2] == ["encoder", "stages"] and len(names) > 2:
        return f"encoder stage {int(names[2]) + 1}"
    return names[0]


def _sum(before: Traffic | None, message: Traffic, times: int) -> Traffic:
    before = before or Traffic(message.name, message.link, 0, 0.0, 0.0)
    return replace(
        before,
        count=before.count + times * message.count,
        sent_bytes=before.sent_bytes + times * message.sent_bytes,
        seconds=before.seconds + times * message.seconds,
    )
