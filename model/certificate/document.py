"""The certificate as a file, what it is bound to, and whether a run may start with it. Imports no torch.

A certificate is bound to the sha256 of the `model` and `train` blocks of the parameters and of the code of `model/`: a
changed setting or a changed line voids it. It holds for one number of ranks, ranks to a copy of the weights, and GPU.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.hardware import GPUS

CODE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Launch:
    """What is about to start. `gpu`: its name as the driver gives it, empty on CPUs. `node`: ranks on this machine."""

    ranks: int
    node: int
    gpu: str
    digest: str


def digest(blocks: Mapping[str, Any]) -> str:
    """Of the parameters that shape a run (plain values by block) and of all code below `model/`."""
    found = hashlib.sha256(json.dumps(blocks, sort_keys=True).encode())
    for path in sorted(CODE.rglob("*.py")):
        found.update(path.relative_to(CODE).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def write(content: Mapping[str, Any], page: str, folder: Path) -> Path:
    """NAME.json and NAME.html in `folder`; the JSON file's path. Whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{content['preset']}-{content['gpu']['key']}x{content['ranks']}.json"
    for path, text in ((target.with_suffix(".html"), page), (target, json.dumps(content, indent=1) + "\n")):
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text)
        temporary.replace(path)
    return target


def refusal(launch: Launch, folder: Path) -> str:
    """Why this launch may not start, with the remedy; empty if it may. CPUs and a single GPU need no certificate."""
    if launch.ranks == 1 or not launch.gpu:
        return ""
    certificates = {path: _read(path) for path in sorted(folder.glob("*.json"))}
    if not certificates:
        return f"{launch.ranks} GPUs need a launch certificate and {folder} holds none; {_remedy(launch)}"
    reasons = {path.name: _fault(content, launch) for path, content in certificates.items()}
    if not all(reasons.values()):
        return ""
    told = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    return f"no certificate in {folder} is valid for this launch: {told}; {_remedy(launch)}"


def valid(launch: Launch, folder: Path) -> Path | None:
    """The certificate that this launch starts with."""
    paths = sorted(folder.glob("*.json"))
    return next((path for path in paths if not _fault(_read(path), launch)), None)


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
    if content["strategy"] == "hsdp" and content["group"] != launch.node:
        return f"shares a copy among {content['group']} ranks, not {launch.node}"
    return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        return content if {"fits", "digest", "ranks", "gpu", "strategy", "group"} <= set(content) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _remedy(launch: Launch) -> str:
    key = next((key for key, gpu in GPUS.items() if gpu.family in launch.gpu), "GPU")
    return (
        f"make one with `medseg certify --gpus {launch.ranks} --gpu {key}`, or start with --uncertified "
        "(MEDSEG_UNCERTIFIED=1), which is recorded"
    )
