"""serve.yaml, typed: what the service is told. `medseg serve config` writes one with every key explained.

The file lies in the project and names no secret: tokens and passwords lie in files of their own.
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from pipelines.params.block import Block
from pipelines.params.reading import parse_value
from pipelines.service.peers import Destination, DimseSettings
from pipelines.work import project
from pipelines.work.wording import did_you_mean, short

FILE = "serve.yaml"
KINDS = ("nifti", "dicom-seg", "dicom-labelmap", "rtstruct", "sr", "json", "png")  # as pipelines/serving/asked.py


class ServeLimits(Block):
    """Bounds that strangers meet."""

    upload_mib: int = Field(default=2048, ge=1, le=1 << 20, description="MiB of one upload")
    unpacked_mib: int = Field(default=8192, ge=1, le=1 << 22, description="MiB that one zip may unpack to")
    files: int = Field(default=5000, ge=1, le=200_000, description="files of one upload, those in a zip included")
    queue: int = Field(default=200, ge=1, le=100_000, description="jobs that may wait or run; more are told 429")
    per_token: int = Field(
        default=50, ge=1, le=100_000, description="the same, of one token without a limit of its own"
    )
    connections: int = Field(default=200, ge=4, le=10_000, description="HTTP connections at once; more are told 503")
    header_s: float = Field(default=10, gt=0, le=600, description="seconds that a request's head may take")
    silence_s: float = Field(default=20, gt=0, le=600, description="seconds of an upload without a byte")
    upload_s: float = Field(default=1800, gt=0, le=86_400, description="seconds of one upload as a whole")
    job_s: float = Field(default=3600, gt=0, le=86_400, description="seconds of work on one job; beyond, it failed")
    free_mib: int = Field(default=1024, ge=0, description="MiB of disk below which nothing is accepted: 503")


class WatchSettings(Block):
    """A folder whose files become jobs."""

    inbox: Path = Field(description="what is put here, a file or a folder, is one job, and removed once accepted")
    outbox: Path = Field(description="results go here, a folder a job, named as what came; or NAME.refused.txt")
    settled_s: float = Field(default=10, gt=0, le=3600, description="seconds without change after which it is complete")
    to: tuple[str, ...] = Field(default=("nifti", "json"), min_length=1, description="kinds of results")
    modality: str = Field(default="", description="what the scans show, where their names do not say")
    deliver: str = Field(default="", description="name of a destination that results go to, too")


class ServeSettings(Block):
    """All of the service."""

    model: str = Field(
        default="", description="which version answers: models:/NAME@ALIAS or models:/NAME/3; empty: the champion"
    )
    unreleased: bool = Field(
        default=False, description='answer with a version that is not released; "not for clinical use" is on everything'
    )
    unfamiliar: Literal["flag", "refuse"] = Field(
        default="flag", description="what becomes of a scan that is unlike those of training: a warning, or no answer"
    )
    host: str = Field(default="127.0.0.1", description="address to listen at; behind a proxy that speaks TLS keep it")
    port: int = Field(default=8040, ge=0, le=65_535, description="port to listen at; 0: any that is free")
    database: str = Field(
        default="", description="postgresql+psycopg2://USER@HOST/NAME (password in ~/.pgpass); empty: SQLite"
    )
    device: str = Field(
        default="", pattern=r"^(cpu|cuda(:\d+)?)?$", description="cpu, cuda or cuda:1; empty: first GPU"
    )
    workers: int = Field(default=1, ge=1, le=64, description="processes with a network each")
    limits: ServeLimits = Field(default=ServeLimits(), description="bounds")
    keep_inputs: bool = Field(default=False, description="keep what was sent after it was answered")
    keep_results_days: float = Field(default=7, gt=0, le=36_500, description="days after which an answer is deleted")
    deliver_tries: int = Field(default=12, ge=1, le=1000, description="tries of a delivery, each later than the last")
    destinations: dict[str, Destination] = Field(default={}, description="PACS and nodes, by names of your own")
    dimse: DimseSettings | None = Field(default=None, description="receiver of DICOM C-STORE; none: off")
    watch: WatchSettings | None = Field(default=None, description="a folder that is watched; none: off")

    @model_validator(mode="after")
    def _names_are_known(self) -> "ServeSettings":
        for block, own in (("dimse", self.dimse), ("watch", self.watch)):
            if own is not None and own.deliver and own.deliver not in self.destinations:
                hint = did_you_mean(own.deliver, self.destinations)
                raise ValueError(f"{block}.deliver = {own.deliver!r} is none of `destinations`{hint}")
            for kind in own.to if own is not None else ():
                if kind not in KINDS:
                    raise ValueError(f"{block}.to: {kind!r} is no kind of result{did_you_mean(kind, KINDS)}")
        return self


def load(changes: dict[str, Any] | None = None) -> ServeSettings:
    """Of the project's serve.yaml, if there is one; `changes`, which is what the command line says, count more.

    Raises ValueError naming each wrong key.
    """
    file = project.root() / FILE
    try:
        content = parse_value(file.read_text(), FILE) if file.is_file() else None
    except UnicodeDecodeError:
        raise ValueError(f"{FILE}: not UTF-8 text; write it anew by `medseg serve config`") from None
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{FILE}: must hold a mapping of keys; `medseg serve config` shows one")
    told = {**(content or {}), **{name: value for name, value in (changes or {}).items() if value is not None}}
    try:
        return ServeSettings.model_validate_json(json.dumps(told, default=str))
    except ValidationError as error:
        raise ValueError("; ".join(_explain(detail) for detail in error.errors())) from None


def _explain(detail: Any) -> str:
    location = [str(part) for part in detail["loc"] if part not in ("WebPeer", "NodePeer")]
    key = ".".join(location)
    if detail["type"] == "value_error":
        return f"{FILE}: {key}{' ' if key else ''}{detail['ctx']['error']}"
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(location[-1], ServeSettings.model_fields) if len(location) == 1 else ""
        return f"{FILE}: unknown key {key} = {short(detail['input'])}{hint}; remove or rename it"
    if detail["type"] == "missing":
        return f"{FILE}: {key} is missing; add it"
    bound = detail["msg"].replace("Input should be", "must be")
    return f"{FILE}: {key} = {short(detail['input'])}: {bound}; set it within that bound"


def explained() -> str:
    """A serve.yaml with every key, its default and what it means."""
    lines = ["# What `medseg serve` is told. A key that is left out has the value shown here."]
    for name, field in ServeSettings.model_fields.items():
        lines += ["", f"# {field.description}"]
        inner = _BLOCKS.get(name)
        if inner is None:
            lines += [f"{name}: {_spelled(field.default)}"] if name != "destinations" else _EXAMPLE
            continue
        off = "" if name == "limits" else "# "
        lines.append(f"{off}{name}:")
        for key, each in inner.model_fields.items():
            value = "..." if each.is_required() else _spelled(each.default)
            lines.append(f"{off}  {key}: {value}  # {each.description}")
    return "\n".join(lines) + "\n"


_BLOCKS: dict[str, type[BaseModel]] = {"limits": ServeLimits, "watch": WatchSettings, "dimse": DimseSettings}
_EXAMPLE = [
    "destinations: {}",
    "#   pacs: {dicomweb: https://pacs.example/dicom-web, token_file: /etc/medseg/pacs.token}",
    "#   node: {ae_title: ORTHANC, host: pacs.example, port: 4242}",
]


def _spelled(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, default=str)
