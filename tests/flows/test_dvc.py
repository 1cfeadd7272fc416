"""Bringing one stage up to date: what is stale, what is logged, which line is the error."""

import logging
import os
import re
import shutil
import time

import pytest

from flows import dvc
from flows.dvc import DvcStage, StageFailedError
from tests.flows.conftest import Project

CHAIN = [
    DvcStage("list", (), ("data/list",), True),
    DvcStage("cases", ("data/list",), ("data/cases/train", "data/cases/test"), False),
    DvcStage("train", ("data/cases/train",), ("models",), False),
    DvcStage("score", ("models/net", "data/cases"), ("scores",), False),
    DvcStage("other", ("elsewhere",), ("other",), False),
]


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ({"list"}, {"list", "cases", "train", "score"}),
        ({"cases"}, {"cases", "train", "score"}),
        ({"train"}, {"train", "score"}),
        ({"score"}, {"score"}),
        (set(), set()),
    ],
)
def test_what_follows_from_a_stale_stage_is_stale(changed: set[str], stale: set[str]) -> None:
    assert dvc.downstream(CHAIN, changed) == stale


def test_stages_come_in_the_order_of_dvc_yaml(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_ROOT", str(fresh.root))
    declared = dvc.declared()
    assert [stage.name for stage in declared] == ["inventory", "ingest", "preprocess", "train", "evaluate", "register"]
    assert [stage.name for stage in declared if stage.always_changed] == ["inventory"]


def lines_of(*blocks: bytes) -> list[str]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as stream:
        for block in blocks:
            os.write(writer, block)
        os.close(writer)
        return [line for _, line in dvc._lines({stream: False})]


def test_lines_are_whole_whatever_the_blocks() -> None:
    assert lines_of(b"on", b"e\ntw", b"o\r\nthr\xc3", b"\xa9e") == ["one", "two", "thr\xe9e"]


def test_progress_drawn_over_itself_logs_its_last_state() -> None:
    assert lines_of(b"\r 10%\r 50%\r100%\ndone\n") == ["100%", "done"]


def test_progress_of_a_long_line_is_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))  # seconds; read at most twice a block
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    splitter = dvc._Splitter()
    drawn = [line for step in range(20) for line in splitter.feed(f"{step}\r{step}".encode(), last=False)]
    assert 3 <= len(drawn) < 20


def test_streams_every_line_and_returns_when_the_stage_has_ended(
    fresh: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MEDSEG_ROOT", str(fresh.root))
    with caplog.at_level(logging.INFO):
        dvc.reproduce("inventory", logging.getLogger("toy").info)
    assert "Running stage 'inventory':" in caplog.messages
    assert not any("git add" in message for message in caplog.messages)
    assert list(dvc.output_hashes("inventory")) == ["data/inventory.parquet"]


def test_error_is_the_stages_own_line(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_ROOT", str(fresh.root))
    with pytest.raises(StageFailedError, match=r"^train: .*data/cases"):
        dvc.reproduce("train", logging.getLogger("toy").info)


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        (
            [
                "noise",
                "train: patch is too large",
                "ERROR: failed to reproduce 'train': failed to run: x, exited with 1",
            ],
            "train: patch is too large",
        ),
        (
            ["Traceback ...", "KeyError: 'x'", "ERROR: failed to reproduce 'train': failed to run: x, exited with 1"],
            "train: KeyError: 'x'",
        ),
        (
            ["ERROR: failed to reproduce 'train': failed to run: x, exited with 1"],
            "train: ended with exit code 255 and said nothing",
        ),
        (
            ["'./x/dvc.yaml' validation failed.", "required key not provided, in schema"],
            "train: './x/dvc.yaml' validation failed. required key not provided, in schema",
        ),
        (
            ["ERROR: [Errno 28] No space left on device: '.dvc/cache/00'"],
            "train: [Errno 28] No space left on device: '.dvc/cache/00'; free space there, or have `.dvc/cache` "
            "elsewhere (`dvc cache dir`), and run again",
        ),
    ],
)
def test_last_error_line(stderr: list[str], line: str) -> None:
    assert dvc._last_error(stderr, "train", 255) == line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty; take the committed one back with `git checkout dvc.lock`, or remove it"),
        ("<<<<<<< HEAD\nschema: '2.0'\n=======\nschema: '2.0'\n>>>>>>> b\n", "holds both sides of a merge; take"),
        ("\0garbage", "is damaged; take the committed one back"),
        ("[1, 2]", "is damaged; take"),
    ],
)
def test_a_damaged_lock_file_is_named_with_what_helps(
    fresh: Project, monkeypatch: pytest.MonkeyPatch, content: str, told: str
) -> None:
    monkeypatch.setenv("MEDSEG_ROOT", str(fresh.root))
    fresh.write("dvc.lock", content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(fresh.root / 'dvc.lock'))} {re.escape(told)}"):
        dvc.reproduce("inventory", logging.getLogger("toy").info)


def test_a_project_without_git_is_told_to_make_a_repository(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_ROOT", str(fresh.root))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(fresh.root.parent))
    shutil.rmtree(fresh.root / ".git")
    with pytest.raises(StageFailedError, match="is not a git repository; run `git init` there"):
        dvc.reproduce("inventory", logging.getLogger("toy").info)
