"""params.yaml, typed: every setting is stated once there and refused here before anything runs.

Placement (ranks, threads, workers, hosts) is not a parameter: it comes from the environment, so that the same run has
the same hashes on a laptop and on a cluster (docs/pipeline.md lists the variables).
"""

import difflib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.params.block import Block, Fraction
from pipelines.params.bysource import OR_AUTO, Spacing3, check_by_source
from pipelines.params.quality_bounds import Quality
from pipelines.params.recipe import Pretrain, Train
from pipelines.scans.structures import BY_NAME


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names each key, its value, the bound and the remedy."""


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
    """How the plan decides what `preprocess` and `train` leave to it; the rules: pipelines/cases/decisions.py."""

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
    spacing_mm: dict[str, Annotated[Spacing3 | None, OR_AUTO]] = Field(
        default={"default": None}, description="common spacing (D, H, W) by source, with a `default`; `auto`: planned"
    )
    normalisation: dict[str, Annotated[Literal["window", "z_score"] | None, OR_AUTO]] = Field(
        default={"default": None},
        description="by source; window: CT clipped and standardised by the cohort; z_score: each scan by its own",
    )
    ct_scale_hu: Annotated[tuple[float, float, float, float] | None, OR_AUTO] = Field(
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
        check_by_source("preprocess.spacing_mm", self.spacing_mm)
        check_by_source("preprocess.normalisation", self.normalisation)
        if self.ct_scale_hu is not None:
            low, high, _, deviation = self.ct_scale_hu
            if low >= high or deviation <= 0:
                raise ValueError(
                    f"preprocess.ct_scale_hu {list(self.ct_scale_hu)}: low must be below high and the deviation above 0"
                )
        return self


class Model(Block):
    preset: Literal["nano", "tiny", "small", "base", "large", "xl"] = Field(description="size of the network")


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
    pretrain: Pretrain
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    promote: Promote

    @model_validator(mode="after")
    def _frozen_after_pretraining(self) -> "Params":
        if self.train.freeze_encoder and not self.pretrain.steps:
            raise ValueError(
                "train.freeze_encoder true would keep a random encoder, since pretrain.steps 0 skips pretraining; set "
                "pretrain.steps above 0, or train.freeze_encoder to false"
            )
        return self


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
