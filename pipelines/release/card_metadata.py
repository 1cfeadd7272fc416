"""The model card as metadata of a MONAI bundle (schema of 2024-07-25), for programs that look for one.

    of_card(content, dossier) -> dict        content: as pipelines/release/card_content.py gathers it

It describes the network's input and output and what was measured. It makes no bundle: the weights are loaded by
`medseg`, not by MONAI, and `monai_version` says so.
"""

import json
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
PACKAGES = ("medsegformer", "safetensors", "nibabel")


def of_card(card: Mapping[str, Any], dossier: Path) -> dict[str, Any]:
    """What a dossier does not tell, as one without plan.json, stays empty."""
    stated, standing = card["stated"], card["standing"]
    ids = {name: told["id"] for name, told in _lineage(dossier, "structures.json").items()}
    return {
        "schema": SCHEMA,
        "version": standing["version"] or card["record_sha256"][:12],
        "changelog": {},
        "monai_version": "none: loaded by medsegformer",
        "pytorch_version": metadata.version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {name: metadata.version(name) for name in PACKAGES},
        "name": card["name"],
        "task": f"3-D segmentation of {', '.join(each['structure'].replace('_', ' ') for each in card['results'])}",
        "description": " ".join(card["told"]),
        "authors": stated["developer"],
        "copyright": stated["copyright"],
        "data_source": "; ".join(f"{each['source']} ({each['licence']})" for each in card["data"]),
        "data_type": "nibabel",
        "pred_classes": ", ".join(f"{value} = {name}" for name, value in sorted(ids.items(), key=lambda item: item[1])),
        "eval_metrics": {
            f"{figure['metric']}.{each['structure']}": figure["mean"]
            for each in card["results"]
            for figure in each["figures"]
        },
        "intended_use": stated["intended_use"],
        "network_data_format": _network(_lineage(dossier, "plan.json").get("sources", {}), card["structures"]),
        "record_sha256": card["record_sha256"],
        "standing": standing["word"],
    }


def _network(sources: Mapping[str, Any], structures: list[str]) -> dict[str, Any]:
    """A source has channels and a patch of its own; one network takes them all."""
    name_of = {name: "image" if len(sources) == 1 else f"image_{name}" for name in sources}
    largest: list[int] = max((told["patch_size"] for told in sources.values()), key=math.prod, default=[])
    return {
        "inputs": {
            name_of[name]: _tensor("magnitude", told["patch_size"], told["modalities"])
            for name, told in sources.items()
        },
        "outputs": {"pred": _tensor("segmentation", largest, ["background", *structures])},
    }


def _tensor(kind: str, shape: list[int], channels: list[str]) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": len(channels),
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(number): name for number, name in enumerate(channels)},
    }


def _lineage(dossier: Path, name: str) -> dict[str, Any]:
    path = dossier / "lineage" / name
    return dict(json.loads(path.read_text())) if path.is_file() else {}
