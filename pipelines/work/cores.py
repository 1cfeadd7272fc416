"""How many processes work side by side."""

import os

from pipelines.work import environment


def workers() -> int:
    """$MEDSEG_WORKERS, or one a core."""
    return environment.read().workers or len(os.sched_getaffinity(0))
