"""params.yaml, typed: every setting is stated once there and refused here before anything runs.

Placement (ranks, threads, workers, hosts) is not a parameter: it comes from the environment, so that the same run has
the same hashes on a laptop and on a cluster (`medseg env` lists the variables).
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.params.block import Block, Fraction
from pipelines.params.bysource import OR_AUTO, Spacing3, check_by_source, check_sources
from pipelines.params.quality_bounds import Quality
from pipelines.params.recipe import Pretrain, Train
from pipelines.scans import modalities, vocabulary
from pipelines.scans.contracts import BACKGROUND, IGNORE
from pipelines.work.wording import did_you_mean

Layout = Literal[
    "msd", "acdc", "brats", "kits", "lits", "bids", "nnunet", "totalsegmentator", "flare", "pairs", "dicom", "phantom"
]
ONE_OR_MORE = BeforeValidator(lambda given: (given,) if isinstance(given, str) else _as_tuple(given))


def _as_tuple(given: object) -> object:
    """As strict validation asks for from here on."""
    return tuple(given) if isinstance(given, list) else given


class Data(Block):
    """Which scans, and who is held out."""

    sources: tuple[Layout, ...] = Field(
        min_length=1, description="layouts to look for under data/raw; `phantom` makes its own scans"
    )
    labels: dict[str, dict[str, str]] = Field(
        default={},
        description="by source: what a label means, by its name or value: a structure, `background` (drawn, and none "
        "of those looked for) or `ignore` (nobody decided; left out of loss and evaluation)",
    )
    modality: dict[str, Annotated[tuple[str, ...], ONE_OR_MORE]] = Field(
        default={},
        description="by source: what its images show, where their names do not say; of several channels a list in "
        "their order",
    )
    split_seed: int = Field(ge=0, description="changes who is held out; keep it for the life of a study")
    test_fraction: float = Field(gt=0, lt=1, description="share of patients held out for evaluation, by pseudonym")
    validation_fraction: float = Field(ge=0, lt=1, description="share of patients for the curve seen in training")

    @model_validator(mode="after")
    def _labels_mean_structures(self) -> "Data":
        check_sources("data.labels", self.labels)
        check_sources("data.modality", self.modality)
        for source, shown in self.modality.items():
            for name in shown:
                if name not in (declared := modalities.here()):
                    raise ValueError(f"data.modality.{source}: {name!r} is no modality; {declared.remedy(name)}")
        for source, meanings in self.labels.items():
            for name, meant in meanings.items():
                if meant not in (IGNORE, BACKGROUND) and meant not in (known := vocabulary.here()):
                    raise ValueError(
                        f"data.labels.{source}: {name!r} means {meant!r}, which is no structure"
                        f"{did_you_mean(meant, known)}, nor `{IGNORE}` or `{BACKGROUND}`; `medseg structures "
                        f"add {meant}` declares one"
                    )
        return self

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
    seed: int = Field(ge=0, description="of anatomy and noise; another one draws another cohort")


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


class Planning(Block):
    """How the plan decides what `preprocess` and `train` leave to it; the rules: pipelines/cases/decisions.py."""

    patch_voxels: int = Field(
        ge=512, le=2**27, description="a patch holds at most so many; what the device's memory allows, 128^3 on 80 GB"
    )
    anisotropy: float = Field(gt=1, le=100, description="above this ratio of spacings the coarse axis is kept coarse")
    ct_percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        description="CT is clipped to these percentiles of the training cohort's foreground, then standardised"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Planning":
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
        gt=0,
        le=65_536,
        description="GiB a machine: predicted peaks of the cases in work stay below it, from ingest to evaluate",
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
    flips: tuple[Literal[0, 1, 2], ...] = Field(
        description="axes (D, H, W) along which every scan is mirrored too and the answers averaged, 2 to 8 times the "
        "work; their agreement tells how sure the network is. Empty: once, as trained without mirroring"
    )
    max_left_out_fraction: Fraction = Field(
        description="above this share of held-out cases that cannot be measured the stage stops"
    )
    references: int = Field(
        default=200,
        ge=0,
        le=10_000,
        description="training scans of a source that new scans are held against, to tell unfamiliar ones; each costs "
        "about a sixth of segmenting it. 200 tell 1 in 100 apart; 0: none, and no scan is flagged",
    )


class Register(Block):
    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{1,62}$", description="registered model name in MLflow")
    released: str | None = Field(
        default=None,
        pattern=r"^[a-z][a-z0-9_-]{1,62}$",
        description="registered model, with grants of its own, that released versions are copied into; null: no other",
    )


class Params(Block):
    """All of params.yaml."""

    data: Data
    deidentify: Deidentify
    ingest: Ingest
    plan: Planning
    preprocess: Preprocess
    model: Model
    pretrain: Pretrain
    train: Train
    evaluate: Evaluate
    register_: Register = Field(alias="register")

    @model_validator(mode="after")
    def _frozen_after_pretraining(self) -> "Params":
        if self.train.freeze_encoder and not self.pretrain.steps:
            raise ValueError(
                "train.freeze_encoder true would keep a random encoder, since pretrain.steps 0 skips pretraining; set "
                "pretrain.steps above 0, or train.freeze_encoder to false"
            )
        return self
