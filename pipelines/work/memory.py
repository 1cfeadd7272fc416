"""Memory in bytes: what arrays cost once an allocator holds them, and a bound that a process cannot pass."""

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

GIB = 1 << 30
FLOAT, HALF, BYTE = 4, 2, 1  # bytes a voxel
OVERHEAD_BYTES = 12 << 20  # buffers of gzip and of the slabs
# Of mallopt(3), and how much is asked for at a time.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX, _TOP_PAD_BYTES = -1, -2, -4, -8, 1 << 26
LEFT_BYTES = 1 << 28  # what small scans use again, one after the other
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


@contextmanager
def kept() -> Iterator[None]:
    """Within it, freed memory stays with this process, where glibc hands it out; at the end it goes back if it is much.

    A network frees its largest tensors at every step. Returned to the system each time, they come back as new pages: of
    windows of 96^3 that was 40 % of the CPU time.
    """
    if (libc := _glibc()) is None:
        yield
        return
    libc.mallopt(_ARENA_MAX, 1)  # else threads get heaps of 64 MiB, and give them back
    for name, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _TOP_PAD_BYTES)):
        libc.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, LEFT_BYTES), (_TOP_PAD, 0)):
            libc.mallopt(name, value)
        if libc.mallinfo2().fordblks > LEFT_BYTES:
            libc.malloc_trim(0)


class _Allocated(ctypes.Structure):
    """`struct mallinfo2`; `fordblks`: bytes that are free and still this process's."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


@cache
def _glibc() -> Any:
    """None where there is another C library, or one from before 2021."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Allocated
    except (OSError, TypeError, AttributeError):
        return None
    return libc


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
