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
        now = resource.getrlimit(resource.RLIMIT_AS)[1]  # a batch system's own bound, say, which nobody may raise
        allowed = allowed if now == resource.RLIM_INFINITY else min(allowed, now)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def free_bytes() -> int:
    """What Linux can still give, its own bound and the container's; elsewhere nobody says, and MemoryError decides."""
    free = [2**63]
    if (machine := Path("/proc/meminfo")).is_file():
        free += [1024 * int(line.split()[1]) for line in _lines(machine) if line.startswith("MemAvailable")]
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat")
    if limit.is_file() and used.is_file() and (bound := limit.read_text().strip()).isdigit():
        free += [int(bound) - int(line.split()[1]) for line in _lines(used) if line.startswith("anon ")]
    return max(0, min(free))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
