"""Sections of scans as pictures: grey by a window, structures in their colours, true to size on black squares.

A section is (rows, columns) as it lies in a volume, the head or the front at its last row; pictures have it up.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.scans import vocabulary
from pipelines.scans.structure import IGNORED, Structure

Colour = tuple[int, int, int]
Window = tuple[float, float]
CT_WINDOW_HU: Window = (-160.0, 240.0)  # soft tissue
GAP_PX = 4
LINE_PX = 12  # height of a line of text
_LETTER_PX = 6
_GREY, _COLOUR = 0.45, 0.55  # shares of a structure's pixel


def window_of(section: np.ndarray) -> Window:
    """The values to show as black and as white: the 1st and the 99th percentile."""
    low, high = np.percentile(section, (1, 99))
    return low, high


def shares(section: np.ndarray, window: Window) -> np.ndarray:
    """Where each value lies in the window, from 0 to 1."""
    low, high = window
    return np.asarray(((section - low) / max(float(high - low), 1e-6)).clip(0, 1))


def grey(section: np.ndarray, window: Window) -> np.ndarray:
    """uint8."""
    return np.asarray(shares(section, window) * 255).round().astype(np.uint8)


def scaled(section: np.ndarray, spacing_mm: Sequence[float], edge_px: int, resampling: Image.Resampling) -> Image.Image:
    """True to size, the longer edge `edge_px` long. `spacing_mm`: of rows and columns."""
    size_mm = [count * mm for count, mm in zip(section.shape, spacing_mm, strict=True)]
    height, width = (max(1, round(edge_px * size / max(size_mm))) for size in size_mm)
    return Image.fromarray(np.ascontiguousarray(section[::-1])).resize((width, height), resampling)


def on_square(picture: Image.Image, edge_px: int) -> Image.Image:
    square = Image.new("RGB", (edge_px, edge_px))
    square.paste(picture.convert("RGB"), ((edge_px - picture.width) // 2, (edge_px - picture.height) // 2))
    return square


def sheet(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tiles of one size, row by row."""
    width, height = tiles[0].width + GAP_PX, tiles[0].height + GAP_PX
    columns = min(columns, len(tiles))
    whole = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height))
    for index, tile in enumerate(tiles):
        whole.paste(tile, (index % columns * width, index // columns * height))
    return whole


def outlined(picture: Image.Image, label: np.ndarray) -> Image.Image:
    """The structures' outlines, one pixel wide, inside them. `label`: structure ids, one a pixel."""
    inner = np.ones(label.shape, dtype=bool)
    inner[:-1] &= label[:-1] == label[1:]
    inner[:, :-1] &= label[:, :-1] == label[:, 1:]
    pixels = np.array(picture.convert("RGB"))
    for structure in present(label):
        pixels[(label == structure.id) & ~inner] = structure.colour
    return Image.fromarray(pixels)


def overlaid(section: np.ndarray, label: np.ndarray | None) -> np.ndarray:
    """Structures in their colours over the grey, if any. `section`: shares (rows, columns); RGB from 0 to 1."""
    pixels = np.repeat(section[..., None], 3, axis=2)
    for structure in present(label) if label is not None else ():
        inside = label == structure.id
        pixels[inside] = _GREY * pixels[inside] + _COLOUR * np.array(unit_rgb(structure.colour))
    return pixels


def present(label: np.ndarray) -> list[Structure]:
    """The structures that a label map has voxels of, by id."""
    by_id = vocabulary.here().by_id
    return [by_id[value] for value in np.unique(label).tolist() if value not in (0, IGNORED)]


def unit_rgb(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255


def write_line(picture: Image.Image, at: tuple[int, int], text: str, colour: Colour) -> None:
    """One line of text, cut to what fits before the right edge; the font knows Latin-1 only."""
    most = (picture.width - at[0]) // _LETTER_PX
    plain = text.encode("latin-1", "replace").decode("latin-1")
    shown = plain if len(plain) <= most else plain[: most - 3] + "..."
    ImageDraw.Draw(picture).text(at, shown, colour, ImageFont.load_default_imagefont())


def frame(picture: Image.Image, colour: Colour) -> None:
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=colour)
