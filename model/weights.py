"""Weights on disk: safetensors, with everything needed to use them in the header."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from model.config import NetworkConfig
from model.network import MedSegFormer

_KEY = "medsegformer"


@dataclass(frozen=True)
class Card:
    """What a weights file says about itself.

    `network`: the fields of its NetworkConfig, so that a preset may change without making old weights unusable.
    `classes`: structure of every output but background, in order. `structures`: the system's id of each.
    `patch_size`: voxels by source. `preprocessing`: as pipelines.preprocess writes it. `identity`: empty until
    registered.
    """

    preset: str
    network: dict[str, Any]
    classes: tuple[str, ...]
    structures: dict[str, int]
    patch_size: dict[str, tuple[int, int, int]]
    preprocessing: dict[str, Any]
    identity: dict[str, str]


def save(path: Path, state: dict[str, torch.Tensor], card: Card) -> None:
    """Write to `path`; the caller chooses a temporary name and renames."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={_KEY: json.dumps(vars(card), sort_keys=True)})


def read_card(path: Path) -> Card:
    """The card alone, without reading a tensor. Raises ValueError if the file has none."""
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()[_KEY])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a MedSegFormer weights file ({type(error).__name__})") from None
    patches = {source: tuple(patch) for source, patch in record["patch_size"].items()}
    return Card(**{**record, "classes": tuple(record["classes"]), "patch_size": patches})


def load(path: Path) -> tuple[MedSegFormer, Card]:
    """The network with its weights, in evaluation mode. Raises ValueError if a tensor is missing or misshapen."""
    card = read_card(path)
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card.network.items()}
    config = NetworkConfig(**fields)
    network = MedSegFormer(config, num_classes=len(card.classes) + 1)
    try:
        with safe_open(path, "pt") as file:
            network.load_state_dict({name: file.get_tensor(name) for name in file.keys()}, strict=True)  # noqa: SIM118
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path} was made by a different version of the network ({detail}); train again") from None
    return network.eval(), card


def stamp(source: Path, target: Path, identity: dict[str, str]) -> None:
    """Copy a weights file with the run identity written into its card."""
    card = read_card(source)
    with safe_open(source, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save(target, state, Card(**{**vars(card), "identity": identity}))
