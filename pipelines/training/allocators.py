"""How the ranks' memory is handed out: settings that a process reads when it starts, and never again.

set_for_ranks()     before they are started
require()           first thing in a rank: one that was started by others, without them, starts itself once more
"""

import os
import sys

SETTINGS = {
    # glibc returns large tensors to the kernel at every free; keeping them nearly halved the CPU time
    # of a step of nnU-Net's network on a CPU.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    # Pages of 2 MiB where the kernel lets programs ask for them (transparent_hugepage: madvise, Debian's and Ubuntu's
    # own setting): a step of `tiny` on hippocampus took 230 instead of 267 ms on an Intel Xeon.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",  # the certificate's reserve for fragmentation counts on it
}


def set_for_ranks() -> None:
    """In this process's environment, for those that it starts. What is set already stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def require() -> None:
    """Be a process that has them. The same process id, so that who started it loses nothing."""
    if not SETTINGS.keys() <= os.environ.keys():
        set_for_ranks()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
