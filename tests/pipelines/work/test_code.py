"""Which code made this: what the code says counts, how it is written does not, and all that is imported does."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.work import code
from pipelines.work.code import normalised

PLAIN = '''
"""A docstring."""
from house import other


class Thing:
    """Another."""

    size = 3


def area(side: float) -> float:
    return f"{side!r:>3}" and side * Thing.size
'''


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""A docstring."""', '"""Something else."""'),
        ('    """Another."""\n', ""),
        ("    size = 3", "    size = 3  # of a side"),
        ("def area(side: float) -> float:\n", 'def area(\n    side: float,\n) -> float:\n    """New."""\n\n'),
        ("side * Thing.size", "(side\n        * Thing.size)"),
        ("size = 3", "size = 0x3"),
    ],
)
def test_comments_docstrings_and_formatting_do_not_count(before: str, after: str) -> None:
    assert before in PLAIN
    assert normalised(PLAIN.replace(before, after)) == normalised(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("size = 3", "size = 4"),
        ("size = 3", "size = 3.0"),
        ("size = 3", "size = None"),
        ("size = 3", '"""Not first."""\n    size = 3\n    """A string that stands alone later is kept."""'),
        ("side * Thing.size", "side + Thing.size"),
        ("side: float", "side: int"),
        ("{side!r:>3}", "{side!r:>4}"),
        ("house import other", "house import another"),
        ("class Thing:", "@final\nclass Thing:"),
    ],
)
def test_what_the_code_says_counts(before: str, after: str) -> None:
    assert before in PLAIN
    assert normalised(PLAIN.replace(before, after)) != normalised(PLAIN)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules: a imports b, b imports c within a function."""
    package = tmp_path / "house_of_three"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text("from house_of_three import b\n\nvalue = b.value\n")
    (package / "b.py").write_text("value = 1\n\n\ndef late():\n    from house_of_three.c import far\n")
    (package / "c.py").write_text("far = 2\n")
    (package / "beside.py").write_text("value = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "PACKAGES", ("house_of_three",))
    yield package
    for name in [name for name in sys.modules if name.startswith("house_of_three")]:
        del sys.modules[name]
    _forget()


def _forget() -> None:
    """As a new process would begin."""
    importlib.invalidate_caches()
    code._graph.cache_clear()
    code._package.cache_clear()
    code._known.clear()


def digest(*roots: str, without: tuple[str, ...] = ()) -> str:
    _forget()
    return code.digest(*roots, without=without)


def test_a_digest_is_of_all_that_is_imported_and_of_nothing_else(house: Path) -> None:
    _forget()
    assert code.closure("house_of_three.a", without=()) == [f"house_of_three.{name}" for name in "abc"]
    before = digest("house_of_three.a")
    (house / "beside.py").write_text("value = 4\n")
    (house / "c.py").write_text("# two\nfar = 2\n")
    assert digest("house_of_three.a") == before
    (house / "c.py").write_text("far = 3\n")
    assert digest("house_of_three.a") != before


def test_what_was_remembered_of_a_source_makes_no_difference(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest("house_of_three.a")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("MEDSEG_ROOT", str(tmp_path))
    assert digest("house_of_three.a") == before
    assert (tmp_path / ".medseg/digests.sqlite").is_file()
    assert digest("house_of_three.a") == before
    (house / "c.py").write_text("far = 3\n")
    assert digest("house_of_three.a") != before


def test_a_digest_imports_none_of_its_modules() -> None:
    script = "import sys; from pipelines.work import code; code.of_stage('train'); sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_is_left_out_is_not_followed(house: Path) -> None:
    before = digest("house_of_three.a", without=("house_of_three.b",))
    (house / "c.py").write_text("far = 3\n")
    (house / "b.py").write_text("value = 9\n")
    assert digest("house_of_three.a", without=("house_of_three.b",)) == before


def test_a_stage_whose_digest_is_not_the_written_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    assert code.changed(("plan", "train")) == {"plan", "train"}
    code.write(("plan", "train"))
    assert code.changed(("plan", "train")) == set()
    (tmp_path / "data/code/plan").write_text("other\n")
    assert code.changed(("plan", "train")) == {"plan"}
