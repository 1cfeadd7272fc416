"""A version as a MONAI bundle of one training source.

    DIR/configs/metadata.json, inference.json, scan.json      DIR/models/model.pt, a state dict as the format demands
    DIR/docs/README.md, LICENSE                               DIR/model, DIR/pipelines: the code it names

    cd DIR; PYTHONPATH=. python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS

Reading, preprocessing, windows and the way back are those of `medseg predict`, in float32.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.serving.carried_code import carry, licence, requirements
from pipelines.serving.exportable import Exportable
from pipelines.work.writing import write_json

PARTS = "pipelines.serving.monai_parts"
MONAI, IGNITE = "1.6.1", "0.5.5"  # tried with
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


def write(folder: Path, version: Exportable, source: str) -> None:
    """Into `folder`, which is made."""
    modalities = sorted(version.plan.sources[source].modalities)
    write_json(folder / "configs/metadata.json", _metadata(version, source, modalities))
    write_json(folder / "configs/inference.json", _inference(version, source, modalities))
    write_json(folder / "configs/scan.json", _scan(version, source))
    (folder / "models").mkdir()
    torch.save(version.network(source).state_dict(), folder / "models/model.pt")
    (folder / "docs").mkdir()
    (folder / "docs/README.md").write_text(_readme(version, source, modalities))
    for name in ("LICENSE", "docs/license.txt"):
        (folder / name).write_text(licence())
    carry(folder, PARTS, "pipelines.serving.exported_network")


def _scan(version: Exportable, source: str) -> dict[str, Any]:
    """What the parts read: the plan of this source alone, windows, structures, bounds of the examination."""
    plan = version.plan.to_json()
    ids = np.asarray(version.segmenter.shown(source).ids)
    return {
        "preprocessing": {**plan, "sources": {source: plan["sources"][source]}},
        "bounds": version.bounds.model_dump(mode="json"),
        "patch_size": version.segmenter.card.patch_size[source],
        "overlap": version.segmenter.overlap,
        "mark": version.mark,
        "flips": version.segmenter.flips,
        "ids": ids.tolist(),
        "type": str(ids.dtype),
    }


def _metadata(version: Exportable, source: str, modalities: list[str]) -> dict[str, Any]:
    here = requirements("torch")
    needed = {name: number for name, number in here.items() if name not in ("torch", "numpy")}
    patch = list(version.segmenter.card.patch_size[source])
    names = {number: name for name, number in version.structures.items()}
    told = [names.get(number, "background") for number in version.segmenter.shown(source).ids.tolist()]
    image: dict[str, Any] = {
        "type": "image",
        "format": "magnitude",
        "modality": "/".join(modalities),
        "dtype": "float32",
    }
    image |= {"num_channels": len(modalities), "spatial_shape": patch, "value_range": [-10, 10], "is_patch_data": True}
    logits: dict[str, Any] = {
        "type": "image",
        "format": "segmentation",
        "num_channels": len(told),
        "spatial_shape": patch,
    }
    logits |= {"dtype": "float32", "value_range": [-100, 100], "is_patch_data": True}
    return {
        "schema": SCHEMA,
        "version": version.number,
        "changelog": {version.number: f"exported; record {version.record_sha256}"},
        "monai_version": MONAI,
        "pytorch_version": here["torch"],
        "numpy_version": here["numpy"],
        "required_packages_version": {**needed, "pytorch-ignite": IGNITE},
        "name": version.called,
        "task": f"Segmentation of {', '.join(told[1:])} in {', '.join(modalities)}",
        "description": f"{version.called}, training source {source}, weights {version.weights_sha256}",
        "authors": "The MedSegFormer authors",
        "copyright": "Apache-2.0, see LICENSE",
        "intended_use": version.use,
        "eval_metrics": {f"dice_{name}": value for name, value in version.content["dice"].items()},
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": dict(enumerate(modalities))}},
            "outputs": {"pred": {**logits, "channel_def": dict(enumerate(told))}},
        },
    }


def _inference(version: Exportable, source: str, modalities: list[str]) -> dict[str, Any]:
    one = "$[{'image': [path]} for path in sorted(glob.glob(@dataset_dir + '/*.nii*'))]"
    several = "$[{'image': [f'{folder}{name}.nii.gz' for name in @modalities]} "
    several += "for folder in sorted(glob.glob(@dataset_dir + '/*/'))]"
    return {
        "imports": ["$import glob"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "modalities": modalities,
        "told": "$@bundle_root + '/configs/scan.json'",
        "data": one if len(modalities) == 1 else several,
        "network_def": {
            "_target_": "pipelines.serving.exported_network.ExportedNetwork",
            **version.network_arguments(source),
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": _part("PrepareScan"),
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": _part("BlendedWindows"),
        "postprocessing": {**_part("WriteLabel"), "output_dir": "@output_dir"},
        "handlers": [_LOADED],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "initialize": [],
        "run": ["$@evaluator.run()"],
        "finalize": [],
    }


def _part(name: str) -> dict[str, Any]:
    return {"_target_": f"{PARTS}.{name}", "told": "@told"}


_LOADED = {
    "_target_": "CheckpointLoader",
    "load_path": "$@bundle_root + '/models/model.pt'",
    "load_dict": {"model": "@network"},
}


def _readme(version: Exportable, source: str, modalities: list[str]) -> str:
    scans = "*.nii.gz" if len(modalities) == 1 else "*/{" + ",".join(modalities) + "}.nii.gz"
    return f"""# {version.called}, {source}

{version.use.capitalize()}. Segments {", ".join(modalities)} scans; label maps lie on the scans' own grid, values are
structure ids (`channel_def` in `configs/metadata.json` names them in order, `ids` in `configs/scan.json` numbers them).

    PYTHONPATH=. python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS

`SCANS` holds `{scans}`. What `medseg predict` refuses is refused with the reason.
"""
