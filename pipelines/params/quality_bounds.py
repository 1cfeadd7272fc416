"""The bounds of the quality checks (params.yaml: ingest.quality), typed. The checks: pipelines/intake/quality.py."""

from typing import Annotated

from pydantic import Field, model_validator

from pipelines.params.block import Block, Fraction
from pipelines.scans import vocabulary
from pipelines.work.wording import did_you_mean

Positive = Annotated[float, Field(gt=0)]


class Quality(Block):
    """`refused` in a description: the scan is quarantined. Otherwise it is kept, with a note."""

    extent_mm: tuple[Positive, Positive] = Field(
        description="field of view, mm; refused when the two longer sides are below the first or any is above the "
        "second: 10 mm shows no organ, 2500 mm no person, so the spacing is wrong"
    )
    spacing_mm: tuple[Positive, Positive] = Field(
        description="voxel size, mm; body scanners give 0.2 to 10, other values are often centimetres or micrometres"
    )
    anisotropy: float = Field(ge=1, le=1000, description="largest spacing over smallest; thick slices reach 12 to 15")
    min_slices: int = Field(ge=1, le=1000, description="along the thickest axis; fewer show no shape in depth")
    oblique_deg: float = Field(
        ge=0, le=45, description="turned from the patient's axes, degrees; axes are reoriented to the nearest only"
    )
    shear_deg: float = Field(
        ge=0, le=90, description="axes off the right angle, degrees; refused: a tilted gantry's slices are displaced"
    )
    ct_air_hu: float = Field(ge=-1000, le=0, description="HU; below is air, between lung and soft tissue")
    ct_range_hu: tuple[float, float] = Field(
        description="HU; air is -1024 less some noise, metal up to 3071 in 12 bits; beyond: padding, other units"
    )
    ct_span_hu: float = Field(
        ge=0, le=5000, description="HU; refused when all values lie within less: a window of 8 bits spans 255"
    )
    stray_fraction: Fraction = Field(description="share of voxels outside a range that is put down to noise or metal")
    mr_air: Fraction = Field(description="share of the 99th percentile; what is darker in MR is taken for air")
    on_air: Fraction = Field(description="share of the label on air; borders drawn generously reach some hundredths")
    on_air_refused: Fraction = Field(description="share of the label on air; refused: it belongs to another scan")
    tiny_mm3: dict[str, float] = Field(
        description="volume by structure, mm3, with a `default`; refused when the whole label is below the default. "
        "10 mm3 is a 2 mm cube: a stray click"
    )
    side_margin_mm: float = Field(ge=0, le=100, description="centroids on the wrong side of each other by more, mm")
    side_margin: Fraction = Field(description="centroid beyond the body's midline by more, share of its width")
    repeated_slices: Fraction = Field(description="share of slices that repeat another; refused: depth is not true")
    empty_end: Fraction = Field(description="share of slices without content at one end; a truncated export")

    @model_validator(mode="after")
    def _consistent(self) -> "Quality":
        for name in ("extent_mm", "spacing_mm", "ct_range_hu"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"ingest.quality.{name} [{low:g}, {high:g}]: the first must be below the second")
        if self.on_air > self.on_air_refused:
            raise ValueError(
                f"ingest.quality.on_air {self.on_air:g} must not exceed ingest.quality.on_air_refused "
                f"{self.on_air_refused:g}"
            )
        if "default" not in self.tiny_mm3 or min(self.tiny_mm3.values()) < 0:
            raise ValueError("ingest.quality.tiny_mm3 needs an entry `default`, and none below 0; 10.0 is usual")
        for name in set(self.tiny_mm3) - {"default"}:
            if name not in (words := vocabulary.here()):
                raise ValueError(f"ingest.quality.tiny_mm3: unknown structure {name!r}{did_you_mean(name, words)}")
        return self
