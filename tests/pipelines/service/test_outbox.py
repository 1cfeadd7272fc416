"""Deliveries: tried again, later and later; given up by name; never of what is no DICOM."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import update

from pipelines.service.job import Ask, JobAnswer, ResultFile, ServiceJob
from pipelines.service.job_table import jobs
from pipelines.service.outbox import Outbox
from pipelines.service.peers import Destination, NodePeer, PeerBusyError, PeerRefusedError
from pipelines.service.queue import Spool
from pipelines.service.serve_settings import ServeSettings

PEER = NodePeer(ae_title="PACS", host="localhost", port=104)
SEG = ResultFile("x", "dicom-seg", "x.seg.dcm", 1, "ab")
JSON = ResultFile("x", "json", "x.json", 1, "cd")


class Pacs:
    def __init__(self, *errors: Exception) -> None:
        self.errors, self.got = list(errors), list[list[str]]()

    def __call__(self, destination: Destination, files: Sequence[Path], calling: str) -> None:
        assert (destination, calling) == (PEER, "MEDSEG")
        if self.errors:
            raise self.errors.pop(0)
        self.got.append([file.name for file in files])


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path)


def answered(spool: Spool, *results: ResultFile, deliver: str = "pacs") -> str:
    folder = spool.arriving("a")
    (folder / "scan").touch()
    job_id = spool.accept(folder, Ask(deliver=deliver), "a")
    spool.take()
    folder = spool.working(job_id)
    for each in results:
        (folder / each.file).touch()
    spool.done(job_id, folder, JobAnswer({"told": "m"}, results))
    return job_id


def look(spool: Spool, pacs: Pacs, tries: int = 12) -> list[ServiceJob]:
    """One look, now, whatever was due when."""
    settings = ServeSettings(destinations={"pacs": PEER}, deliver_tries=tries)
    with spool.database.writing() as connection:
        connection.execute(update(jobs).values(delivery_at=0.0))
    outbox = Outbox(spool, settings, "pacs", pacs)
    found = outbox.due()
    for job in found:
        outbox.deliver(job)
    return found


def test_delivered_once_and_only_dicom_and_only_there(spool: Spool) -> None:
    job_id, other = answered(spool, SEG, JSON), answered(spool, SEG, deliver="")
    empty = answered(spool, JSON)
    pacs = Pacs()
    assert [job.id for job in look(spool, pacs)] == [job_id, empty]
    assert pacs.got == [["x.seg.dcm"]]
    assert [spool.job(each).delivery for each in (job_id, empty, other)] == ["delivered", "delivered", ""]
    assert "no DICOM object" in spool.job(empty).delivery_reason
    assert look(spool, pacs) == []


def test_a_busy_pacs_is_tried_again_later_and_later(spool: Spool) -> None:
    job_id = answered(spool, SEG)
    pacs = Pacs(*[PeerBusyError("it sleeps")] * 2)
    pauses = []
    for _ in range(2):
        look(spool, pacs)
        assert Outbox(spool, ServeSettings(destinations={"pacs": PEER}), "pacs", pacs).due() == []  # not due yet
        with spool.database.reading() as connection:
            pauses.append(connection.execute(jobs.select()).mappings().one()["delivery_at"] - time.time())
        assert (spool.job(job_id).delivery, spool.job(job_id).delivery_reason) == ("waiting", "it sleeps")
    assert pauses[1] > pauses[0] + 5
    look(spool, pacs)
    job = spool.job(job_id)
    assert (job.delivery, job.delivery_tries, pacs.got) == ("delivered", 3, [["x.seg.dcm"]])


def test_given_up_at_once_where_it_is_refused_and_after_some_tries_where_not(spool: Spool) -> None:
    refused = answered(spool, SEG)
    look(spool, Pacs(PeerRefusedError("it does not take SEG")))
    assert (spool.job(refused).delivery, spool.job(refused).delivery_reason) == ("undelivered", "it does not take SEG")
    busy, pacs = answered(spool, SEG), Pacs(*[PeerBusyError("it sleeps")] * 9)
    for _ in range(3):
        look(spool, pacs, tries=3)
    assert spool.job(busy).delivery == "undelivered"
    assert len(pacs.errors) == 6
    assert spool.figures()["undelivered"] == 2
