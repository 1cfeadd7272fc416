"""The queue: every accepted job is answered once, whatever was killed when; bounds; keys."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.release import audit
from pipelines.service.job import (
    CANCELLED,
    DONE,
    FAILED,
    QUEUED,
    RUNNING,
    Ask,
    JobAnswer,
    ResultFile,
)
from pipelines.service.job_table import Database, jobs
from pipelines.service.queue import ATTEMPTS, Bounds, QueueFullError, Spool
from pipelines.service.recovery import recover, tell, tell_untold, tidy
from tests.pipelines.service.postgres import postgres

ANSWER = JobAnswer(
    {"told": "m version 1: champion", "record_sha256": "cd"}, (ResultFile("x", "nifti", "x.nii.gz", 1, "ab"),)
)


BOUNDS = Bounds(queue=6, per_sender=4)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    with postgres() as address:
        yield address


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return ""
    address: str = request.getfixturevalue("postgresql")
    with Database(address, Path()).writing() as connection:
        connection.execute(jobs.delete())
    return address


@pytest.fixture
def spool(tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> Spool:
    """Of a project, which has an audit log."""
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return Spool(tmp_path / "serve", database, BOUNDS)


def accepted(spool: Spool, sender: str = "a", key: str = "", ask: Ask | None = None) -> str:
    folder = spool.arriving(sender)
    (folder / "scan.nii.gz").write_text("scan")
    return spool.accept(folder, ask or Ask(), sender, key)


def answered(spool: Spool, job_id: str) -> bool:
    folder = spool.working(job_id)
    (folder / "x.nii.gz").write_text("1")
    return spool.done(job_id, folder, ANSWER)


def test_first_come_first_served(spool: Spool) -> None:
    first, second = accepted(spool), accepted(spool, "b", ask=Ask(("dicom-seg",), deliver="pacs"))
    assert [spool.job(each).ahead for each in (first, second)] == [0, 1]
    taken = spool.take()
    assert taken is not None
    assert (taken.id, taken.state, taken.attempts) == (first, RUNNING, 1)
    assert answered(spool, first)
    assert not answered_again(spool, first)
    job = spool.job(first)
    assert (job.state, job.model, job.answer, job.delivery) == (DONE, "m version 1: champion", ANSWER, "")
    assert (spool.results(first) / "x.nii.gz").read_text() == "1"
    with pytest.raises(KeyError):
        spool.results(second)
    assert [each.id for each in spool.jobs("b")] == [second]
    taken = spool.take()
    assert taken is not None
    assert taken.ask == Ask(("dicom-seg",), deliver="pacs")
    answered(spool, second)
    assert spool.job(second).delivery == "waiting"
    assert spool.take() is None


def answered_again(spool: Spool, job_id: str) -> bool:
    return spool.ended(job_id, FAILED, "late") or spool.cancel(job_id) or spool.publish(job_id, ANSWER)


def test_a_key_is_one_job_even_after_its_answer(spool: Spool) -> None:
    first = accepted(spool, key="k")
    assert accepted(spool, key="k") == first
    assert accepted(spool, "b", key="k") != first
    spool.take()
    answered(spool, first)
    tidy(spool, keep_inputs=False, keep_results_days=7)
    assert accepted(spool, key="k") == first == spool.known("a", "k")
    assert len(list((spool.folder / "inputs").iterdir())) == 2
    assert list((spool.folder / "arriving").iterdir()) == []


def test_bounds_of_all_and_of_one_sender(spool: Spool) -> None:
    ids = [accepted(spool) for _ in range(4)]
    with pytest.raises(QueueFullError, match="4 jobs of yours are waiting, at most 4 may"):
        spool.arriving("a")
    folder = spool.arriving("b")
    with pytest.raises(QueueFullError, match="at most 0") as full:
        spool.accept(folder, Ask(), "b", limit=0)
    assert full.value.retry_s > 0
    assert not folder.exists()
    for _ in range(2):
        accepted(spool, "b")
    with pytest.raises(QueueFullError, match="6 jobs are waiting, at most 6 may"):
        accepted(spool, "c")
    assert spool.cancel(ids[0])
    accepted(spool, "c")


def test_cancelled_while_it_runs(spool: Spool) -> None:
    job_id = accepted(spool)
    spool.take()
    assert spool.progress(job_id, 0.5, "m version 1")
    assert spool.cancel(job_id)
    assert not spool.progress(job_id, 0.6)
    assert not answered(spool, job_id)
    assert spool.job(job_id).state == CANCELLED
    assert not list((spool.folder / "results").iterdir())
    assert not spool.inputs(job_id).exists()


def test_what_a_kill_leaves_is_known_at_the_next_start(
    spool: Spool, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, half = accepted(spool), accepted(spool)
    spool.take()
    spool.take()
    monkeypatch.setattr(spool, "publish", lambda *_: False)  # killed between the results' name and the row
    answered(spool, whole)
    (spool.working(half) / "x.nii.gz").write_text("ha")
    (spool.arriving("b") / "upload").write_text("ha")
    other = Spool(spool.folder, database, BOUNDS)
    recover(other)
    assert [other.job(each).state for each in (whole, half)] == [DONE, QUEUED]
    assert other.job(whole).answer == ANSWER
    assert not [left for name in ("arriving", "working") for left in (spool.folder / name).iterdir()]
    for _ in range(ATTEMPTS - 1):
        other.take()
        recover(other)
    assert other.job(half).state == FAILED
    assert "its worker died 3 times" in other.job(half).reason
    told = [(line.facts["job"], line.facts["state"], line.facts["outputs"]) for line in audit.read()]
    assert told == [(whole, DONE, ["ab"]), (half, FAILED, [])]


def test_an_answer_whose_worker_was_killed_before_it_told_the_audit_log_has_its_line_and_no_other_has_two(
    spool: Spool,
) -> None:
    told, untold, anothers = (accepted(spool) for _ in range(3))
    for worker, job_id in ((0, told), (0, untold), (1, anothers)):
        job = spool.take(worker)
        assert job is not None
        assert answered(spool, job_id)
        if job_id == told:
            tell(job, DONE, ANSWER, "version")
    tell_untold(spool, 0)  # worker 1 lives: its line is still to come
    assert [line.facts["job"] for line in audit.read()] == [told, untold]
    assert [line.facts["record_sha256"] for line in audit.read()] == ["version", "cd"]
    for _ in range(2):
        recover(spool)
        assert [line.facts["job"] for line in audit.read()] == [told, untold, anothers]


def test_one_job_is_taken_once_by_many(spool: Spool, database: str) -> None:
    ids = {accepted(spool, sender) for sender in ("a", "a", "a", "b", "b", "b")}
    taken: list[str] = []

    def work() -> None:
        own = Spool(spool.folder, database, BOUNDS)
        while job := own.take():
            taken.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)


def test_a_database_that_cannot_be_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^database localhost:1/none: .*give sqlite:///FILE or postgres") as refused:
        Spool(tmp_path, "postgresql+psycopg2://me:secret@localhost:1/none")
    assert "secret" not in str(refused.value)


def test_an_audit_log_that_is_damaged_keeps_nobody_from_starting(
    spool: Spool, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = accepted(spool)
    spool.take()
    assert answered(spool, job_id)
    audit.path().parent.mkdir(parents=True)
    audit.path().write_text("nothing of ours\n")
    recover(spool)
    assert spool.job(job_id).state == DONE
    assert "the audit log lacks lines of answered jobs" in caplog.text
    assert audit.path().read_text() == "nothing of ours\n"
