"""Memory in bytes: what arrays cost once an allocator holds them, and a bound that a process cannot pass."""

import resource
from pathlib import Path

GIB = 1 << 30
FLOAT, HALF, BYTE = 4, 2, 1  # bytes a voxel
OVERHEAD_BYTES = 12 << 20  # buffers of gzip and of the slabs
ALLOCATOR = 1.12  # measured: what it keeps of freed arrays below its threshold


def with_overhead(arrays_bytes: int) -> int:
    """What a process takes for arrays of this size."""
    return OVERHEAD_BYTES + int(ALLOCATOR * arrays_bytes)


def bound_this_process(more_bytes: int) -> None:
    """From here on, address space for so many bytes more; beyond them MemoryError. Linux only. And no core dump ever:
    it would hold the patient."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path("/proc/self/statm")
    if status.exists():
        allowed = int(status.read_text().split()[0]) * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
