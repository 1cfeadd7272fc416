"""What a certificate is bound to, and whether a run may start with one that lies here. Imports no torch.

A certificate is bound to the sha256 of the `model` and `train` blocks of the parameters and of the code that trains: a
changed setting or a changed constant voids it, a comment does not. It holds for one number of ranks, ranks to a copy of
the weights, and GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.engine.hardware import GPUS, GPUS_IN_A_NODE, HERE

# One machine, whose owner sees within minutes whether it fits; what more of them cost while nobody looks must be known.
WITHOUT_CERTIFICATE = GPUS_IN_A_NODE
CALIBRATION = "calibration-"  # how files beside the certificates begin that are none: model/certificate/calibration.py


@dataclass(frozen=True)
class Launch:
    """What is about to start. `group`: ranks that would share a copy of the weights in hsdp, those of a node unless
    placement says otherwise. `gpu`: its name as the driver gives it, empty on CPUs; and the memory it has."""

    ranks: int
    group: int
    gpu: str
    memory_bytes: float
    digest: str


def digest(blocks: Mapping[str, Any], code: str) -> str:
    """Of the parameters that shape a run (plain values by block) and of a digest of the code that runs it."""
    return hashlib.sha256(f"{json.dumps(blocks, sort_keys=True)} {code}".encode()).hexdigest()


def check(launch: Launch, folder: Path) -> tuple[Path | None, str]:
    """The certificate that a launch may start with, or why it may not and the remedy; neither if it needs none.

    CPUs, and up to WITHOUT_CERTIFICATE GPUs, need none; a valid one that lies there is named all the same.
    """
    if not launch.gpu:
        return None, ""
    files = (path for path in sorted(folder.glob("*.json")) if not path.name.startswith(CALIBRATION))
    faults = {path: _fault(_read(path), launch) for path in files}
    for path, fault in faults.items():
        if not fault:
            return path, ""
    if launch.ranks <= WITHOUT_CERTIFICATE:
        return None, ""
    if not faults:
        return None, f"{launch.ranks} GPUs need a launch certificate and {folder} holds none; {_remedy(launch)}"
    reasons = "; ".join(f"{path.name} {fault}" for path, fault in faults.items())
    return None, f"no certificate in {folder} is valid for this launch: {reasons}; {_remedy(launch)}"


def _fault(content: Mapping[str, Any], launch: Launch) -> str:
    if not content:
        return "is not a certificate"
    if not content["fits"]:
        return "says that the run does not fit"
    if content["digest"] != launch.digest:
        return "is for other parameters or other code"
    if content["ranks"] != launch.ranks:
        return f"is for {content['ranks']} ranks, not {launch.ranks}"
    if content["gpu"]["family"] not in launch.gpu:
        return f"is for {content['gpu']['name']}, not {launch.gpu}"
    if content["gpu"]["memory_bytes"] > launch.memory_bytes:
        needed, there = content["gpu"]["memory_bytes"] / 1e9, launch.memory_bytes / 1e9
        return f"is for GPUs of {needed:.0f} GB, not {there:.0f} GB"
    if content["strategy"] == "hsdp" and content["group"] != launch.group:
        return f"shares a copy among {content['group']} ranks, not {launch.group} (set MEDSEG_SHARD_RANKS)"
    return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content if {"fits", "digest", "ranks", "gpu", "strategy", "group"} <= set(content) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _remedy(launch: Launch) -> str:
    key = next((key for key, gpu in GPUS.items() if gpu.family in launch.gpu), HERE)
    return (
        f"make one with `medseg certify --gpus {launch.ranks} --gpu {key}` (with --stage pretrain for that stage), or "
        "start with --uncertified (MEDSEG_UNCERTIFIED=1), which is recorded"
    )
