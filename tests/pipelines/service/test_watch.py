"""The watched folder: what is put there is one job, whatever happens meanwhile, and what came of it lies elsewhere."""

from pathlib import Path

import pytest

from pipelines.service.job import FAILED, Ask, JobAnswer, ResultFile
from pipelines.service.queue import Bounds, Spool
from pipelines.service.serve_settings import ServeLimits, WatchSettings
from pipelines.service.watch import Watched

ANSWER = JobAnswer({"told": "m"}, (ResultFile("scan", "nifti", "scan.nii.gz", 1, "ab"),))


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.chdir(tmp_path)
    settings = WatchSettings(inbox=tmp_path / "in", outbox=tmp_path / "out", settled_s=5, modality="CT")
    spool = Spool(tmp_path / "serve", bounds=Bounds(2, 2))
    return Watched(spool, settings, ServeLimits(files=3, upload_mib=1))


def answer_next(watched: Watched) -> None:
    spool = watched._spool
    job = spool.take()
    assert job is not None
    folder = spool.working(job.id)
    (folder / "scan.nii.gz").write_text(job.id)
    spool.done(job.id, folder, ANSWER)


def test_what_is_put_there_comes_out_answered(watched: Watched, tmp_path: Path) -> None:
    (tmp_path / "in/p1.nii.gz").write_text("1")
    (tmp_path / "in/p2").mkdir()
    (tmp_path / "in/p2/a.dcm").write_text("2")
    for name in (".hidden", "half.part"):
        (tmp_path / "in" / name).write_text("3")
    (tmp_path / "in/link").symlink_to("/etc")
    watched.look(now=0)
    (tmp_path / "in/p2/b.dcm").write_text("later")
    watched.look(now=6)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == [".hidden", "half.part", "link", "p2"]
    watched.look(now=12)
    (newest, oldest) = watched._spool.jobs("watch")
    assert oldest.ask == Ask(("nifti", "json"), modality="CT")
    assert sorted(path.name for path in watched._spool.inputs(newest.id).iterdir()) == ["a.dcm", "b.dcm"]
    answer_next(watched)
    watched._spool.take()
    watched._spool.ended(newest.id, FAILED, "the series: 1 slice is missing")
    watched.look(now=13)
    watched.look(now=14)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["p1", "p2.refused.txt"]
    assert [path.name for path in (tmp_path / "out/p1").iterdir()] == ["scan.nii.gz"]
    assert (tmp_path / "out/p2.refused.txt").read_text() == "the series: 1 slice is missing\n"


def test_cut_off_it_is_still_one_job(watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in/p1.nii.gz").write_text("1")
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.service.watch._remove", lambda path: None)
        watched.look(now=0)
        watched.look(now=6)
    answer_next(watched)
    watched.look(now=7)
    assert len(watched._spool.jobs("watch")) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["p1"]
    assert not list((tmp_path / "in").iterdir())


def test_a_full_queue_is_waited_for_and_too_much_is_refused(watched: Watched, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"in/p{number}.nii.gz").write_text("1")
    (tmp_path / "in/many").mkdir()
    for number in range(4):
        (tmp_path / f"in/many/{number}.dcm").write_text("1")
    watched.look(now=0)
    watched.look(now=6)
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["p2.nii.gz"]
    assert "limits.files" in (tmp_path / "out/many.refused.txt").read_text()
    answer_next(watched)
    watched.look(now=7)
    assert len(watched._spool.jobs("watch")) == 3


def test_an_outbox_within_the_inbox_is_refused(tmp_path: Path) -> None:
    settings = WatchSettings(inbox=tmp_path, outbox=tmp_path / "out")
    with pytest.raises(ValueError, match=r"watch\.outbox .* lies in watch\.inbox; name a folder outside"):
        Watched(Spool(tmp_path / "serve"), settings, ServeLimits())
