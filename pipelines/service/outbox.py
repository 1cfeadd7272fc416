"""Answers on their way to a PACS or node: tried again, later and later, until they are there or are given up.

The same object sent twice is one object there (its SOP Instance UID), so a delivery that was cut off is repeated whole.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import select, update

from pipelines.service import destinations
from pipelines.service.job import DELIVERED, UNDELIVERED, WAITING, Ask, ServiceJob
from pipelines.service.job_table import jobs
from pipelines.service.peers import OURS, Destination
from pipelines.service.queue import Spool
from pipelines.service.serve_settings import ServeSettings

log = logging.getLogger(__name__)

LOOK_S = 1.0
FIRST_S, LONGEST_S = 10.0, 3600.0  # between the first two tries; between the last ones
Send = Callable[[Destination, Sequence[Path], str], None]


class Outbox:
    """Deliveries to one destination, in order; another one that hangs does not hold them up."""

    def __init__(self, spool: Spool, settings: ServeSettings, name: str, send: Send = destinations.send) -> None:
        self._spool, self._settings, self._name, self._send = spool, settings, name, send

    def run(self, over: threading.Event) -> None:
        while not over.wait(LOOK_S):
            try:
                for job in self.due():
                    self.deliver(job)
            except Exception:  # of the database; the next look may do
                log.exception("outbox %s", self._name)

    def due(self) -> list[ServiceJob]:
        with self._spool.database.reading() as connection:
            chosen = select(jobs.c.id, jobs.c.ask).where(
                jobs.c.delivery == WAITING, jobs.c.delivery_at <= time.time()
            ).order_by(jobs.c.number)  # fmt: skip
            rows = connection.execute(chosen).all()
        return [self._spool.job(row.id) for row in rows if Ask.from_json(row.ask).deliver == self._name]

    def deliver(self, job: ServiceJob) -> None:
        try:
            folder = self._spool.results(job.id)
            files = [folder / each.file for each in job.answer.results if each.file.endswith(".dcm")]
            if files:
                calling = self._settings.dimse.ae_title if self._settings.dimse else OURS
                self._send(self._settings.destinations[self._name], files, calling)
            self._settle(job, DELIVERED, "" if files else "nothing was found, so there is no DICOM object")
        except (ValueError, KeyError) as error:
            self._settle(job, UNDELIVERED, str(error) if isinstance(error, ValueError) else "the results are gone")
        except Exception as error:
            told = str(error) if isinstance(error, OSError) else type(error).__name__
            tries = job.delivery_tries + 1
            given_up = tries >= self._settings.deliver_tries
            self._settle(job, UNDELIVERED if given_up else WAITING, told, tries)

    def _settle(self, job: ServiceJob, delivery: str, reason: str, tries: int | None = None) -> None:
        tries = job.delivery_tries + 1 if tries is None else tries
        due = time.time() + min(LONGEST_S, FIRST_S * 2 ** (tries - 1))
        told = {"delivery": delivery, "delivery_reason": reason, "delivery_tries": tries, "delivery_at": due}
        with self._spool.database.writing() as connection:
            connection.execute(update(jobs).where(jobs.c.id == job.id, jobs.c.delivery == WAITING).values(**told))
        log.log(logging.INFO if delivery == DELIVERED else logging.WARNING, "job %s: %s %s", job.id, delivery, reason)
