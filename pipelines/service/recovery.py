"""What a start finds and what time makes needless: half-done jobs, folders of nobody, answers that were kept enough."""

import logging
import shutil
import time
from pathlib import Path

from sqlalchemy import select

from pipelines.release import audit
from pipelines.service.job import ANSWERED, DONE, OPEN, WAITING, JobAnswer, ServiceJob
from pipelines.service.job_table import jobs
from pipelines.service.queue import ANSWER, Spool

log = logging.getLogger(__name__)

DAY_S = 86_400
ANSWER_LINE = "answer"  # an event of the audit log


def recover(spool: Spool) -> None:
    """Before anyone takes or accepts: jobs that were running are done if their results are whole, and queued again if
    not; uploads that were not accepted, and what no job is about, go; the audit log is told what it does not know."""
    for job in spool.running():
        settle(spool, job.id)
    tell_untold(spool)
    for name in ("arriving", "working"):
        for left in (spool.folder / name).iterdir():
            shutil.rmtree(left, ignore_errors=True)


def settle(spool: Spool, job_id: str, counted: bool = True) -> None:
    """A job whose worker is gone: see `recover`; `counted`: see Spool.put_back."""
    told = spool.folder / "results" / job_id / ANSWER
    if told.is_file():
        spool.publish(job_id, JobAnswer.from_json(told.read_text()))
    else:
        spool.put_back(job_id, counted)
        log.info("job %s lost its worker: %s", job_id, spool.job(job_id).state)


def tell_untold(spool: Spool, worker: int | None = None) -> None:
    """Lines of the audit log for answered jobs that have none: a kill came between the answer and its line. `worker`:
    for jobs of one that is gone, while others are at work."""
    own = () if worker is None else (jobs.c.worker == worker,)
    with spool.database.reading() as connection:
        chosen = select(jobs.c.id).where(jobs.c.state.in_(ANSWERED), *own).order_by(jobs.c.number)
        answered = connection.execute(chosen).scalars().all()
    try:
        told = {line.facts["job"] for line in audit.read((ANSWER_LINE,))} if answered else set()
        for job_id in answered:
            if job_id not in told:
                job = spool.job(job_id)
                tell(job, job.state, job.answer, job.answer.version.get("record_sha256", ""))
    except (audit.BrokenLogError, OSError) as error:  # answering goes on; the next start looks again
        log.warning("the audit log lacks lines of answered jobs: %s", error)


def tell(job: ServiceJob, state: str, answer: JobAnswer, record_sha256: str) -> None:
    """The audit log's line of a job that was answered. `record_sha256`: of the version; empty where none got so far."""
    outputs = [each.sha256 for each in answer.results]
    audit.append(ANSWER_LINE, job=job.id, sender=job.sender, state=state, outputs=outputs, record_sha256=record_sha256)


def tidy(spool: Spool, keep_inputs: bool, keep_results_days: float) -> None:
    """Inputs of what is answered, unless they are kept; answers older than `keep_results_days`, with their inputs."""
    oldest = time.time() - keep_results_days * DAY_S
    with spool.database.reading() as connection:
        rows = connection.execute(select(jobs.c.id, jobs.c.state, jobs.c.ended_at, jobs.c.delivery)).all()
    young = {row.id for row in rows if row.state in OPEN or row.delivery == WAITING or row.ended_at >= oldest}
    still_open = {row.id for row in rows if row.state in OPEN}
    _keep_only(spool.folder / "inputs", young if keep_inputs else still_open)
    _keep_only(spool.folder / "results", {row.id for row in rows if row.state == DONE and row.id in young})
    _keep_only(spool.folder / "working", still_open)


def _keep_only(folder: Path, names: set[str]) -> None:
    """Younger ones are left: they may be of a job whose row is being written."""
    for found in folder.iterdir():
        if found.name.partition("-")[0] not in names and time.time() - found.stat().st_ctime > 60:
            shutil.rmtree(found, ignore_errors=True)
