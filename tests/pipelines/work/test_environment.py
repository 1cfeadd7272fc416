"""Every MEDSEG_ variable is typed, bounded, refused with name, value, bound and remedy, and listed."""

import logging
import os
import re
from pathlib import Path

import pytest

from flows import processes
from pipelines.work import cores, environment, project
from tests.conftest import REPOSITORY


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(environment.PREFIX)]:
        monkeypatch.delenv(name)


def names() -> set[str]:
    return {row["name"] for row in environment.rows()}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("WORKERS", "abc", "MEDSEG_WORKERS = 'abc': must be a valid integer"),
        (
            "WORKERS",
            "-3",
            "MEDSEG_WORKERS = '-3': must be greater than or equal to 1; set it within that bound, or unset",
        ),
        ("WORKERS", "0", "MEDSEG_WORKERS = '0': must be greater than or equal to 1"),
        ("RANKS", "2.5", "MEDSEG_RANKS = '2.5': must be a valid integer"),
        ("LOADERS", "-1", "MEDSEG_LOADERS = '-1': must be greater than or equal to 0"),
        ("SHARD_RANKS", "0", "MEDSEG_SHARD_RANKS = '0': must be greater than or equal to 1"),
        ("RESTARTS", "many", "MEDSEG_RESTARTS = 'many': must be a valid integer"),
        ("CHECKPOINT_S", "nan", "MEDSEG_CHECKPOINT_S = 'nan': must be a finite number"),
        ("HANG_S", "0", "MEDSEG_HANG_S = '0': must be greater than 0"),
        ("GRACE_S", "1e9", "MEDSEG_GRACE_S = '1e9': must be"),
        ("UNCERTIFIED", "perhaps", "MEDSEG_UNCERTIFIED = 'perhaps': must be a valid boolean"),
        ("DASK", "my cluster", "MEDSEG_DASK = 'my cluster': String should match"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MEDSEG_{name}", value)
    with pytest.raises(ValueError, match="^" + re.escape(told)):
        environment.read()


def test_all_bad_values_are_named_at_once_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_WORKERS", "abc")
    monkeypatch.setenv("MEDSEG_HANG_S", "-1")
    with pytest.raises(ValueError, match=r"MEDSEG_WORKERS = 'abc'.*; MEDSEG_HANG_S = '-1'") as refused:
        environment.read()
    assert "\n" not in str(refused.value)
    assert [bool(row["problem"]) for row in environment.rows() if row["value"]] == [True, True]


def test_it_is_read_at_the_moment_of_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cores.workers() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("MEDSEG_WORKERS", "3")
    assert cores.workers() == 3
    monkeypatch.setenv("MEDSEG_WORKERS", "")
    assert cores.workers() == len(os.sched_getaffinity(0))
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    assert project.root() == tmp_path


def test_values_have_their_types(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LINKED", "/a:/b:"), ("UNCERTIFIED", "1"), ("CHECKPOINT_S", "0"), ("DASK", "tcp://host:8786")):
        monkeypatch.setenv(f"MEDSEG_{name}", value)
    now = environment.read()
    assert now.linked == (Path("/a"), Path("/b"))
    assert now.uncertified is True
    assert (now.checkpoint_s, now.hang_s, now.restarts, now.ranks) == (0.0, 1800.0, 3, None)


def test_the_keys_file_and_the_webhook_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_KEY_FILE", "/home/me/study.key")
    assert "study.key" not in str(environment.rows())
    assert {row["value"] for row in environment.rows() if row["name"] == "MEDSEG_KEY_FILE"} == {"set"}
    monkeypatch.setenv("MEDSEG_WEBHOOK", "https://chat.example/secret")
    assert "secret" not in str([row["value"] for row in environment.rows()])
    assert "chat.example" not in repr(environment.read())


def test_every_variable_is_explained() -> None:
    for row in environment.rows():
        assert list(row) == ["name", "value", "default", "type", "bound", "description", "problem"]
        assert all(row[key] for key in ("name", "default", "type", "description")), row


def test_every_variable_that_code_or_docs_name_is_known() -> None:
    known = names() | {environment.SESSION, environment.ONLY_IN_TESTS}
    files = [*(path for room in ("flows", "pipelines", "model") for path in (REPOSITORY / room).rglob("*.py"))]
    files += [*(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "profiles").glob("*.yaml"), REPOSITORY / "README.md"]
    named = {name for path in files for name in re.findall(r"MEDSEG_[A-Z_]*[A-Z]", path.read_text())}
    assert named - known - {"MEDSEG_SERVICE_HOST"} == set()
    assert processes.MARK == environment.SESSION


def test_code_asks_this_module_and_not_the_environment_itself() -> None:
    asked = re.compile(r"environ(?:\.get\(|\[)\s*[\"']MEDSEG_\w+[\"']\)?(?!\]? =)")
    for room in ("flows", "pipelines"):
        for path in (REPOSITORY / room).rglob("*.py"):
            assert not asked.findall(path.read_text()), path


def test_a_misspelt_name_is_warned_of_once_for_a_command_and_all_it_starts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MEDSEG_WORKER", "4")
    with caplog.at_level(logging.WARNING):
        environment.warn_of_unknown()
        assert caplog.messages == [
            "MEDSEG_WORKER is set, and nothing reads it; did you mean 'MEDSEG_WORKERS'?; `medseg env` lists all"
        ]
        monkeypatch.setenv(environment.SESSION, "mark")
        environment.warn_of_unknown()
    assert len(caplog.messages) == 1
    assert environment.unknown() == [caplog.messages[0].removesuffix("; `medseg env` lists all")]


def test_traces_are_asked_for_even_while_the_environment_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not environment.debugging()
    monkeypatch.setenv("MEDSEG_DEBUG", "1")
    assert environment.debugging()
    monkeypatch.setenv("MEDSEG_WORKERS", "abc")
    assert not environment.debugging()
