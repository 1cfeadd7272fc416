"""Chromium without a window, driven over a pipe (DevTools protocol): no driver program, no port, no dependency.

    with Chromium.started(profile) as browser:
        browser.open(path, width=1280)
        browser.evaluate("document.title")

What the pages told the console, raised or asked the network for is in `complaints` and `requests`.
"""

import base64
import io
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu-sandbox", "--disable-dev-shm-usage",
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",  # WebGL2 without a GPU
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--force-color-profile=srgb", "--font-render-hinting=none", "--remote-debugging-pipe",
)  # fmt: skip
KEYS = {
    "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Home": 36, "End": 35, "PageUp": 33,
    "PageDown": 34,
}  # fmt: skip
TYPED = {"Enter": "\r", "Space": " "}


def program() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number = b"", 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.choosers: list[int] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    _session = None

    @classmethod
    @contextmanager
    def started(cls, profile: Path, *flags: str) -> Iterator["Chromium"]:
        """`profile`: an empty folder for the browser's own files."""
        found = program()
        assert found
        command_read, command_write = os.pipe()
        answer_read, answer_write = os.pipe()
        started = [
            "bash", "-c", f'exec "$@" 3<&{command_read} 4>&{answer_write}', "bash",
            found, *FLAGS, *flags, f"--user-data-dir={profile}",
        ]  # fmt: skip
        with subprocess.Popen(
            started, pass_fds=(command_read, answer_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            os.close(command_read)
            os.close(answer_write)
            try:
                yield cls(command_write, answer_read)
            finally:
                os.close(command_write)  # the browser ends with its pipe
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                os.close(answer_read)

    def call(self, method: str, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """A command's result. Raises RuntimeError with the browser's words."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        _write_all(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout_s
        while True:
            answer = self._next(until)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """From disk, or an address, waiting until the page is there; what former pages told is forgotten."""
        self.complaints.clear()
        self.requests.clear()
        self.size(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def size(self, width: int, height: int, scale: float = 1) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )

    def evaluate(self, expression: str) -> Any:
        """The value, awaited, through JSON. Raises RuntimeError with what the page threw."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", str(answer)))
        return answer["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({condition})"):
            if time.monotonic() > until:
                raise RuntimeError(f"{condition} did not come true in {timeout_s} s; {self.complaints}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        typed = TYPED.get(key, key)
        text = {} if key in KEYS else {"text": typed}
        code = {"key": typed if key == "Space" else key, "windowsVirtualKeyCode": KEYS.get(key, ord(typed[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)

    def choose(self, files: Sequence[Path]) -> None:
        """In the dialogue for files that the next key opens; see `choosing`."""
        until = time.monotonic() + 10
        while not self.choosers:
            if time.monotonic() > until:
                raise RuntimeError("no dialogue for files was opened")
            self.evaluate("0")
        self.call("DOM.setFileInputFiles", backendNodeId=self.choosers.pop(), files=[str(each) for each in files])

    def choosing(self) -> None:
        """From now on dialogues for files do not open, but wait for `choose`."""
        self.call("Page.setInterceptFileChooserDialog", enabled=True)

    def drop(self, files: Sequence[Path], x: float, y: float) -> None:
        data = {"items": [], "files": [str(each) for each in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def turn_wheel(self, x: float, y: float, down: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down)

    def picture(self, whole: bool = False) -> Image.Image:
        """Of the viewport, or of the whole page."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")

    def picture_of(self, selector: str) -> Image.Image:
        """Of an element that is not larger than the viewport, scrolled to. Cut out here: a clip by the browser resizes
        the page for a moment, to no width at all."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        box = self.evaluate(f"(({{x, y, width, height}}) => [x, y, width, height])({element}.getBoundingClientRect())")
        left, top, width, height = (round(each) for each in box)
        return self.picture().crop((left, top, left + width, top + height))

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._from], [], [], max(0.0, until - time.monotonic()))[0]:
                raise RuntimeError("Chromium does not answer")
            got = os.read(self._from, 1 << 20)
            if not got:
                raise RuntimeError("Chromium is gone")
            self._buffer += got
        first, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"][:200])
        elif method == "Page.fileChooserOpened":
            self.choosers.append(told["backendNodeId"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(
                f"{told['type']}: {[each.get('value', each.get('description')) for each in told['args']]}"
            )
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{told['entry']['level']}: {told['entry']['text']}")


def _write_all(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]
