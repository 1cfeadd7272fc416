"""How a flow ends that did not do its work: as Failed with one line, or as Skipped."""

from typing import Any

from prefect.states import Completed, Failed, State

from flows import lock
from pipelines.work import faults

SKIPPED = "Skipped"  # there was nothing to do, or another run does it; no fault, and nothing waits behind it


def skipped(why: str) -> State[Any]:
    return Completed(name=SKIPPED, message=why)


def of(error: Exception) -> State[Any]:
    """What an error comes to. Raises a mistake of ours again: its trace is wanted."""
    if isinstance(error, lock.BusyError):
        return skipped(str(error))
    if (line := faults.told(error)) is None:
        raise error
    return Failed(message=line)
