"""How many processes work side by side."""

import os


def workers() -> int:
    """$MEDSEG_WORKERS, or one a core."""
    return int(os.environ.get("MEDSEG_WORKERS", 0)) or len(os.sched_getaffinity(0))
