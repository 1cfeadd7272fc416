"""The recipes of `pretrain` and `train` (params.yaml), typed."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.network.config import ALIGNMENT
from pipelines.params.block import Block, Fraction
from pipelines.params.bysource import OR_AUTO, Voxels3, check_by_source
from pipelines.scans import vocabulary
from pipelines.work.wording import did_you_mean


class Augment(Block):
    """Strengths of augmentation, as model.data.draws.AugmentConfig has them; 0 turns a step off."""

    spatial_probability: Fraction = Field(
        description="share of patches that are rotated, scaled and deformed; the rest are plain, sharper crops"
    )
    rotation_rad: float = Field(ge=0, le=3.15, description="about each axis, radians")
    scale: float = Field(ge=0, le=1, description="zoom between 1 / (1 + scale) and 1 + scale")
    elastic_mm: float = Field(ge=0, le=20, description="deviation of the control points, mm")
    elastic_cell_mm: float = Field(gt=0, le=200, description="distance between control points, mm")
    elastic_probability: Fraction = Field(
        description="share of the rotated and scaled patches that are deformed as well; below 1, so that anatomy as it "
        "is stays in view"
    )
    flip_probability: Fraction = Field(description="of each of flip_axes; 0, since left and right are different organs")
    flip_axes: tuple[Literal[0, 1, 2], ...] = Field(description="0 head-foot, 1 front-back, 2 left-right")
    intensity_shift: float = Field(ge=0, le=5, description="in standard deviations of the image")
    intensity_scale: float = Field(
        ge=0, lt=1, description="contrast times 1 - this to 1 + this; below 1, or images would invert"
    )
    gamma: float = Field(
        ge=0,
        le=5,
        description="exponent between 1 / (1 + this) and 1 + this; 0 where minutes of training did worse with it "
        "(docs/network.md)",
    )
    noise: float = Field(ge=0, le=5, description="upper bound of the deviation, in standard deviations of the image")
    blur_mm: float = Field(ge=0, le=10, description="upper bound of the Gaussian's deviation; 1 mm is a soft kernel's")
    blur_probability: Fraction = Field(description="of a channel; 0 until a recipe is measured with it")
    low_resolution: float = Field(ge=0, le=4, description="voxels become up to 1 + this times as long, and back")
    low_resolution_probability: Fraction = Field(description="of a channel; 0 until a recipe is measured with it")


class Optimisation(Block):
    """What `pretrain` and `train` share. One optimiser step sees `global_batch` patches on any number of ranks."""

    block: ClassVar[str]

    seed: int = Field(
        ge=0,
        description="of first weights, samples and augmentation; the same one gives the same weights to the bit on a "
        "CPU, and on GPUs with MEDSEG_DETERMINISTIC",
    )
    steps: int = Field(ge=1, le=10_000_000, description="optimiser steps")
    global_batch: int = Field(ge=1, le=65_536, description="patches a step; accumulated to exactly this number")
    micro_batch: int = Field(ge=1, le=1024, description="patches that share one forward pass; of one source")
    patch_size: dict[str, Annotated[Voxels3 | None, OR_AUTO]] = Field(
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
    weight_decay: float = Field(
        ge=0, le=1, description="a step shrinks weight matrices, and only them, by learning rate times this"
    )
    clip_norm: float = Field(gt=0, description="gradients are clipped to this global norm")
    precision: Literal["float32", "bfloat16", "float16"] = Field(description="autocast; float16 scales the loss")
    strategy: Literal["auto", "ddp", "fsdp", "hsdp"] = Field(
        description="how ranks share the network; auto: replicated where it fits, else sharded in a node, else over all"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = Field(
        description="recompute blocks in the backward pass: none, all but their products and attention, all; time for "
        "memory"
    )
    compile: bool = Field(
        description="torch.compile of blocks, of the steps on full-resolution voxels and of the loss, once for every "
        "patch shape; pays on GPUs, needs a C++ compiler on CPU"
    )
    source_balance: Fraction = Field(description="0: a source is drawn by its number of cases; 1: all sources equally")
    average_decay: float = Field(ge=0, lt=1, description="weight averaging (EMA) per step; 0 turns it off")
    validate_every: int = Field(ge=1, description="steps between two points of the validation curve")
    augment: Augment

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.steps:
            return self
        block = self.block
        check_by_source(f"{block}.patch_size", self.patch_size)
        for source, patch in self.patch_size.items():
            if patch is not None and any(size % ALIGNMENT for size in patch):
                nearest = [max(1, round(size / ALIGNMENT)) * ALIGNMENT for size in patch]
                raise ValueError(
                    f"{block}.patch_size.{source} {list(patch)} must be divisible by the network's stride {ALIGNMENT} "
                    f"on every axis; nearest valid: {nearest}"
                )
        if self.global_batch % self.micro_batch:
            multiple = max(1, round(self.global_batch / self.micro_batch)) * self.micro_batch
            raise ValueError(
                f"{block}.global_batch {self.global_batch} must be a multiple of {block}.micro_batch "
                f"{self.micro_batch}: accumulation cannot divide it; nearest valid: {multiple}"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"{block}.warmup_steps {self.warmup_steps} must be below {block}.steps {self.steps}; a tenth is usual"
            )
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"{block}.final_learning_rate {self.final_learning_rate:g} must not exceed {block}.learning_rate "
                f"{self.learning_rate:g}; a hundredth of it is usual"
            )
        return self


class Train(Optimisation):
    """Segmentation, from the pretrained encoder if there is one."""

    block: ClassVar[str] = "train"

    foreground_fraction: Fraction = Field(description="share of patches centred on an annotated structure")
    regions: tuple[str, ...] = Field(
        default=(),
        description="unions of structures (whole_tumour, tumour_core) whose Dice is trained beside that of their parts",
    )
    layer_decay: float = Field(
        gt=0, le=1, description="each layer nearer to the input learns so many times slower; 1: all alike"
    )
    freeze_encoder: bool = Field(description="keep the pretrained embedding and encoder as they are; half the work")
    export: Literal["last", "best"] = Field(
        default="last",
        description="which weights are released: of the last step, or of the point with the best validation score "
        "(costs a checkpoint at each new best); a few validation cases choose by luck",
    )

    @model_validator(mode="after")
    def _regions_are_unions(self) -> Self:
        for name in self.regions:
            if name not in (words := vocabulary.here()) or not words[name].parts:
                known = [each for each in words if words[each].parts]
                raise ValueError(f"train.regions: {name!r} is no union of structures{did_you_mean(name, known)}")
        return self


class Pretrain(Optimisation):
    """Masked-volume modelling of all scans but those of held-out patients. `steps: 0` skips it."""

    block: ClassVar[str] = "pretrain"

    steps: int = Field(ge=0, le=10_000_000, description="optimiser steps; 0 skips pretraining")
    mask_stride: Literal[4, 8, 16, 32] = Field(description="edge of a hidden cell, in voxels of the finest axis")
    mask_fraction: float = Field(gt=0, lt=1, description="share of the cells that is hidden")
