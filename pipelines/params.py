"""params.yaml, typed: every setting is stated once there and refused here before anything runs.

Placement (ranks, threads, workers, hosts) is not a parameter: it comes from the environment, so that the same run has
the same hashes on a laptop and on a cluster (docs/pipeline.md lists the variables).
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from model.config import ALIGNMENT
from pipelines.block import Block, Fraction
from pipelines.bounds import Quality
from pipelines.labels import BY_NAME

LAYOUTS = ("msd", "acdc", "brats", "kits", "bids", "nnunet", "dicom")

Spacing = Annotated[float, Field(gt=0, le=100)]
Spacing3 = tuple[Spacing, Spacing, Spacing]
Voxels = Annotated[int, Field(ge=8, le=1024)]
Voxels3 = tuple[Voxels, Voxels, Voxels]
T = TypeVar("T")


def _or_auto(value: Any) -> Any:
    """`auto` -> None: the plan decides. A list becomes the tuple that strict validation asks for from here on."""
    if value == "auto":
        return None
    return tuple(value) if isinstance(value, list) else value


_OR_AUTO = BeforeValidator(_or_auto)


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names each key, its value, the bound and the remedy."""


def by_source(table: dict[str, T], source: str) -> T:
    """The entry for `source`, for its layout (`phantom-acdc` is of layout `acdc`), or the default."""
    for key in (source, source.removeprefix("phantom-")):
        if key in table:
            return table[key]
    return table["default"]


def _check_by_source(key: str, table: dict[str, Any]) -> None:
    if "default" not in table:
        raise ValueError(f"{key} has no entry `default`; add `default: ...` beside {sorted(table)}")
    unknown = sorted(set(table) - {"default", *LAYOUTS})
    if unknown:
        raise ValueError(f"{key}: unknown source {unknown[0]!r}; use `default` or one of {', '.join(LAYOUTS)}")


class Data(Block):
    """Which scans, and who is held out."""

    sources: tuple[Literal["msd", "acdc", "brats", "kits", "bids", "nnunet", "dicom", "phantom"], ...] = Field(
        min_length=1, description="layouts to look for under data/raw; `phantom` makes its own scans"
    )
    split_seed: int = Field(ge=0, description="changes who is held out; keep it for the life of a study")
    test_fraction: float = Field(gt=0, lt=1, description="share of patients held out for evaluation, by pseudonym")
    validation_fraction: float = Field(ge=0, lt=1, description="share of patients for the curve seen in training")

    @model_validator(mode="after")
    def _someone_is_left_to_train_on(self) -> "Data":
        held_out = self.test_fraction + self.validation_fraction
        if held_out >= 1:
            raise ValueError(
                f"data.test_fraction + data.validation_fraction = {held_out:g} must be below 1, or nobody is left to "
                "train on; 0.2 and 0.05 are usual"
            )
        return self


class Phantom(Block):
    """Size of the synthetic cohort; read only when `phantom` is among data.sources."""

    cases_per_layout: int = Field(ge=1, le=1000, description="scans written in each of the BraTS, KiTS, ACDC layouts")
    size: int = Field(ge=16, le=256, description="voxels per in-plane axis")
    seed: int = Field(ge=0)


class Deidentify(Block):
    """DICOM series into volumes without identity; read only when `dicom` is among data.sources."""

    clean_descriptors: bool = Field(
        description="keep descriptions, cut down to words that cannot identify (PS3.15, 113105); false removes them"
    )
    retain_device: bool = Field(
        description="keep serial number and station name (PS3.15, 113109), which tell scanners of one model apart"
    )
    deface: bool = Field(
        description="take the face off head scans, by geometry; docs/deidentification.md has the limits"
    )
    min_slices: int = Field(ge=2, le=1000, description="a stack of fewer is no volume; 3 lets every real scan pass")
    max_unevenness: Fraction = Field(
        description="of the slice step: up to here uneven slices are resampled evenly, above the series is quarantined"
    )
    timeout_s: float = Field(
        gt=0, le=86400, description="a series that takes longer is quarantined; 300 is 100 times usual"
    )
    memory_gib: float = Field(
        gt=0, le=1024, description="a series that needs more is quarantined; 4 holds 1,000 slices 512^2"
    )


class Ingest(Block):
    max_quarantined_fraction: Fraction = Field(description="above this share of refused scans the stage stops")
    contact_sheet_cases: int = Field(
        ge=0,
        le=1000,
        description="scans of a source on its picture, flagged ones first; each is read once more; 0: none",
    )
    quality: Quality
    phantom: Phantom


class Plan(Block):
    """How the plan decides what `preprocess` and `train` leave to it; see pipelines/decisions.py for the rules."""

    patch_voxels: int = Field(
        ge=512, le=2**27, description="a patch holds at most so many; what the device's memory allows, 128^3 on 80 GB"
    )
    anisotropy: float = Field(gt=1, le=100, description="above this ratio of spacings the coarse axis is kept coarse")
    ct_percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        description="CT is clipped to these percentiles of the training cohort's foreground, then standardised"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Plan":
        low, high = self.ct_percentiles
        if low >= high:
            raise ValueError(f"plan.ct_percentiles [{low:g}, {high:g}]: the first must be below the second")
        return self


class Preprocess(Block):
    spacing_mm: dict[str, Annotated[Spacing3 | None, _OR_AUTO]] = Field(
        default={"default": None}, description="common spacing (D, H, W) by source, with a `default`; `auto`: planned"
    )
    normalisation: dict[str, Annotated[Literal["window", "z_score"] | None, _OR_AUTO]] = Field(
        default={"default": None},
        description="by source; window: CT clipped and standardised by the cohort; z_score: each scan by its own",
    )
    ct_scale_hu: Annotated[tuple[float, float, float, float] | None, _OR_AUTO] = Field(
        default=None, description="low, high, mean, deviation of the CT window in HU; `auto`: the training cohort's"
    )
    foreground_points: int = Field(
        ge=1, le=100_000, description="voxels indexed per structure and case for oversampling"
    )
    memory_gib: float = Field(
        gt=0, le=65_536, description="GiB a machine: predicted peaks of the cases in work stay below it"
    )
    max_left_out_fraction: Fraction = Field(description="above this share of cases left out the stage stops")
    executor: Literal["local", "dask"] = Field(
        description="processes here, or workers of the Dask cluster at $MEDSEG_DASK; the same result either way"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocess":
        _check_by_source("preprocess.spacing_mm", self.spacing_mm)
        _check_by_source("preprocess.normalisation", self.normalisation)
        if self.ct_scale_hu is not None:
            low, high, _, deviation = self.ct_scale_hu
            if low >= high or deviation <= 0:
                raise ValueError(
                    f"preprocess.ct_scale_hu {list(self.ct_scale_hu)}: low must be below high and the deviation above 0"
                )
        return self


class Model(Block):
    preset: Literal["nano", "tiny", "small", "base", "large", "xl"] = Field(description="size of the network")


class Augment(Block):
    """Strengths of augmentation, as model.augment.AugmentConfig has them; 0 turns a step off."""

    spatial_probability: Fraction = Field(
        description="share of patches that are rotated, scaled and deformed; the rest are plain, sharper crops"
    )
    rotation_rad: float = Field(ge=0, le=3.15, description="about each axis, radians")
    scale: float = Field(ge=0, le=1, description="zoom between 1 / (1 + scale) and 1 + scale")
    elastic_mm: float = Field(ge=0, le=20, description="deviation of the control points, mm")
    elastic_cell_mm: float = Field(gt=0, le=200, description="distance between control points, mm")
    elastic_probability: Fraction
    flip_probability: Fraction = Field(description="of each of flip_axes; 0, since left and right are different organs")
    flip_axes: tuple[Literal[0, 1, 2], ...] = Field(description="0 head-foot, 1 front-back, 2 left-right")
    intensity_shift: float = Field(ge=0, le=5, description="in standard deviations of the image")
    intensity_scale: float = Field(ge=0, lt=1)
    gamma: float = Field(ge=0, le=5)
    noise: float = Field(ge=0, le=5, description="upper bound of the deviation, in standard deviations of the image")
    blur_mm: float = Field(ge=0, le=10, description="upper bound of the Gaussian's deviation; 1 mm is a soft kernel's")
    blur_probability: Fraction = Field(description="of a channel; 0 until a recipe is measured with it")
    low_resolution: float = Field(ge=0, le=4, description="voxels become up to 1 + this times as long, and back")
    low_resolution_probability: Fraction = Field(description="of a channel; 0 until a recipe is measured with it")


class Train(Block):
    """The optimisation. One optimiser step sees `global_batch` patches on any number of ranks."""

    seed: int = Field(ge=0)
    steps: int = Field(ge=1, le=10_000_000, description="optimiser steps")
    global_batch: int = Field(ge=1, le=65_536, description="patches a step; accumulated to exactly this number")
    micro_batch: int = Field(ge=1, le=1024, description="patches that share one forward pass; of one source")
    patch_size: dict[str, Annotated[Voxels3 | None, _OR_AUTO]] = Field(
        default={"default": None}, description="voxels (D, H, W) by source, with a `default`; `auto`: planned"
    )
    optimizer: Literal["adamw", "muon"] = Field(
        description="muon: orthogonal steps for weight matrices, AdamW for the rest; fewer steps, each dearer (tiny); "
        "adamw: at scale"
    )
    learning_rate: float = Field(gt=0, le=1, description="peak; 1e-4 for xl, 3e-3 for nano and tiny")
    final_learning_rate: float = Field(ge=0, le=1, description="at the last step")
    schedule: Literal["cosine", "trapezoid"] = Field(
        description="after warm-up: half a cosine; or constant up to the middle, then linear"
    )
    warmup_steps: int = Field(ge=0, description="linear warm-up")
    beta2: float = Field(ge=0, lt=1, description="AdamW's memory of squared gradients; 0.99 suits some thousand steps")
    weight_decay: float = Field(ge=0, le=1)
    clip_norm: float = Field(gt=0, description="gradients are clipped to this global norm")
    precision: Literal["float32", "bfloat16", "float16"] = Field(description="autocast; float16 scales the loss")
    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = Field(
        description="how ranks share the network; auto: replicated where it fits, else sharded in a node, else over all"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        description="recompute blocks in the backward pass: none, all but their matrix products, all; time for memory"
    )
    compile: bool = Field(description="torch.compile of each block; pays on GPUs, needs a C++ compiler on CPU")
    foreground_fraction: Fraction = Field(description="share of patches centred on an annotated structure")
    source_balance: Fraction = Field(description="0: a source is drawn by its number of cases; 1: all sources equally")
    average_decay: float = Field(ge=0, lt=1, description="weight averaging (EMA) per step; 0 turns it off")
    validate_every: int = Field(ge=1, description="steps between two points of the validation curve")
    augment: Augment

    @model_validator(mode="after")
    def _possible(self) -> "Train":
        _check_by_source("train.patch_size", self.patch_size)
        for source, patch in self.patch_size.items():
            if patch is not None and any(size % ALIGNMENT for size in patch):
                nearest = [max(1, round(size / ALIGNMENT)) * ALIGNMENT for size in patch]
                raise ValueError(
                    f"train.patch_size.{source} {list(patch)} must be divisible by the network's stride {ALIGNMENT} on "
                    f"every axis; nearest valid: {nearest}"
                )
        if self.global_batch % self.micro_batch:
            multiple = max(1, round(self.global_batch / self.micro_batch)) * self.micro_batch
            raise ValueError(
                f"train.global_batch {self.global_batch} must be a multiple of train.micro_batch {self.micro_batch}: "
                f"accumulation cannot divide it; nearest valid: {multiple}"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"train.warmup_steps {self.warmup_steps} must be below train.steps {self.steps}; a tenth is usual"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"train.final_learning_rate {self.final_learning_rate:g} must not exceed train.learning_rate "
                f"{self.learning_rate:g}; a hundredth of it is usual"
            )
        return self


class Evaluate(Block):
    overlap: float = Field(ge=0, le=0.9, description="of neighbouring windows; 0.5 with Gaussian blending is usual")


class Register(Block):
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{1,62}$", description="registered model name in MLflow")


class Promote(Block):
    floors: dict[str, Fraction] = Field(
        description="lowest held-out mean Dice by structure or region, with a `default`"
    )
    max_drop: Fraction = Field(description="how far below the alias's present holder a structure may fall")

    @model_validator(mode="after")
    def _known_structures(self) -> "Promote":
        if "default" not in self.floors:
            raise ValueError("promote.floors has no entry `default`; add e.g. `default: 0.5`")
        for name in self.floors:
            if name != "default" and name not in BY_NAME:
                raise ValueError(f"promote.floors: unknown structure {name!r}{_did_you_mean(name, list(BY_NAME))}")
        return self


class Params(Block):
    """All of params.yaml."""

    data: Data
    deidentify: Deidentify
    ingest: Ingest
    plan: Plan
    preprocess: Preprocess
    model: Model
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    promote: Promote


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate. Raises ParamsError naming every wrong key at once."""
    path = Path(path)
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text())  # YAML 1.2: 1e-4 is a number
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `medseg profile use smoke` writes one") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: must hold a mapping of blocks ({', '.join(Params.model_fields)})")
    try:
        return Params.model_validate_json(json.dumps(raw))  # JSON mode: strict types, yet lists become tuples
    except ValidationError as error:
        raise ParamsError("; ".join(_explain(path, detail) for detail in error.errors())) from None


def _explain(path: Path, detail: Any) -> str:
    """One pydantic error in the house's form: key, value, bound, remedy."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "value_error":
        return f"{path}: {detail['ctx']['error']}"
    if detail["type"] == "extra_forbidden":
        hint = _did_you_mean(location[-1], _known_keys(location[:-1]))
        return f"{path}: unknown key {key} = {_short(detail['input'])}{hint}; remove or rename it"
    if detail["type"] == "missing":
        return f"{path}: {key} is missing; add it{_purpose(location)}"
    bound = detail["msg"].replace("Input should be", "must be")
    return f"{path}: {key} = {_short(detail['input'])}: {bound}; set {key} within that bound{_purpose(location)}"


def _field(location: list[str]) -> Any:
    model: Any = Params
    field = None
    for part in location:
        fields = getattr(model, "model_fields", {})
        field = next((value for name, value in fields.items() if part in (name, value.alias)), None)
        if field is None:
            return None
        model = field.annotation
    return field


def _purpose(location: list[str]) -> str:
    field = _field(location)
    return f" ({field.description})" if field is not None and field.description else ""


def _known_keys(location: list[str]) -> list[str]:
    model: Any = Params
    if location:
        field = _field(location)
        model = field.annotation if field is not None else None
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}" if known else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
