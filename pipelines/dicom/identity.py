"""Every identifying value in the raw DICOM files, for the audit: held in memory, never written.

    collect(raw, retain_device) -> set of Value(kind, text)

Kinds: `name` person names; `id` patient, study, order and admission numbers; `date`; `uid`; `place` institutions,
departments, addresses, contacts; `device` serial numbers and stations; `text` what the profile removes or would clean
out of descriptions; `private` text in private attributes; `path` folder and file names below data/raw.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom import Dataset

from pipelines.dicom import sandbox
from pipelines.dicom.descriptors import DESCRIPTORS, clean
from pipelines.dicom.profile import DEVICE, MAX_DEPTH, STANDARD_ROOT, action_of
from pipelines.dicom.reading import DAMAGE, header, looks_like_dicom
from pipelines.intake import claims, listing

CHUNK = 64
LIMITS = sandbox.Limits(seconds=120, memory_gib=2)
_TEXT = {"LO", "SH", "ST", "LT", "UT", "UC", "AE", "UR"}
_NUMBERS = re.compile(r"(ID|IDs|Number|Identifier|Locator)$")
_PLACES = re.compile(r"Institution|Address|Department|Telephone|Residence|Organization|Location|Site|Center|Telecom")


@dataclass(frozen=True)
class Value:
    kind: str
    text: str


@dataclass(frozen=True)
class Identity:
    """`values`: all that identifies; `files`: DICOM files read; `unread`: how many could not be, so are not covered."""

    values: frozenset[Value]
    files: int
    unread: int


def collect(raw: Path, retain_device: bool) -> Identity:
    """From every DICOM file below `raw`, and from the names of its folders and files."""
    paths = [path for path, problem in listing.walk(raw) if not problem and path.is_file()]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    values: set[Value] = set()
    files = unread = 0
    for chunk, found in zip(chunks, sandbox.each(partial(_chunk, raw=raw), chunks, LIMITS, "values"), strict=True):
        if isinstance(found, sandbox.Refused):  # rare: file by file, so that one hostile file hides no other
            for part in sandbox.each(partial(_chunk, raw=raw), [[path] for path in chunk], LIMITS, "values"):
                if isinstance(part, sandbox.Refused):
                    unread += 1
                else:
                    values |= part[0]
                    files, unread = files + part[1], unread + part[2]
        else:
            values |= found[0]
            files, unread = files + found[1], unread + found[2]
    kept = {value for value in values if not (retain_device and value.kind == "device")}
    return Identity(frozenset(kept), files, unread)


def _chunk(paths: list[Path], raw: Path) -> tuple[set[Value], int, int]:
    """Values of some files, how many of them are DICOM, and how many of those could not be read."""
    values: set[Value] = set()
    files = unread = 0
    for path in paths:
        named = path.suffix.lower() in claims.DICOM_SUFFIXES
        try:
            if not named and not looks_like_dicom(path):
                continue
            files += 1
            values |= {Value("path", part) for part in path.relative_to(raw).parts}
            values |= set(_values(header(path), 0))
        except DAMAGE:
            unread += 1
    return values, files, unread


def _values(dataset: Dataset, depth: int) -> Iterator[Value]:
    if depth > MAX_DEPTH:
        return
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            if element.VR == "SQ":
                for item in element.value or ():
                    yield from _values(item, depth + 1)
                continue
            several = element.value if element.VM > 1 else [element.value]
            texts = [str(value).strip() for value in several if value is not None]
        except DAMAGE:  # an attribute that cannot be read cannot be passed on either
            continue
        for text in filter(None, texts):
            yield from _value(element.VR, element.tag, element.keyword, text)


def _value(vr: str, tag: int, keyword: str, text: str) -> Iterator[Value]:
    private = bool((tag >> 16) % 2)
    if vr == "PN":
        yield Value("name", text)
    elif vr == "UI" and not text.startswith(STANDARD_ROOT):
        yield Value("uid", text)
    elif vr in ("DA", "DT"):
        yield Value("date", text)
    elif vr in _TEXT and private:
        if tag & 0xFFFF >= 0x1000:  # below: the name of the private block's creator
            yield Value("private", text)
    elif tag in DESCRIPTORS:
        kept = set(clean(text, limit=1 << 20).split())
        for word in re.findall(r"[^\W\d_]{5,}", text):
            if word.lower() not in kept:
                yield Value("text", word)
    elif vr in _TEXT and tag in DEVICE:
        yield Value("device", text)
    elif vr in _TEXT and action_of(tag):
        yield Value("id" if _NUMBERS.search(keyword) else "place" if _PLACES.search(keyword) else "text", text)
