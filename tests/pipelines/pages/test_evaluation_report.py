"""The evaluation report as a file: what is in it, what is not, that it is the same again."""

import base64
import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.pages.evaluation import report, volumes
from pipelines.pages.evaluation.content import LabelTold, Viewed
from tests.conftest import REPOSITORY
from tests.pipelines.pages import evaluation_content as made

EVIL = "</script><script>globalThis.broken = 1</script><img src=x onerror=broken()>"
LABELS = [LabelTold(7, "seven", (1, 2, 3)), LabelTold(300, "three hundred", (4, 5, 6))]


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def unpacked(embedded: volumes.Embedded) -> np.ndarray:
    """(layers + 1, D, H, W)."""
    whole = np.frombuffer(gzip.decompress(base64.b64decode(embedded.text)), np.uint8)
    return whole.reshape(-1, *embedded.shape)


class Texts(HTMLParser):
    """Opened elements, and text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.words.append(data.strip())


def test_everything_that_was_found_is_told(tmp_path: Path) -> None:
    content = made.content(8, 3)
    report.write(tmp_path / "report.html", content)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = " ".join(Texts(page).words)
    for words in (*content.summary, *content.notes, *content.facts.values()):
        assert words in text
    for metric in content.metrics:
        assert metric.definition in text
        assert metric.edges in text
    assert "case-901 its label lies on another grid: 216x256x10" in re.sub(r"\s+", " ", text)
    assert "small: Dice misleads" in text
    told = data_of(page)
    assert len(told["columns"]["case_id"]) == len(content.rows)
    assert [each["case_id"] for each in told["viewed"]] == [each.case_id for each in content.viewed]


def test_only_what_the_page_shows_is_in_it() -> None:
    content = made.content(3, 0)
    page = report.page(replace(content, rows=[{**row, "path": "/data/raw/Doe Jane"} for row in content.rows]))
    assert "patient-1" not in page
    assert "Jane" not in page


def test_the_same_content_gives_the_same_bytes_and_another_one_another_identity() -> None:
    first, again, other = (
        report.page(made.content(5, 2)),
        report.page(made.content(5, 2)),
        report.page(made.content(6, 2)),
    )
    assert first == again
    assert data_of(first)["identity"] != data_of(other)["identity"]


def test_text_cannot_become_code() -> None:
    content = made.content(2, 1)
    rows = [{**row, "case_id": EVIL, "source": EVIL} for row in content.rows]
    viewed = [replace(content.viewed[0], case_id=EVIL, title=EVIL)]
    evil = replace(content, title=EVIL, summary=[EVIL], notes=[EVIL], facts={EVIL: EVIL}, rows=rows, viewed=viewed)
    page = report.page(replace(evil, left_out=[(EVIL, EVIL)]))
    plain = Texts(
        report.page(replace(content, notes=["one"], left_out=[("one", "two")], facts={"a": "b"}, summary=["c"]))
    )
    assert Texts(page).tags == plain.tags
    assert data_of(page)["columns"]["case_id"][0] == EVIL


def test_numbers_that_are_none_become_null() -> None:
    content = made.content(1, 0)
    row = {**content.rows[0], "dice": float("nan"), "hd95_mm": np.float32(np.inf), "surface_dice": np.float64(1 / 3)}
    told = data_of(report.page(replace(content, rows=[row])))["columns"]
    assert (told["dice"], told["hd95_mm"], told["surface_dice"]) == ([None], [None], [0.333333])


def test_the_viewer_comes_along_only_with_something_to_look_at() -> None:
    assert len(report.page(made.content(3, 0))) < 200_000
    with_pictures = report.page(made.content(3, 1))
    assert len(with_pictures) > 2_000_000
    assert "Copyright (c) 2021, Niivue" in with_pictures


def test_an_empty_evaluation_is_a_page_as_well() -> None:
    content = replace(
        made.content(1, 0), rows=[], summaries=[], confidence=[], calibration=None, metrics=[], structures=[]
    )
    assert data_of(report.page(content))["columns"]["case_id"] == []


def test_volumes_come_back_as_they_were_with_labels_by_number() -> None:
    one = made.case(1)
    (embedded,), left = volumes.embed([made.viewed(one)], LABELS, 10_000_000)
    image, reference, prediction = unpacked(embedded)
    assert left == []
    np.testing.assert_array_equal(image, one.image)
    np.testing.assert_array_equal(reference == 1, one.reference == 7)
    np.testing.assert_array_equal(prediction == 2, one.prediction == 300)
    np.testing.assert_array_equal(prediction == volumes.OTHER, one.prediction == 11)


def test_a_large_scan_is_cropped_around_what_is_labelled_and_coarsened() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 300, 300), np.uint8)
    reference = np.zeros(image.shape, np.int16)
    reference[40:80, 100:260, 60:200] = 7
    viewed = Viewed("large", "", image, (2.0, 1.0, 1.0), {"reference": reference, "prediction": reference})
    (embedded,), _ = volumes.embed([viewed], LABELS, 1_000_000)
    assert len(embedded.text) <= 1_000_000
    assert embedded.full_shape == image.shape
    assert embedded.spacing_mm == tuple(mm * step for mm, step in zip((2.0, 1.0, 1.0), embedded.step, strict=True))
    corner = [slice(o, o + n * s, s) for o, n, s in zip(embedded.origin, embedded.shape, embedded.step, strict=True)]
    found_image, found, _ = unpacked(embedded)
    np.testing.assert_array_equal(found == 1, reference[tuple(corner)] == 7)
    assert found_image.std() < image.std()
    for axis, start in enumerate((40, 100, 60)):
        assert embedded.origin[axis] < start


def test_pictures_stop_at_the_budget_and_the_page_says_whose_are_missing() -> None:
    cases = [made.viewed(made.case(number)) for number in range(4)]
    embedded, left = volumes.embed(cases, LABELS, 550_000)
    assert [each.case_id for each in embedded] == ["case-000", "case-001"]
    assert [case for case, _ in left] == ["case-002", "case-003"]
    assert sum(len(each.text) for each in embedded) <= 550_000
    page = " ".join(Texts(report.page(made.content(4, 4), pictures_bytes=550_000)).words)
    assert "without pictures here, as the report's 1 MB for pictures are spent" in page


def test_a_layer_that_does_not_fit_its_scan_is_refused() -> None:
    viewed = made.viewed(made.case(0))
    with pytest.raises(ValueError, match=r"case-000: other is \(2, 2, 2\), the image \(32, 64, 64\)"):
        volumes.embed([replace(viewed, layers={"other": np.zeros((2, 2, 2))})], LABELS, 10**6)
    with pytest.raises(ValueError, match="the image is float64"):
        volumes.embed([replace(viewed, image=viewed.image / 2)], LABELS, 10**6)


def test_our_scripts_and_styles_ask_for_nothing_from_elsewhere() -> None:
    ours = sorted((REPOSITORY / "pipelines/pages/evaluation").glob("*.*s"))
    assert {path.name for path in ours} == {*report.OURS, "style.css"}
    for path in ours:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert text.isascii(), path
        for word in ("http", "fetch(", "XMLHttpRequest", "import(", "@import", "url(", "innerHTML", "eval("):
            assert word not in text, (path.name, word)
