"""One answer as a picture: three planes through the largest sections, outlines in the structures' colours, a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.pages.contact_sheet import section_of
from pipelines.pages.drawing import LINE_PX, write_line
from pipelines.scans.modalities import in_hu
from pipelines.scans.structure import Structure
from pipelines.scans.volume_geometry import Volume

PLANE_PX = 320
PALE = (230, 230, 230)
MARK = "medsegformer"  # key of the PNG's text that tells what it was made of


def mark_of_picture(file: Path) -> str:
    with Image.open(file) as picture:
        return str(picture.info.get(MARK, ""))


def draw(
    file: Path, volume: Volume, label: np.ndarray, modality: str, structures: Sequence[Structure], told: str, mark: str
) -> None:
    """`label` (D, H, W): structure ids on the volume. `told`: who made it and what that is worth, written on it."""
    picture = Image.new("RGB", (3 * PLANE_PX, PLANE_PX + (len(structures) + 1) * LINE_PX))
    for axis in range(3):
        plane = section_of(volume.array, label, volume.spacing_mm, axis, in_hu(modality), PLANE_PX)
        picture.paste(plane, (axis * PLANE_PX, 0))
    write_line(picture, (3, PLANE_PX), told, PALE)
    for line, structure in enumerate(structures, 1):
        write_line(picture, (3, PLANE_PX + line * LINE_PX), structure.name, structure.colour)
    text = PngInfo()
    text.add_text(MARK, mark)
    picture.save(file, format="PNG", pnginfo=text)
