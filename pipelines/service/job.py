"""What a job is: what was asked, by whom, and how far it is."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

QUEUED, RUNNING = "queued", "running"
DONE, FAILED, REFUSED, CANCELLED = "done", "failed", "refused", "cancelled"
STATES = (QUEUED, RUNNING, DONE, FAILED, REFUSED, CANCELLED)
OPEN = (QUEUED, RUNNING)
ANSWERED = (DONE, FAILED, REFUSED)
WAITING, DELIVERED, UNDELIVERED = "waiting", "delivered", "undelivered"


@dataclass(frozen=True)
class Ask:
    """`to`: kinds of results. `model`: a version, or empty for the service's. `modality`: where names and headers do
    not say. `deliver`: the name of a destination, or empty."""

    to: tuple[str, ...] = ("nifti",)
    model: str = ""
    modality: str = ""
    deliver: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Ask":
        told = json.loads(text)
        return Ask(**{**told, "to": tuple(told["to"])})


@dataclass(frozen=True)
class ResultFile:
    """`scan`: the name of one of the scans that were sent. `file`: its name in the folder of results."""

    scan: str
    kind: str
    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class JobAnswer:
    """What a worker made. `version`: what RegisteredModel.to_json tells. `warnings`, `left_out`: [scan, text] each."""

    version: dict[str, Any] = field(default_factory=dict)
    results: tuple[ResultFile, ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "JobAnswer":
        told = json.loads(text)
        if not told:
            return JobAnswer()
        pairs = {name: tuple((scan, words) for scan, words in told[name]) for name in ("warnings", "left_out")}
        return JobAnswer(told["version"], tuple(ResultFile(**each) for each in told["results"]), **pairs)


@dataclass(frozen=True)
class ServiceJob:
    """Times in seconds since 1970. `model`: which version answers; empty until a worker took it. `reason`: why it
    failed or was refused."""

    id: str
    state: str
    sender: str
    ask: Ask
    asked_at: float
    taken_at: float | None
    ended_at: float | None
    progress: float
    attempts: int
    model: str
    reason: str
    answer: JobAnswer
    delivery: str
    delivery_reason: str
    delivery_tries: int
    ahead: int | None = None  # jobs that are taken before it, while it is queued
