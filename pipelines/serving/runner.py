"""Segment a scan with an ONNX export of a version, without torch: onnxruntime for the network, numpy for all around it.

    ./medseg-run SCAN.nii.gz OUT.nii.gz                                     # in the export's folder
    ./medseg-run flair=A.nii.gz t1ce=B.nii.gz OUT.nii.gz --threads 4        # a scan of several files

Reading, refusing, preprocessing and the way back to the file's grid are the very modules that `medseg predict` uses:
pipelines/serving/onnx_export.py puts them beside the network. Windows lie and count as there.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from model.network.config import rows_of
from model.tasks.layout import Layout
from pipelines.cases.preparation import Preprocessing
from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import restore, write_label
from pipelines.serving.preparing import Prepared, prepared
from pipelines.serving.regridding import MostLikely

FILE = "export.json"
Network = Callable[[np.ndarray], np.ndarray]  # (C, D, H, W) -> logits (G, D, H, W), both float32


@dataclass(frozen=True)
class Export:
    """`told`: what export.json says; pipelines/serving/onnx_export.py writes it."""

    folder: Path
    told: dict[str, Any]

    @staticmethod
    def read(folder: Path) -> "Export":
        """Raises ValueError if there is none."""
        try:
            return Export(folder, json.loads((folder / FILE).read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder / FILE} is not readable ({error}); export the version again") from None

    def label(self, scan: Prepared, threads: int = 0) -> np.ndarray:
        """Structure ids on the file's own grid (i, j, k). Raises ValueError if the network gives no numbers."""
        own = self.told["sources"][scan.source]
        layout = Layout.of(scan.image.shape[1:], own["patch_size"], self.told["overlap"])
        ids = np.asarray(own["ids"], own["type"])
        told = MostLikely(scan.image.shape[1:], scan.geometry.crop_shape, ids, layout.order)
        network = self._network(own, scan.modalities, threads)
        for corner, probability in blocks(network, scan.image, layout, len(ids), self.told["flips"]):
            told.take(corner, probability)
        return restore(told.label, scan.geometry)

    def _network(self, own: dict[str, Any], modalities: Sequence[str], threads: int) -> Network:
        """With channels of nothing in place of the modalities that this scan lacks."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(self.folder / own["network"]), options)
        absent = own["channels"] - len(modalities)
        rows = np.asarray([[*rows_of(modalities, self.told["modalities"]), *[0] * absent]])

        def logits(patch: np.ndarray) -> np.ndarray:
            image = np.pad(patch, ((0, absent), (0, 0), (0, 0), (0, 0)))
            found = session.run(None, {"image": image[None], "modality": rows})[0][0]
            if not np.isfinite(found).all():
                raise ValueError("the network answers with numbers that are not finite")
            return np.asarray(found)

        return logits


def blocks(
    network: Network, image: np.ndarray, layout: Layout, groups: int, flips: Sequence[int]
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Corner (D, H, W) and probabilities (G, d, h, w) of finished voxels, a row of windows at a time.

    What `model.tasks.inference.blocks` gives in smaller pieces: a row's windows are held over the whole scan's width.
    """
    row = layout.order[0]
    held_shape = [line.size for line in layout.lines]
    held_shape[row] = layout.rows.reach
    held = np.zeros((groups, *held_shape), np.float32)
    last = [len(line.starts) - 1 for line in layout.lines]
    for window in layout.windows():
        corner = list(layout.corner(window))
        place = [slice(at, at + n) for at, n in zip(corner, layout.reach, strict=True)]
        place[row] = slice(None)
        held[(slice(None), *place)] += _probability(network, image, layout, corner, flips) * layout.share(window)
        if all(window[axis] == last[axis] for axis in layout.order[1:]):
            step = layout.rows.steps[window[row]]
            finished = np.moveaxis(held, row + 1, 0)
            yield [corner[row] if axis == row else 0 for axis in range(3)], np.moveaxis(finished[:step], 0, row + 1)
            finished[: len(finished) - step] = finished[step:].copy()
            finished[len(finished) - step :] = 0


def _probability(
    network: Network, image: np.ndarray, layout: Layout, corner: Sequence[int], flips: Sequence[int]
) -> np.ndarray:
    """The mean of all views, (G, reach), of a window's voxels inside the scan."""
    lines = layout.lines
    box = tuple(slice(at, at + line.reach) for at, line in zip(corner, lines, strict=True))
    around = [(line.before, line.window - line.reach - line.before) for line in lines]
    patch = np.pad(image[(slice(None), *box)], [(0, 0), *around])
    views = [axes for count in range(len(flips) + 1) for axes in combinations([axis + 1 for axis in flips], count)]
    total = sum(np.flip(_softmax(network(np.ascontiguousarray(np.flip(patch, axes)))), axes) for axes in views)
    inside = tuple(slice(line.before, line.before + line.reach) for line in lines)
    return np.asarray(total / len(views))[(slice(None), *inside)]


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the groups."""
    weight = np.exp(logits - logits.max(0))
    return np.asarray(weight / weight.sum(0))


def main(folder: Path, arguments: Sequence[str] | None = None) -> None:
    """What `medseg-run` in the export's folder calls."""
    parser = argparse.ArgumentParser("medseg-run", description="Segment a scan; its label map lies on its own grid.")
    parser.add_argument("scan", nargs="+", metavar="[MODALITY=]FILE", help="NIfTI; several files make one scan")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a .nii.gz or .nii file")
    parser.add_argument("--modality", help="where names do not say: CT; of several files in order: T1,FLAIR")
    parser.add_argument("--threads", type=int, default=0, help="of the network; as many as cores unless told")
    told = parser.parse_args(arguments)
    try:
        export = Export.read(folder)
        print(f"medseg-run: {export.told['version']}: {export.told['use']}", file=sys.stderr)
        plan = Preprocessing.from_json(export.told["preprocessing"])
        bounds = Quality.model_validate_json(json.dumps(export.told["bounds"]))
        scan = prepared(plan, _files(told.scan, told.output), told.modality, bounds)
        for note in scan.notes:
            print(f"medseg-run: {note}", file=sys.stderr)
        affine = np.asarray(scan.geometry.affine)
        write_label(told.output, export.label(scan, told.threads), affine, export.told["mark"])
    except (ValueError, OSError) as error:
        sys.exit(f"medseg-run: {error}")


def _files(words: Sequence[str], output: Path) -> dict[str, Path]:
    """By modality, or by number where their words do not say it. Raises ValueError if a file is to be overwritten."""
    if not output.name.endswith((".nii.gz", ".nii")):
        raise ValueError(f"OUTPUT {output.name}: label maps are written as .nii.gz or .nii; rename it")
    files: dict[str, Path] = {}
    for number, word in enumerate(words):
        called, equals, path = word.partition("=")
        if not equals or Path(word).exists():
            called, path = "" if len(words) == 1 else str(number), word
        if called in files:
            raise ValueError(f"two files of one scan are {called}; keep one")
        files[called] = Path(path)
        if output.exists() and output.samefile(path):
            raise ValueError(f"OUTPUT {output} is the scan itself; name another")
    return files
