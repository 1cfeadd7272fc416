"""What ingest found, for a person's eye: a page with every note and refusal, and a picture of each source's scans.

Three planes a scan through its label's largest sections, outlines in the structures' colours, flagged scans first and
framed. Cases go by pseudonym; reasons are stripped of file names, so that the page may leave the room the manifest may
not. The same rows give the same bytes.
"""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines.cases.forecast import fingerprint_bytes
from pipelines.pages.drawing import (
    CT_WINDOW_HU,
    LINE_PX,
    frame,
    grey,
    on_square,
    outlined,
    scaled,
    sheet,
    window_of,
    write_line,
)
from pipelines.pages.templates import render
from pipelines.scans import labels, scan_files
from pipelines.scans.manifest import Row
from pipelines.scans.modalities import in_hu
from pipelines.work import within_memory
from pipelines.work.memory import GIB, free_bytes
from pipelines.work.within_memory import Load, LocalExecutor, Lost
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

DRAW_S = 0.05  # a scan, most of it reading
PLANE_PX, CAPTION_PX, COLUMNS = 120, 26, 4
NOTED, REFUSED, PLAIN = (240, 200, 60), (220, 50, 47), (150, 150, 150)
_LAYOUT_WORDS = {  # ours
    "data", "raw", "nii", "gz", "label", "labels", "image", "images", "imaging", "scan", "ct", "mr",
}  # fmt: skip


def write(folder: Path, rows: list[Row], cases: int, memory_gib: float | None = None) -> None:
    """`folder`: index.html and SOURCE.png; at most `cases` scans a source are drawn, within `memory_gib` at a
    time, or what memory is free."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        sections, words = [], path_words(rows)
        for source in sorted({row.source for row in rows}):
            own = [row for row in rows if row.source == source]
            captioned = [(row, told(row, words)) for row in choose(own, cases)]
            tiles = _drawn(
                captioned, f"contact sheet of {source}", free_bytes() if memory_gib is None else int(memory_gib * GIB)
            )
            if tiles:
                sheet(tiles, COLUMNS).save(temporary / f"{source}.png")
            sections.append(_section(source, own, len(tiles), words))
        (temporary / "index.html").write_text(render("contact_sheet.html", sections=sections), encoding="utf-8")


def _drawn(captioned: list[tuple[Row, list[str]]], title: str, memory_bytes: int) -> list[Image.Image]:
    """The pictures in order, without those of scans that could not be read."""
    loads = [Load(one, fingerprint_bytes(one[0]), DRAW_S) for one in captioned]
    where = LocalExecutor(memory_bytes, distrustful=True)
    found: dict[str, Image.Image] = {}
    for (row, _), outcome in within_memory.each(draw, loads, where, title):
        if isinstance(outcome, Lost):
            log.warning("%s: %s is not drawn: %s", title, row.case_id, outcome.reason)
        elif outcome is not None:
            found[row.case_id] = outcome
    return [found[row.case_id] for row, _ in captioned if row.case_id in found]


def choose(rows: Iterable[Row], cases: int) -> list[Row]:
    """At most `cases` that can be drawn: refused by the quality checks, then noted, then any; in order of pseudonym."""
    drawable = [row for row in rows if row.shape]
    return sorted(drawable, key=lambda row: (not row.quarantined, not row.notes, row.case_id))[:cases]


def draw(captioned: tuple[Row, list[str]]) -> Image.Image | None:
    """One scan: axial, coronal, sagittal; head or front up. None if it cannot be read."""
    row, findings = captioned
    try:
        volume = scan_files.read(row, row.images[0])
        label = labels.read(row) if row.labels else None
    except (ValueError, MemoryError):
        return None
    picture = Image.new("RGB", (3 * PLANE_PX, PLANE_PX + CAPTION_PX))
    for axis in range(3):
        plane = section_of(volume.array, label, volume.spacing_mm, axis, in_hu(row.images[0].role), PLANE_PX)
        picture.paste(plane, (axis * PLANE_PX, 0))
    _caption(picture, row, findings)
    return picture


def section_of(
    array: np.ndarray, label: np.ndarray | None, spacing_mm: tuple[float, ...], axis: int, is_ct: bool, edge_px: int
) -> Image.Image:
    """Through the label's largest section along `axis`, else the middle; outlined, on a square of `edge_px`."""
    others = tuple(other for other in range(3) if other != axis)
    at = array.shape[axis] // 2
    if label is not None and label.any():
        at = int(np.count_nonzero(label, axis=others).argmax())
    section, spacing = np.take(array, at, axis), [spacing_mm[other] for other in others]
    picture = scaled(
        grey(section, CT_WINDOW_HU if is_ct else window_of(section)), spacing, edge_px, Image.Resampling.BILINEAR
    )
    if label is not None:
        ids = scaled(np.take(label, at, axis), spacing, edge_px, Image.Resampling.NEAREST)
        picture = outlined(picture, np.asarray(ids))
    plane = on_square(picture, edge_px)
    if axis < 2:
        write_line(plane, (edge_px - 9, edge_px // 2 - 6), "R", PLAIN)
    return plane


def _caption(picture: Image.Image, row: Row, findings: list[str]) -> None:
    colour = REFUSED if row.quarantined else NOTED if row.notes else PLAIN
    if findings:
        frame(picture, colour)
    write_line(picture, (3, PLANE_PX), row.case_id, colour)
    write_line(picture, (3, PLANE_PX + LINE_PX), findings[0] if findings else "", colour)


def told(row: Row, words: set[str]) -> list[str]:
    """What the page says of a scan: the reason of its quarantine, stripped of names, then its notes."""
    return ([anonymous(row.quarantined, words)] if row.quarantined else []) + row.notes


def path_words(rows: Iterable[Row]) -> set[str]:
    """Every word in a scan's path, lower case: any of them may be a person's name or number."""
    paths = (file.path for row in rows for file in row.files)
    return {word for path in paths for word in re.findall(r"\w{2,}", path.lower())} - _LAYOUT_WORDS


def anonymous(reason: str, words: set[str]) -> str:
    """A reason without the file and folder names in it. `words`: of all paths, as a reason may name another scan's."""
    masked = re.sub(r"\w{2,}", lambda match: "\0" if match[0].lower() in words else match[0], reason)
    masked = re.sub(r"\S*(?:\0|/|(?i:\.nii|\.json|\.tsv))\S*(?:\s+\S*\0\S*)*", "(file)", masked)
    return masked.removeprefix("(file) ")


def _section(source: str, rows: list[Row], drawn: int, words: set[str]) -> dict[str, Any]:
    flagged = sorted((row for row in rows if row.quarantined or row.notes), key=lambda row: row.case_id)
    refused = [row for row in flagged if row.quarantined]
    noted = [row for row in flagged if not row.quarantined]
    return {
        "source": source,
        "scans": len(rows),
        "refused": sum(not row.set_aside for row in refused),
        "noted": len(noted),
        "drawn": drawn,
        "flagged": [
            {"case_id": row.case_id, "split": row.split, "refused": bool(row.quarantined), "found": told(row, words)}
            for row in refused + noted
        ],
    }
