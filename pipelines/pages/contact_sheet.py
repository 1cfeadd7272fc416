"""What ingest found, for a person's eye: a page with every note and refusal, and a picture of each source's scans.

Three planes a scan through its label's largest sections, outlines in the structures' colours, flagged scans first and
framed. Cases go by pseudonym; reasons are stripped of file names, so that the page may leave the room the manifest may
not. The same rows give the same bytes.
"""

import html
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.scans.manifest import Row
from pipelines.scans.structures import STRUCTURES, contract_of
from pipelines.scans.volume import read
from pipelines.work import parallel
from pipelines.work.writing import replacing

PLANE_PX, CAPTION_PX, COLUMNS = 120, 26, 4
CT_WINDOW_HU = (-160.0, 240.0)  # soft tissue
NOTED, REFUSED, PLAIN = (240, 200, 60), (220, 50, 47), (150, 150, 150)
_LAYOUT_WORDS = {
    "data",
    "raw",
    "nii",
    "gz",
    "label",
    "labels",
    "image",
    "images",
    "imaging",
    "scan",
    "ct",
    "mr",
}  # ours
_STYLE = (
    "body{font:14px sans-serif;margin:2em;max-width:90em}"
    "td,th{text-align:left;vertical-align:top;padding:2px 12px 2px 0}"
    "img{max-width:100%}.refused{color:#b02020}"
)


def write(folder: Path, rows: list[Row], cases: int) -> None:
    """`folder`: index.html and SOURCE.png; at most `cases` scans a source are drawn."""
    with replacing(folder) as temporary:
        temporary.mkdir()
        sections, words = [], path_words(rows)
        for source in sorted({row.source for row in rows}):
            own = [row for row in rows if row.source == source]
            chosen = choose(own, cases)
            captioned = [(row, told(row, words)) for row in chosen]
            tiles = [tile for tile in parallel.each(draw, captioned, f"contact sheet of {source}") if tile is not None]
            if tiles:
                _sheet(tiles).save(temporary / f"{source}.png")
            sections.append(_section(source, own, len(tiles), words))
        (temporary / "index.html").write_text(_page(sections), encoding="utf-8")


def choose(rows: Iterable[Row], cases: int) -> list[Row]:
    """At most `cases` that can be drawn: refused by the quality checks, then noted, then any; in order of pseudonym."""
    drawable = [row for row in rows if row.shape]
    return sorted(drawable, key=lambda row: (not row.quarantined, not row.notes, row.case_id))[:cases]


def draw(captioned: tuple[Row, list[str]]) -> np.ndarray | None:
    """One scan as a picture (H, W, 3) uint8: axial, coronal, sagittal; head or front up. None if it cannot be read."""
    row, findings = captioned
    try:
        volume = read(Path(row.images[0].path))
        label = None
        if row.label:
            label = contract_of(row.contract).to_structures(read(Path(row.label.path)).array)
    except (ValueError, MemoryError):
        return None
    picture = Image.new("RGB", (3 * PLANE_PX, PLANE_PX + CAPTION_PX))
    for axis in range(3):
        picture.paste(_plane(volume.array, label, volume.spacing_mm, axis, row.images[0].role), (axis * PLANE_PX, 0))
    _caption(picture, row, findings)
    return np.asarray(picture)


def _plane(
    array: np.ndarray, label: np.ndarray | None, spacing_mm: tuple[float, ...], axis: int, modality: str
) -> Image.Image:
    others = tuple(other for other in range(3) if other != axis)
    at = array.shape[axis] // 2
    if label is not None and label.any():
        at = int(np.count_nonzero(label, axis=others).argmax())
    grey = _grey(np.take(array, at, axis)[::-1], modality)  # (rows, columns), first row up
    size_mm = [array.shape[other] * spacing_mm[other] for other in others]
    scale = PLANE_PX / max(size_mm)
    height, width = (max(1, round(size * scale)) for size in size_mm)
    image = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR).convert("RGB")
    if label is not None:
        section = Image.fromarray(np.ascontiguousarray(np.take(label, at, axis)[::-1]))
        image = _outlined(image, np.asarray(section.resize((width, height), Image.Resampling.NEAREST)))
    plane = Image.new("RGB", (PLANE_PX, PLANE_PX))
    plane.paste(image, ((PLANE_PX - width) // 2, (PLANE_PX - height) // 2))
    if axis < 2:
        ImageDraw.Draw(plane).text((PLANE_PX - 9, PLANE_PX // 2 - 6), "R", PLAIN, ImageFont.load_default_imagefont())
    return plane


def _grey(section: np.ndarray, modality: str) -> np.ndarray:
    low, high = CT_WINDOW_HU if modality == "CT" else np.percentile(section, (1, 99))
    return np.asarray(((section - low) / max(float(high - low), 1e-6)).clip(0, 1) * 255).round().astype(np.uint8)


def _outlined(image: Image.Image, label: np.ndarray) -> Image.Image:
    inner = np.ones(label.shape, dtype=bool)
    inner[:-1] &= label[:-1] == label[1:]
    inner[:, :-1] &= label[:, :-1] == label[:, 1:]
    pixels = np.array(image)
    for structure in STRUCTURES:
        pixels[(label == structure.id) & ~inner] = structure.colour
    return Image.fromarray(pixels)


def _caption(picture: Image.Image, row: Row, findings: list[str]) -> None:
    colour = REFUSED if row.quarantined else NOTED if row.notes else PLAIN
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default_imagefont()
    if findings:
        pen.rectangle((0, 0, picture.width - 1, picture.height - 1), outline=colour)
    pen.text((3, PLANE_PX), row.case_id, colour, font)
    pen.text((3, PLANE_PX + 12), _fitting(findings[0] if findings else ""), colour, font)


def _fitting(text: str) -> str:
    """What fits below three planes in the 6-pixel font; it knows Latin-1 only."""
    most = (3 * PLANE_PX - 8) // 6
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def _sheet(tiles: list[np.ndarray]) -> Image.Image:
    height, width = tiles[0].shape[:2]
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * (width + 4), -(-len(tiles) // columns) * (height + 4)))
    for index, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (index % columns * (width + 4), index // columns * (height + 4)))
    return sheet


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
    masked = re.sub(r"\S*(?:\0|/|\.nii|\.json|\.tsv)\S*(?:\s+\S*\0\S*)*", "(file)", masked)
    return masked.removeprefix("(file) ")


def _section(source: str, rows: list[Row], drawn: int, words: set[str]) -> str:
    flagged = [row for row in rows if row.quarantined or row.notes]
    refused = sum(bool(row.quarantined) for row in rows)
    lines = [
        f"<h2>{html.escape(source)}</h2>",
        f"<p>{len(rows)} scans, {refused} quarantined, {len(flagged) - refused} with notes; {drawn} drawn.</p>",
    ]
    if drawn:
        lines.append(f'<img src="{html.escape(source)}.png" alt="{drawn} scans of {html.escape(source)}">')
    if flagged:
        lines.append("<table><tr><th>case</th><th>split</th><th>found</th></tr>")
        lines += [_line(row, words) for row in sorted(flagged, key=lambda row: (not row.quarantined, row.case_id))]
        lines.append("</table>")
    return "\n".join(lines)


def _line(row: Row, words: set[str]) -> str:
    found = "<br>".join(html.escape(finding) for finding in told(row, words))
    split = '<span class="refused">quarantined</span>' if row.quarantined else row.split
    return f"<tr><td>{html.escape(row.case_id)}</td><td>{split}</td><td>{found}</td></tr>"


def _page(sections: list[str]) -> str:
    title = "Scans taken in"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    legend = "Framed red: quarantined; yellow: kept, with a note. R: the patient's right."
    return "\n".join([head, f"<h1>{title}</h1><p>{legend}</p>", *sections, "</html>\n"])
