"""Jobs as HTTP tells them."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from pipelines.service.job import ServiceJob

MEDIA_TYPES = {
    "nifti": "application/gzip", "json": "application/json", "png": "image/png", "dicom-seg": "application/dicom",
    "dicom-labelmap": "application/dicom", "rtstruct": "application/dicom", "sr": "application/dicom",
    "view": "application/octet-stream",  # what the page shows, pipelines/pages/scan_view.py
}  # fmt: skip


class ToldResult(BaseModel):
    """One file of an answer."""

    scan: str
    kind: str
    file: str
    bytes: int
    sha256: str
    href: str


class ToldJob(BaseModel):
    """One job."""

    id: str
    state: str = Field(description="queued, running, done, failed, refused or cancelled")
    progress: float = Field(description="0 to 1")
    ahead: int | None = Field(description="jobs that are taken before it, while it is queued")
    asked_at: str
    taken_at: str | None
    ended_at: str | None
    to: list[str] = Field(description="kinds of results that were asked for")
    model: str = Field(description="which version answers, known once a worker took the job")
    version: dict[str, Any] = Field(description="the same, once it is done; `mark` says what it may be used for")
    reason: str = Field(description="why it failed or was refused")
    results: list[ToldResult]
    warnings: list[tuple[str, str]] = Field(description="of each scan")
    left_out: list[tuple[str, str]] = Field(description="scans that were refused, and why")
    delivery: str = Field(description="empty, waiting, delivered or undelivered")
    delivery_reason: str


def told_job(job: ServiceJob) -> ToldJob:
    results = [
        ToldResult(
            scan=each.scan, kind=each.kind, file=each.file, bytes=each.bytes, sha256=each.sha256,
            href=f"/segmentations/{job.id}/results/{each.kind}?scan={quote(each.scan)}",
        )
        for each in job.answer.results
    ]  # fmt: skip
    return ToldJob(
        id=job.id, state=job.state, progress=job.progress, ahead=job.ahead, asked_at=_iso(job.asked_at) or "",
        taken_at=_iso(job.taken_at), ended_at=_iso(job.ended_at), to=list(job.ask.to), model=job.model,
        version=job.answer.version, reason=job.reason, results=results, warnings=list(job.answer.warnings),
        left_out=list(job.answer.left_out), delivery=job.delivery, delivery_reason=job.delivery_reason,
    )  # fmt: skip


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
