"""What GPUs, their links and the machines around them can do: public specifications, as data. Imports no torch.

A figure that a data sheet gives per machine is divided by its eight GPUs. Memory is taken in decimal gigabytes, as
printed; what a driver then shows is some per cent more (79 GiB of an A100-80GB, counted here as 74.5 GiB).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Protocol

GPUS_IN_A_NODE = 8
HERE = "here"  # instead of a name: the GPU of this machine
SAME_MEMORY = 0.1  # a driver shows some per cent more than the data sheet
# FLOP a clock and multiprocessor in 16 bit with sums in float32, dense, from a compute capability on: Volta, Turing,
# A100, GeForce of Ampere and Ada (half of their professional cards, so those are counted low), H100, B200, GeForce of
# Blackwell. NVIDIA's architecture white papers.
TENSOR_FLOPS = {(7, 0): 1024, (8, 0): 2048, (8, 6): 512, (9, 0): 4096, (10, 0): 8192, (12, 0): 512}
VECTOR_FLOPS = 128  # likewise of float32, 64 units with a product and a sum each
PCIE_BYTES_PER_S = 25e9  # 4.0 with 16 lanes, of 32 in theory
ETHERNET_BYTES_PER_S = 1.25e9
WORKSTATION_WATTS = 700.0


@dataclass(frozen=True)
class Gpu:
    """One GPU in its usual machine of eight. Links: bytes per second in each direction, per GPU."""

    name: str
    family: str  # as it stands in the name that the driver gives
    memory_bytes: float
    memory_bytes_per_s: float
    flops: float  # FLOP/s of the tensor cores in 16 bit, dense
    vector_flops: float  # FLOP/s in float32 beside the tensor cores
    multiprocessors: int
    node_link_bytes_per_s: float  # NVLink, to the other GPUs of the machine
    network_bytes_per_s: float  # InfiniBand, to other machines
    watts: float  # the whole machine at its maximum, its share for one GPU
    source: str

    @property
    def key(self) -> str:
        return self.name.lower()


_A100 = Gpu(
    name="A100-80GB", family="A100", memory_bytes=80e9, memory_bytes_per_s=2039e9, flops=312e12, vector_flops=19.5e12,
    multiprocessors=108,
    node_link_bytes_per_s=300e9, network_bytes_per_s=25e9, watts=6500 / GPUS_IN_A_NODE,
    source="NVIDIA A100 data sheet (SXM; NVLink 600 GB/s both ways); DGX A100 data sheet (8 x HDR 200 Gb/s, 6.5 kW)",
)  # fmt: skip
_H100 = Gpu(
    name="H100", family="H100", memory_bytes=80e9, memory_bytes_per_s=3350e9, flops=989e12, vector_flops=67e12,
    multiprocessors=132,
    node_link_bytes_per_s=450e9, network_bytes_per_s=50e9, watts=10200 / GPUS_IN_A_NODE,
    source="NVIDIA H100 data sheet (SXM, dense; NVLink 900 GB/s); DGX H100 data sheet (8 x 400 Gb/s, 10.2 kW)",
)  # fmt: skip
_GPUS = (
    replace(
        _A100, name="A100-40GB", memory_bytes=40e9, memory_bytes_per_s=1555e9,
        source="NVIDIA A100 data sheet (SXM, 40 GB); DGX A100 data sheet (8 x HDR 200 Gb/s, 6.5 kW)",
    ),
    _A100,
    _H100,
    replace(
        _H100, name="H200", family="H200", memory_bytes=141e9, memory_bytes_per_s=4800e9,
        source="NVIDIA H200 data sheet (SXM, dense); DGX H200 data sheet (8 x 400 Gb/s, 10.2 kW)",
    ),
    Gpu(
        name="B200", family="B200", memory_bytes=180e9, memory_bytes_per_s=8000e9, flops=2250e12, vector_flops=75e12,
        multiprocessors=148,
        node_link_bytes_per_s=900e9, network_bytes_per_s=50e9, watts=14300 / GPUS_IN_A_NODE,
        source="NVIDIA DGX B200 data sheet (1,440 GB, 64 TB/s, 72 PFLOP/s FP8, NVLink 14.4 TB/s, 14.3 kW)",
    ),
)  # fmt: skip
GPUS = {gpu.key: gpu for gpu in _GPUS}


def find_gpu(name: str) -> Gpu:
    """By the name on its data sheet, in any case. Raises ValueError with the known ones."""
    if name.lower() not in GPUS:
        raise ValueError(
            f"no GPU {name!r} in model/engine/hardware.py; known: {', '.join(GPUS)}, and `--gpu {HERE}` on a machine "
            "that has it"
        )
    return GPUS[name.lower()]


class DriverProperties(Protocol):
    """What a driver says of a GPU: torch.cuda.get_device_properties. Clocks in kHz, the bus in bits."""

    name: str
    major: int
    minor: int
    multi_processor_count: int
    total_memory: int
    clock_rate: int
    memory_clock_rate: int
    memory_bus_width: int


def described(by_driver: DriverProperties) -> Gpu:
    """A GPU that has no data sheet here; one that has keeps its figures. Links and watts are assumptions, and low.

    Raises ValueError for one without tensor cores.
    """
    for gpu in GPUS.values():
        if gpu.family in by_driver.name and abs(gpu.memory_bytes / by_driver.total_memory - 1) < SAME_MEMORY:
            return gpu
    capability = (by_driver.major, by_driver.minor)
    if capability < min(TENSOR_FLOPS):
        raise ValueError(f"{by_driver.name} has no tensor cores (compute capability {capability[0]}.{capability[1]})")
    per_clock = TENSOR_FLOPS[max(known for known in TENSOR_FLOPS if known <= capability)]
    clocks_per_s = 1e3 * by_driver.clock_rate * by_driver.multi_processor_count
    return Gpu(
        name=re.sub(r"[^A-Za-z0-9]+", "-", by_driver.name), family=by_driver.name,
        memory_bytes=float(by_driver.total_memory),
        memory_bytes_per_s=2 * 1e3 * by_driver.memory_clock_rate * by_driver.memory_bus_width / 8,  # double data rate
        flops=per_clock * clocks_per_s, vector_flops=VECTOR_FLOPS * clocks_per_s,
        multiprocessors=by_driver.multi_processor_count,
        node_link_bytes_per_s=PCIE_BYTES_PER_S, network_bytes_per_s=ETHERNET_BYTES_PER_S, watts=WORKSTATION_WATTS,
        source="the driver's clocks, processors and memory; PCIe 4.0, 10 Gb/s Ethernet and 700 W are assumed",
    )  # fmt: skip
