"""A version as ONNX, with a runner that needs no torch (pipelines/serving/runner.py).

DIR/SOURCE.onnx         of each training source: (1, C, D, H, W) and rows of modalities -> logits, float32
DIR/export.json         what else a label map depends on: preprocessing, windows, structures, bounds of the examination
DIR/medseg-run          the program;  DIR/code: its modules;  DIR/requirements.txt: what they need
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.scans.contracts import smallest_type
from pipelines.serving.carried_code import carry, licence, requirements
from pipelines.serving.exportable import Exportable
from pipelines.serving.runner import FILE
from pipelines.work.writing import write_json

log = logging.getLogger(__name__)

RUNNER = "medseg-run"
_PROGRAM = '''#!/usr/bin/env python3
"""Segment a scan with this export: ./medseg-run [MODALITY=]FILE... OUTPUT; --help tells more."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here / "code"))

from pipelines.serving.runner import main  # noqa: E402

main(here)
'''


def write(folder: Path, version: Exportable) -> None:
    """Into `folder`, which is made."""
    folder.mkdir(parents=True)
    sources = {name: _source(folder, version, name) for name in version.plan.sources}
    told = {
        "version": version.called,
        "use": version.use,
        "record_sha256": version.record_sha256,
        "weights_sha256": version.weights_sha256,
        "mark": version.mark,
        "overlap": version.segmenter.overlap,
        "flips": version.segmenter.flips,
        "modalities": version.network_config.modalities,
        "preprocessing": version.plan.to_json(),
        "bounds": version.bounds.model_dump(mode="json"),
        "sources": sources,
    }
    write_json(folder / FILE, told)
    carry(folder / "code", "pipelines.serving.runner")
    (folder / RUNNER).write_text(_PROGRAM)
    (folder / RUNNER).chmod(0o755)
    lines = [f"{name}=={number}\n" for name, number in requirements("onnxruntime").items()]
    (folder / "requirements.txt").write_text("".join(lines))
    (folder / "LICENSE").write_text(licence())


def _source(folder: Path, version: Exportable, name: str) -> dict[str, Any]:
    """Its network is written; what the runner must know of it."""
    network, shown = version.network(name), version.segmenter.shown(name)
    patch, file = version.segmenter.card.patch_size[name], f"{name}.onnx"
    image = torch.zeros(1, len(network.rows), *patch)
    modality = torch.tensor([network.rows])
    names: dict[str, Any] = {"input_names": ["image", "modality"], "output_names": ["logits"]}
    with _quiet():
        exported = torch.onnx.export(network, (image, modality), dynamo=True, verbose=False, **names)
    assert exported is not None
    exported.save(folder / file, external_data=_is_large(network))
    log.info("export: %s", folder / file)
    ids = np.asarray(shown.ids)
    return {
        "network": file,
        "patch_size": patch,
        "channels": len(network.rows),
        "ids": ids.tolist(),
        "type": smallest_type(int(ids.max())).__name__,
        "structures": {name: number for name, number in version.structures.items() if number in ids},
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on PyTorch's deprecations and on torchvision; what fails still raises."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _is_large(network: torch.nn.Module) -> bool:
    """Does it not fit into a file of protobuf, which ends at 2 GiB? Weights lie in a file of their own then."""
    return sum(each.numel() * each.element_size() for each in network.parameters()) > 1 << 30
