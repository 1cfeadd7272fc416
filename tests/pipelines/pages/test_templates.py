"""The pages' layout: what is filled in cannot break out, nothing comes from elsewhere, templates are installed."""

import os
import re
import tomllib
from pathlib import Path

import jinja2
import pytest

from pipelines.pages.templates import render
from pipelines.work import code
from tests.conftest import REPOSITORY

TEMPLATES = sorted((REPOSITORY / "pipelines/pages/templates").glob("*.html"))
EVIL = '<script src="http://elsewhere/x.js">'
SECTION = {"source": EVIL, "scans": 1, "refused": 0, "noted": 1, "drawn": 1}
FLAGGED = {"case_id": EVIL, "split": EVIL, "refused": False, "found": [EVIL, EVIL]}


def test_what_is_filled_in_is_escaped() -> None:
    page = render("contact_sheet.html", sections=[{**SECTION, "flagged": [FLAGGED]}] * 2)
    assert "<script" not in page
    assert page.count("&lt;script") > 8


def test_what_a_template_asks_for_must_be_given() -> None:
    with pytest.raises(jinja2.UndefinedError, match="sections"):
        render("contact_sheet.html")


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_page_needs_nothing_from_elsewhere(template: Path) -> None:
    text = template.read_text(encoding="utf-8")
    assert text.isascii()
    for pattern in (r"https?:", r"//\w", r"<script", r"<link", r"@import", r"url\(", r"<iframe"):
        assert not re.search(pattern, text), pattern


def test_every_file_that_lies_beside_the_code_is_installed_with_it() -> None:
    data = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    matched = {
        path
        for package, patterns in data.items()
        for pattern in patterns
        for path in (REPOSITORY / package.replace(".", "/")).glob(pattern)
        if path.is_file()
    }
    beside = {
        Path(folder) / name
        for package in ("flows", "pipelines", "model")
        for folder, _, names in os.walk(REPOSITORY / package, followlinks=True)
        for name in names
        if Path(name).suffix not in (".py", ".pyc")
    }
    assert matched == beside >= set(TEMPLATES)


def test_a_changed_template_is_changed_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = code.of_stage("ingest"), Path.read_bytes
    code._known.clear()
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b" " * (path.name == "base.html"))
    assert code.of_stage("ingest") != before
    code._known.clear()
