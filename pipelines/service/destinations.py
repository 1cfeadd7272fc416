"""Where scans are fetched from and results go: PACS by DICOMweb, nodes by DIMSE; by name in serve.yaml.

    send(destination, files)                              STOW-RS or C-STORE; the same object again changes nothing
    fetch(destination, WantedStudy(study, series, folder...))  WADO-RS

Both talk in a child process with bounds on time and memory (pipelines/dicom/sandbox.py): a peer that dribbles, never
ends or sends what inflates takes the child down and nothing else. Whoever calls is blocked meanwhile, in any thread.

Raise PeerRefusedError where trying again would change nothing (a peer's rules, a token, a UID), PeerBusyError where it
may help (not reachable, no room, too slow). Neither quotes what a peer said: it may name the patient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.dicom import sandbox
from pipelines.service.peers import OURS, Destination, NodePeer, PeerBusyError, PeerRefusedError, WebPeer

MEMORY_GIB = 4.0


@dataclass(frozen=True)
class WantedStudy:
    """`series`: empty for the whole study; `study`: empty for the series' own. `folder`: of the caller, empty."""

    study: str
    series: str
    folder: Path
    max_bytes: int
    max_files: int


def send(destination: Destination, files: Sequence[Path], calling: str = OURS) -> None:
    """`files`: DICOM all. `calling`: our AE title. Some of the files may be there when it raises."""
    if isinstance(destination, WebPeer):
        _in_child(partial(_stow, destination, tuple(files)), destination)
    else:
        _in_child(partial(_store, destination, tuple(files), calling), destination)


def fetch(destination: Destination, wanted: WantedStudy) -> int:
    """How many files lie in the folder. What lies there when it raises is of no use."""
    if isinstance(destination, WebPeer):
        return _in_child(partial(_wado, destination, wanted), destination)
    raise PeerRefusedError(f"{destination.told_as} is a DIMSE node; studies are fetched by DICOMweb, nodes send theirs")


def _stow(peer: WebPeer, files: Sequence[Path]) -> int:  # the libraries are imported in the child: they take seconds
    from pipelines.service import dicomweb

    return dicomweb.stow(peer, files)


def _wado(peer: WebPeer, wanted: WantedStudy) -> int:
    from pipelines.service import dicomweb

    return dicomweb.wado(peer, wanted)


def _store(peer: NodePeer, files: Sequence[Path], calling: str) -> int:
    from pipelines.service import store_scu

    return store_scu.send_to(peer, files, calling)


@dataclass(frozen=True)
class _Outcome:
    """`count` objects, or why not; `again`: another try may help."""

    count: int = 0
    reason: str = ""
    again: bool = False


def _in_child(work: Callable[[], int], destination: Destination) -> int:
    limits = sandbox.Limits(destination.timeout_s, MEMORY_GIB, wall_s=destination.timeout_s)
    (outcome,) = sandbox.each(_outcome, [work], limits, "peer", processes=1)
    if isinstance(outcome, sandbox.Refused):
        raise PeerBusyError(f"{destination.told_as}: the talk {outcome.reason}")
    if outcome.reason:
        raise (PeerBusyError if outcome.again else PeerRefusedError)(outcome.reason)
    return int(outcome.count)


def _outcome(work: Callable[[], int]) -> _Outcome:
    try:
        return _Outcome(work())
    except PeerRefusedError as error:
        return _Outcome(reason=str(error))
    except PeerBusyError as error:
        return _Outcome(reason=str(error), again=True)
