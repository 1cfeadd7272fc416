"""The page in a real browser, before the real service: drop, progress, result; by keyboard alone; on a phone."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pipelines.pages import scan_view
from tests.conftest import REPOSITORY
from tests.pipelines.pages import chromium
from tests.pipelines.pages.chromium import Chromium
from tests.pipelines.service.service_process import PATIENCE_S
from tests.pipelines.service.standing import Standing

pytestmark = [
    pytest.mark.skipif(chromium.program() is None, reason="no Chromium here; Debian has it: apt-get install chromium"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # MLflow warns of its own code
]
AXE = REPOSITORY / "tests/pipelines/pages/axe/axe.min.js"
EVIL = "<img src=x onerror=globalThis.broken=1>.nii.gz"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium.started(tmp_path_factory.mktemp("profile")) as started:
        started.choosing()
        yield started


def open_page(
    browser: Chromium, standing: Standing, width: int = 1280, dark: bool = False, signed: bool = True
) -> None:
    browser.open(f"{standing.service.address}/health")  # of the same origin, and asks for nothing as it goes
    browser.evaluate("sessionStorage.clear()")
    browser.open(f"{standing.service.address}/", width=width, dark=dark)
    browser.wait("document.documentElement.dataset.ready")
    if signed:
        browser.evaluate("document.getElementById('token').focus()")
        browser.type(standing.token)
        browser.press("Enter")
        browser.wait("!document.getElementById('sending').hidden")


def tab_to(browser: Chromium, selector: str) -> None:
    for _ in range(60):
        if browser.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
        browser.press("Tab")
    raise AssertionError(f"the Tab key does not lead to {selector}")


def text(browser: Chromium, selector: str) -> str:
    return str(browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


def newest(standing: Standing) -> dict[str, Any]:
    return dict(standing.client.get("/segmentations").json()[0])


def shown(browser: Chromium) -> None:
    browser.wait(
        "document.getElementById('result').offsetParent && document.querySelector('.slices canvas')", PATIENCE_S
    )


def drop(browser: Chromium, file: Path) -> None:
    box = browser.evaluate("(({x, y}) => [x, y])(document.getElementById('drop').getBoundingClientRect())")
    browser.drop([file], box[0] + 30, box[1] + 10)
    browser.wait(f"document.getElementById('files').files[0]?.name === {json.dumps(file.name)}")


def index(browser: Chromium, axis: int) -> int:
    return int(browser.evaluate(f"document.querySelectorAll('.slices')[{axis}].getAttribute('aria-valuenow')")) - 1


def test_without_a_token_nothing_is_shown(browser: Chromium, standing: Standing) -> None:
    open_page(browser, standing, signed=False)
    browser.evaluate("document.getElementById('token').focus()")
    browser.type("not-a-token")
    browser.press("Enter")
    browser.wait("document.getElementById('error').textContent")
    assert text(browser, "#error") == "The token is not known here; sign in with another one."
    assert browser.evaluate("['sending', 'listing', 'result'].every((id) => document.getElementById(id).hidden)")
    assert browser.evaluate("sessionStorage.length + localStorage.length + document.cookie.length") == 0


def test_by_keyboard_alone_on_a_phone(browser: Chromium, standing: Standing) -> None:
    open_page(browser, standing, width=400, signed=False)
    tab_to(browser, "#token")
    browser.type(standing.token)
    browser.press("Enter")
    browser.wait("document.activeElement.id === 'files'")
    browser.press("Enter")
    browser.choose([standing.scan])
    tab_to(browser, "#kinds input[value=png]")
    browser.press("Space")
    tab_to(browser, "#segment")
    browser.evaluate(  # every state and share that a person was told of
        "globalThis.told = []; new MutationObserver(() => told.push(document.getElementById('told').textContent))"
        ".observe(document.getElementById('told'), {childList: true})"
    )
    browser.press("Enter")
    shown(browser)
    browser.wait("told.at(-1) === 'The result is shown'")
    told = browser.evaluate("told")
    assert told[0] == "Uploading"
    assert "Sent; it waits for its turn" in told
    job = newest(standing)
    assert (job["state"], job["to"]) == ("done", ["nifti", "json", "png"])
    tab_to(browser, ".slices[aria-label='Axial slice']")
    last = int(browser.evaluate("document.activeElement.getAttribute('aria-valuemax')")) - 1
    for key, place in (("Home", 0), ("ArrowUp", 1), ("ArrowRight", 2), ("ArrowDown", 1), ("PageUp", 11), ("End", last)):
        browser.press(key)
        assert index(browser, 0) == min(place, last)
    assert text(browser, ".plane figcaption") == f"Axial, {last + 1} of {last + 1}"
    tab_to(browser, "#downloads button")
    assert browser.evaluate("document.activeElement.textContent").startswith("label map (NIfTI), ")
    assert browser.evaluate("document.documentElement.scrollWidth") == 400
    assert browser.evaluate("document.activeElement.getBoundingClientRect().right") <= 400
    browser.evaluate("document.activeElement.blur()")
    tab_to(browser, "#sign-out")
    browser.press("Enter")
    assert browser.evaluate("sessionStorage.length") == 0
    assert browser.evaluate("document.getElementById('result').hidden && !document.querySelector('#jobs li')")
    assert browser.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_scan_is_dropped_and_what_was_found_is_shown(browser: Chromium, standing: Standing, dark: bool) -> None:
    open_page(browser, standing, dark=dark)
    drop(browser, standing.scan)
    browser.evaluate("document.getElementById('segment').click()")
    shown(browser)
    job = newest(standing)
    view = standing.folder / "a.view"
    view.write_bytes(standing.client.get(f"/segmentations/{job['id']}/results/view").content)
    header, grey, numbers = scan_view.read(view)
    rows = browser.evaluate("[...document.querySelectorAll('#legend tbody tr')].map((each) => each.innerText)")
    assert len(rows) == len(header["measures"])
    assert text(browser, "#standing") == "Not released, not for clinical use."
    check_sections(browser, header, grey, numbers)
    check_pointing(browser)
    assert browser.complaints == []
    assert all(each.startswith(standing.service.address) for each in browser.requests)


def check_sections(browser: Chromium, header: dict[str, Any], grey: np.ndarray, numbers: np.ndarray) -> None:
    """Pixel by pixel: the head or the front is up, the patient's right, or the front, on the left."""
    for strength in (0, 100):
        browser.evaluate(
            f"{{const bar = document.getElementById('strength'); bar.value = {strength}; "
            "bar.dispatchEvent(new Event('input'))}"
        )
        for axis in range(3):
            at = [index(browser, each) for each in range(3)]
            section = np.take(grey, at[axis], axis)[::-1, ::-1]
            labels = np.take(numbers, at[axis], axis)[::-1, ::-1]
            picture = np.asarray(browser.picture_of(f".plane:nth-child({axis + 1}) canvas")).astype(int)
            rows, columns = (
                (np.arange(n) + 0.5) * m / n for m, n in zip(picture.shape[:2], section.shape, strict=True)
            )
            pixels = picture[np.ix_(rows.astype(int), columns.astype(int))]
            inner = (slice(2, -2), slice(2, -2))  # letters and rounding at the rim
            if strength:
                for number, structure in enumerate(header["structures"], 1):
                    found = pixels[inner][labels[inner] == number]
                    if len(found):
                        assert np.mean(np.abs(found - structure["colour"]).max(1) < 40) > 0.8
            else:
                assert np.corrcoef(pixels[inner][..., 1].ravel(), section[inner].ravel())[0, 1] > 0.9


def check_pointing(browser: Chromium) -> None:
    box = browser.evaluate(
        "document.querySelector('.slices').scrollIntoView({block: 'center'}); "
        "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('.slices').getBoundingClientRect())"
    )
    browser.click(box[0] + 2, box[1] + 2)  # the front and the right of the patient
    last = [int(n) for n in browser.evaluate("[...document.querySelectorAll('.slices')].map((e) => e.ariaValueMax)")]
    assert [index(browser, 1), index(browser, 2)] == [last[1] - 1, last[2] - 1]
    before = index(browser, 0)
    browser.turn_wheel(box[0] + 20, box[1] + 20, 100)
    browser.wait(f"document.querySelector('.slices').ariaValueNow === '{max(1, before)}'")


def test_what_is_no_scan_is_refused_in_one_line(browser: Chromium, standing: Standing) -> None:
    (standing.folder / EVIL).write_text("no scan")
    open_page(browser, standing)
    browser.evaluate("document.getElementById('segment').click()")
    assert text(browser, "#error") == "Choose a scan first."
    drop(browser, standing.folder / EVIL)
    browser.evaluate("document.getElementById('segment').click()")
    browser.wait("document.getElementById('error').textContent.includes('NIfTI')")
    assert "\n" not in text(browser, "#error")
    assert browser.evaluate("document.getElementById('upload').hidden && !document.getElementById('segment').disabled")
    drop(browser, standing.scan)
    browser.evaluate("document.querySelector('#kinds input[value=dicom-seg]').click()")
    browser.evaluate("document.getElementById('segment').click()")
    browser.wait("document.getElementById('error').textContent.startsWith('Your scan: ')", PATIENCE_S)
    assert "DICOM" in text(browser, "#error")
    assert "DICOM" in text(browser, "#jobs li.refused .what")
    assert browser.evaluate("globalThis.broken") is None
    assert browser.evaluate("document.images.length") == 0


def test_names_are_text_and_jobs_can_be_cancelled(browser: Chromium, standing: Standing) -> None:
    named = standing.folder / f"x{EVIL}"
    named.write_bytes(standing.scan.read_bytes())
    open_page(browser, standing)
    with standing.busy():
        drop(browser, named)
        browser.evaluate("document.getElementById('segment').click()")
        browser.wait("document.querySelector('#jobs li.queued')")
        assert named.name in text(browser, "#jobs li .what")
        browser.evaluate("document.querySelector('#jobs li.queued button[aria-label^=Cancel]').click()")
        browser.wait("document.querySelector('#jobs li.cancelled')")
    assert newest(standing)["state"] == "cancelled"
    assert browser.evaluate("globalThis.broken") is None
    assert browser.complaints == []


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False)], ids=["light", "dark", "phone"])
def test_axe_finds_nothing(browser: Chromium, standing: Standing, width: int, dark: bool) -> None:
    standing.answered()
    open_page(browser, standing, width=width, dark=dark)
    browser.wait("document.querySelector('#jobs li.done')")
    browser.evaluate("document.querySelector('#jobs li.done button').click()")
    shown(browser)
    assert browser.evaluate("document.activeElement.id") == "result"
    violations = (  # in a world of its own: the page's policy lets nobody in
        "axe.run().then(({violations}) => violations.map(({impact, id, nodes}) => [impact, id, nodes[0].html]))"
    )
    assert browser.evaluate(f"{AXE.read_text(encoding='utf-8')}; {violations}") == []
    over = browser.evaluate(
        "[...document.querySelectorAll('main *')].filter((each) => !each.closest('.unseen, option') && "
        f"each.getBoundingClientRect().right > {width} + 0.5).map((each) => each.outerHTML.slice(0, 90))"
    )
    assert over == []


def test_the_pages_policy_lets_nothing_else_in(browser: Chromium, standing: Standing) -> None:
    answer = httpx.get(f"{standing.service.address}/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for inline in ("<style", " style=", "onclick=", "javascript:"):
        assert inline not in answer.text
    for name in ("start.js", "style.css", "../routes.py", "routes.py", "index.html", "%2e%2e%2froutes.py"):
        status = httpx.get(f"{standing.service.address}/page/{name}").status_code
        assert status == (200 if name in ("start.js", "style.css") else 404)
    open_page(browser, standing)
    browser.evaluate(
        "{const script = document.createElement('script'); try { script.text = 'globalThis.broken = 1'; } catch {} "
        "document.body.append(script)}"
    )
    time.sleep(0.2)
    assert browser.evaluate("globalThis.broken") is None
