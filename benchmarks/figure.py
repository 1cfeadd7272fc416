"""Draw the network from the network itself: every box is a module of the code, its size read while a scan passes.

Run     python -m benchmarks.figure [--preset tiny] [--size 128] > docs/network.svg      # a second; a test compares
"""

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.config import PRESETS, strides
from model.network.medsegformer import MedSegFormer

SPACING_MM = (1.0, 1.0, 1.0)
ROW, BOX_W, BOX_H, LEFT, TOP = 74, 250, 46, 20, 64
COLUMNS = {"embedding": LEFT, "encoder": LEFT + 300, "decoder": LEFT + 760}
COLOURS = {"embedding": "#dbeafe", "encoder": "#dcfce7", "decoder": "#fef3c7", "memory": "#fde2e4"}


@dataclass(frozen=True)
class Box:
    """`row` 0 is full resolution, a row further is half of it."""

    column: str
    row: int
    title: str
    size: str
    parameters: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    print(draw(arguments.preset, arguments.size), end="")


def draw(preset: str = "tiny", size: int = 128) -> str:
    """The figure, as SVG."""
    with torch.device("meta"):
        network = MedSegFormer(PRESETS[preset], num_classes=4)
    shapes = shapes_of(network, size)
    total = count(network)
    memory = shapes["decoder.memory_norm"]
    boxes = list(boxes_of(network, shapes))
    height = TOP + 6 * ROW + 20
    memory_x, memory_y = COLUMNS["encoder"] + BOX_W + 40, TOP + 2 * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMNS["decoder"] + BOX_W + 20} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        text(
            LEFT,
            26,
            f"MedSegFormer {preset}: {total / 1e6:,.1f} million parameters, one channel of {size}^3",
            bold=True,
        ),
        *(text(x, 48, name) for name, x in COLUMNS.items()),
        rectangle(memory_x, memory_y, 130, 3 * ROW + BOX_H, COLOURS["memory"]),
        text(memory_x + 10, memory_y + 22, "memory", bold=True),
        text(memory_x + 10, memory_y + 56, f"{memory[1]} tokens x {memory[2]}"),
        text(memory_x + 10, memory_y + 74, "all scales, pooled"),
    ]
    for box in boxes:
        x, y = place(box)
        parts += [
            rectangle(x, y, BOX_W, BOX_H, COLOURS[box.column]),
            text(x + 10, y + 19, box.title, bold=True),
            text(x + 10, y + 37, f"{box.size}; {box.parameters / 1e6:,.2f} M"),
        ]
    parts += arrows(boxes, memory_x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def shapes_of(network: nn.Module, size: int) -> dict[str, tuple[int, ...]]:
    """Output shape of every module, by name; nothing is computed on the meta device."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            if isinstance(first, Tensor):
                shapes[name] = tuple(first.shape)

        network.get_submodule(name).register_forward_hook(hook)

    for name, _ in network.named_modules():
        if name:
            note(name)
    with torch.device("meta"):
        network(torch.empty(1, 1, size, size, size), torch.ones(1, 1, dtype=torch.long), SPACING_MM)
    return shapes


def boxes_of(network: MedSegFormer, shapes: dict[str, tuple[int, ...]]) -> list[Box]:
    embedding, encoder, decoder = network.embedding, network.encoder, network.decoder
    boxes = [
        Box("embedding", row, name, grid(shapes[f"embedding.{name.split(',')[0]}"]), count(*modules))
        for row, (name, *modules) in enumerate(
            (
                ("stem_full, per channel, gated", embedding.stem_full, embedding.full_gate),
                ("stem_half, per channel, gated", embedding.stem_half, embedding.half_gate),
                ("stem_quarter", embedding.stem_quarter),
            )
        )
    ]
    for index, stage in enumerate(encoder.stages):
        last = shapes[f"encoder.stages.{index}.output_norm"]
        blocks = f"{len(stage.blocks)} block{'s' if len(stage.blocks) > 1 else ''}"
        title = f"stage {index + 1}: {blocks}, stride {2 ** (index + 2)}"
        boxes.append(Box("encoder", index + 2, title, grid(last, channels_last=True), count(stage)))
    levels = len(decoder.blocks)
    coarsest = shapes[f"decoder.laterals.{levels}"]
    boxes.append(
        Box("decoder", levels + 2, "projection", grid(coarsest, channels_last=True), count(decoder.laterals[levels]))
    )
    for level, block in enumerate(decoder.blocks):
        shape = grid(shapes[f"decoder.blocks.{level}"], channels_last=True)
        modules = (block, decoder.laterals[level], decoder.upsamples[level])
        boxes.append(Box("decoder", level + 2, f"level {level + 1}: cross-attention", shape, count(*modules)))
    boxes.append(Box("decoder", 1, "to_half", grid(shapes["decoder.to_half"]), count(decoder.to_half)))
    full = count(decoder.to_full, decoder.heads[0])
    boxes.append(Box("decoder", 0, "to_full, head: logits", grid(shapes["decoder.to_full"]), full))
    return boxes


def arrows(boxes: list[Box], memory_x: int) -> list[str]:
    """Down the encoder, up the decoder, and across: skips, laterals, memory."""
    at = {(box.column, box.row): place(box) for box in boxes}
    drawn = []
    for (column, row), (x, y) in sorted(at.items()):
        middle = x + BOX_W / 2
        if (column, row + 1) in at:
            ends = (y + BOX_H, y + ROW) if column != "decoder" else (y + ROW, y + BOX_H)
            drawn.append(line(middle, ends[0], middle, ends[1]))
        if column == "embedding" and row < 2:
            drawn.append(line(x + BOX_W, y + BOX_H / 2, COLUMNS["decoder"], y + BOX_H / 2))
        if column == "embedding" and row == 2:
            drawn.append(line(x + BOX_W, y + BOX_H / 2, COLUMNS["encoder"], y + BOX_H / 2))
        if column == "encoder":
            drawn.append(line(x + BOX_W, y + 15, memory_x, y + 15))
            target = at["decoder", row]
            drawn.append(line(x + BOX_W, y + BOX_H - 8, target[0], y + BOX_H - 8, dashed=True))
        if column == "decoder" and ("decoder", row + 1) in at and row >= 2:
            drawn.append(line(memory_x + 130, y + 15, x, y + 15))
    return drawn


def place(box: Box) -> tuple[int, int]:
    return COLUMNS[box.column], TOP + box.row * ROW


def grid(shape: tuple[int, ...], channels_last: bool = False) -> str:
    voxels, width = (shape[1:4], shape[4]) if channels_last else (shape[2:], shape[1])
    return f"{' x '.join(map(str, voxels))} x {width}"


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{colour}" stroke="#555"/>'


def text(x: float, y: float, words: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}"{weight}>{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" stroke="#555" fill="none" marker-end="url(#tip)"{dash}/>'


if __name__ == "__main__":
    assert all(step == (2, 2, 2) for step in strides(SPACING_MM))
    main()
