"""What a MONAI bundle's configuration names beside the network: from files to network input, windows, and the way back.

pipelines/serving/monai_bundle.py writes the configuration, and puts these modules into the bundle. `configs/scan.json`
there says what a label map depends on.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.tasks.inference import blocks
from pipelines.cases.preparation import Preprocessing
from pipelines.params.quality_bounds import Quality
from pipelines.scans.volume import VolumeError, restore, write_label
from pipelines.scans.volume_geometry import Geometry
from pipelines.serving.preparing import prepared
from pipelines.serving.regridding import MostLikely

GEOMETRY, NAME = "image_geometry", "image_name"


class PrepareScan:
    """A transform: `image`, the files of a scan in the order of the modalities -> network input (C, D, H, W).

    Raises VolumeError with what the examination of training scans refuses.
    """

    def __init__(self, told: str) -> None:
        self.told = json.loads(Path(told).read_text())
        self.plan = Preprocessing.from_json(self.told["preprocessing"])
        self.bounds = Quality.model_validate_json(json.dumps(self.told["bounds"]))

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        (modalities,) = (sorted(own.modalities) for own in self.plan.sources.values())
        files = dict(zip(modalities, map(Path, data["image"]), strict=True))
        scan = prepared(self.plan, files, None, self.bounds)
        if scan.modalities != modalities:
            raise VolumeError(f"the bundle takes {', '.join(modalities)}, here are {', '.join(scan.modalities)}")
        geometry = json.dumps(scan.geometry.to_json())  # text, which no loader makes tensors of
        first = Path(data["image"][0])  # of several files it is their folder that is called after the scan
        name = first.name.partition(".nii")[0] if len(files) == 1 else first.parent.name
        return {**data, "image": torch.from_numpy(scan.image), GEOMETRY: geometry, NAME: name}


class BlendedWindows:
    """An inferer: one scan's input and the network -> probabilities (1, G, D, H, W), windows as in the evaluation."""

    def __init__(self, told: str) -> None:
        self.told = json.loads(Path(told).read_text())

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *_: Any, **__: Any) -> Tensor:
        groups = len(self.told["ids"])
        total = torch.empty(1, groups, *inputs.shape[2:], device=inputs.device)
        with torch.inference_mode():
            found = blocks(
                _Called(network), inputs[0], torch.zeros(len(inputs[0]), dtype=torch.int64, device=inputs.device),
                (1.0, 1.0, 1.0), [(group,) for group in range(groups)], self.told["patch_size"],
                overlap=self.told["overlap"], flips=self.told["flips"],
            )  # fmt: skip
            for block in found:
                total[0][(slice(None), *block.box)] = block.probability
        return total


class _Called(nn.Module):
    """The network knows its modalities and its spacing."""

    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, modality: Tensor, spacing_mm: object) -> Tensor:
        return self.network(image)


class WriteLabel:
    """A transform: `pred`, probabilities (G, D, H, W) -> structure ids (1, i, j, k) on the file's own grid, and written
    there as OUTPUT_DIR/NAME_seg.nii.gz."""

    def __init__(self, told: str, output_dir: str) -> None:
        self.told, self.folder = json.loads(Path(told).read_text()), Path(output_dir)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        geometry = Geometry.from_json(json.loads(data[GEOMETRY]))
        probability = np.asarray(torch.as_tensor(data["pred"]).cpu(), np.float32)
        ids = np.asarray(self.told["ids"], self.told["type"])
        told = MostLikely(probability.shape[1:], geometry.crop_shape, ids, (0, 1, 2))
        told.take((0, 0, 0), probability)
        label = restore(told.label, geometry)
        write_label(self.folder / f"{data[NAME]}_seg.nii.gz", label, np.asarray(geometry.affine), self.told["mark"])
        return {**data, "pred": torch.from_numpy(label)[None]}
