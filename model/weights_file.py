"""Weights on disk without their tensors: which files, their digest, what they say of themselves. Imports no torch.

    models/train/model.safetensors                    or, above 4 GiB,
    models/train/model-00001-of-00007.safetensors ... and model.safetensors.index.json
    models/pretrain/encoder.safetensors               likewise: embedding and encoder

Each header holds everything needed to use them. model/weights.py writes and loads the tensors.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER_BYTES = 100_000_000  # the safetensors format's own bound
MODEL, ENCODER = "model", "encoder"  # how the files' names begin
KEY = "medsegformer"  # of the card in the header


@dataclass(frozen=True)
class Card:
    """What a weights file says about itself.

    `network`: the fields of its NetworkConfig, so that a preset may change without making old weights unusable. Its
    `modalities` are the names by row of the embedding; weights older than these have the fixed ones.
    `classes`: structure of every output but background, in order. `structures`: the system's id of each.
    `vocabulary`: what they are and consist of (pipelines/scans/structure.py); empty in weights older than it.
    `patch_size`: voxels by source. `preprocessing`: as pipelines.cases.preparation has it. `identity`: digests of what
    made them.
    """

    preset: str
    network: dict[str, Any]
    classes: tuple[str, ...]
    structures: dict[str, int]
    patch_size: dict[str, tuple[int, int, int]]
    preprocessing: dict[str, Any]
    identity: dict[str, str]
    vocabulary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EncoderCard:
    """What a pretrained encoder says about itself.

    `network`, `preprocessing`, `identity`: as in Card. `recipe`: the parameters of the stage. `modalities`: those it
    has seen. `scans`: their number by source.
    """

    preset: str
    network: dict[str, Any]
    preprocessing: dict[str, Any]
    recipe: dict[str, Any]
    modalities: tuple[str, ...]
    scans: dict[str, int]
    identity: dict[str, str]


def files(folder: Path, stem: str = MODEL) -> list[Path]:
    """The weights files of a folder, one or several shards. Raises ValueError if one is missing."""
    if not (index := folder / index_name(stem)).exists():
        names = [f"{stem}.safetensors"]
    else:
        names = _listed_in(index)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"{folder} holds no {missing[0]}; run stage {folder.name} again, or fetch it")
    return [folder / name for name in names]


def _listed_in(index: Path) -> list[str]:
    """Names of shards, in the index's own folder only."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if all(Path(name).name == name for name in names):
            return names
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        pass
    raise ValueError(f"{index} is no index of weights files beside it; fetch the folder again")


def digest(folder: Path, stem: str = MODEL) -> str:
    """sha256 of the weights: of the file, or of the shards' digests, each on a line, in order."""
    sums = []
    for path in files(folder, stem):
        with path.open("rb") as file:
            sums.append(hashlib.file_digest(file, "sha256").hexdigest())
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """The card alone, without reading a tensor. Raises ValueError if there is none."""
    path = files(folder)[0]
    record = card_record(path)
    try:
        patches = {source: tuple(patch) for source, patch in record["patch_size"].items()}
        return Card(**{**record, "classes": tuple(record["classes"]), "patch_size": patches})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: its card is not of this version of MedSegFormer ({error}); train again") from None


def card_record(path: Path) -> dict[str, Any]:
    """The fields of the card in a file, whatever they are. Raises ValueError if there is none."""
    try:
        return dict(json.loads(read_header(path)["__metadata__"][KEY]))
    except (OSError, KeyError, TypeError, ValueError, MemoryError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not a MedSegFormer weights file ({type(error).__name__})") from None


def index_name(stem: str) -> str:
    return f"{stem}.safetensors.index.json"


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header: the card, and each tensor's type, shape and place. ValueError, too, if it is none."""
    with path.open("rb") as file:
        if (length := int.from_bytes(file.read(8), "little")) > HEADER_BYTES:
            raise ValueError(f"its header would take {length} bytes, more than {HEADER_BYTES}")
        return dict(json.loads(file.read(length)))
