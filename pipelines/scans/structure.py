"""One structure: what it is called, how DICOM codes it, how it is drawn; and what structures.yaml says of it."""

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from model.data.targets import HIGHEST_ID as HIGHEST_ID
from model.data.targets import IGNORED as IGNORED

SNOMED, PRIVATE = "SCT", "99MEDSEG"  # coding schemes; a private one for what has no code of a terminology

_SPELLINGS = {
    "tumor": "tumour", "cancer": "tumour", "neoplasm": "tumour", "peritumoral": "tumour", "peritumoural": "tumour",
    "edema": "oedema", "esophagus": "oesophagus", "hemorrhage": "haemorrhage", "ischemic": "ischaemic", "gray": "grey",
    "renal": "kidney", "hepatic": "liver", "pancreatic": "pancreas", "hippocampal": "hippocampus",
    "necrosis": "necrotic", "arota": "aorta", "vertebrae": "vertebra", "l": "left", "r": "right", "lt": "left",
    "rt": "right",
}  # fmt: skip
_EMPTY_WORDS = {"and", "of", "the", "structure", "organ", "label", "mask", "entire"}

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Channel = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class Code:
    """A coded concept of DICOM: what it is called in which scheme."""

    value: str
    scheme: str
    meaning: str


ANATOMY = Code("123037004", SNOMED, "Anatomical Structure")


class Declaration(BaseModel):
    """What structures.yaml says of one structure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=1, le=HIGHEST_ID, description="its value in label maps, for ever")
    synonyms: tuple[str, ...] = Field(default=(), description="what other people call it, in words")
    category: Code | None = Field(default=None, description="[code, meaning] in SNOMED CT, or [code, scheme, meaning]")
    type: Code | None = Field(default=None, description="what it is, likewise; without, a private code of its name")
    region: Code | None = Field(default=None, description="of a finding: the organ it lies in")
    side: Literal["left", "right", "both"] | None = Field(default=None, description="of the patient")
    modifier: Code | None = Field(default=None, description="what else tells it apart, such as `anterior`")
    parts: tuple[Name, ...] = Field(default=(), description="structures that it is the union of")
    colour: tuple[Channel, Channel, Channel] | None = Field(default=None, description="red, green, blue")
    tolerance_mm: float = Field(default=2.0, gt=0, le=50, description="of surface Dice")

    @field_validator("category", "type", "region", "modifier", mode="before")
    @classmethod
    def _code(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple):
            return given
        parts = [str(part) for part in given]
        if len(parts) == 2:
            return Code(parts[0], SNOMED, parts[1])
        if len(parts) == 3:
            return Code(*parts)
        raise ValueError("a code is [code, meaning] of SNOMED CT, or [code, scheme, meaning]")


@dataclass(frozen=True)
class Structure:
    """One structure. `parts`: names of those it is the union of; `laterality`: left, right, both or nothing."""

    id: int
    name: str
    synonyms: tuple[str, ...]
    category: Code
    type: Code
    region: Code | None
    laterality: str
    modifier: Code | None
    parts: tuple[str, ...]
    colour: tuple[int, int, int]
    tolerance_mm: float

    @property
    def codes(self) -> tuple[Code | str | None, ...]:
        """What tells it apart from any other."""
        return self.type, self.region, self.laterality, self.modifier

    def to_json(self) -> dict[str, Any]:
        """As the weights' card, data/structures.json and `medseg structures ls --json` have it."""
        coded = {"category": self.category, "type": self.type, "region": self.region, "modifier": self.modifier}
        codes = {name: [code.value, code.scheme, code.meaning] for name, code in coded.items() if code is not None}
        return {
            "id": self.id,
            "name": self.name,
            "synonyms": list(self.synonyms),
            "codes": codes,
            "laterality": self.laterality,
            "parts": list(self.parts),
            "colour": list(self.colour),
            "tolerance_mm": self.tolerance_mm,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Structure":
        codes = {name: Code(*code) for name, code in record["codes"].items()}
        return Structure(
            record["id"], record["name"], tuple(record["synonyms"]), codes["category"], codes["type"],
            codes.get("region"), record["laterality"], codes.get("modifier"), tuple(record["parts"]),
            tuple(record["colour"]), record["tolerance_mm"],
        )  # fmt: skip


def of_declaration(name: str, declared: Declaration) -> Structure:
    return Structure(
        id=declared.id,
        name=name,
        synonyms=declared.synonyms,
        category=declared.category or ANATOMY,
        type=declared.type or Code(name, PRIVATE, name.replace("_", " ")),
        region=declared.region,
        laterality=declared.side or "",
        modifier=declared.modifier,
        parts=declared.parts,
        colour=declared.colour or _colour(declared.id),
        tolerance_mm=declared.tolerance_mm,
    )


def _colour(identifier: int) -> tuple[int, int, int]:
    """One that its neighbours do not have: hues a golden ratio apart."""
    red, green, blue = colorsys.hsv_to_rgb(identifier * 0.618034 % 1, 0.55 + 0.4 * (identifier % 2), 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


@lru_cache(maxsize=8192)
def words_of(name: str) -> frozenset[str]:
    """What a name says, in any order, number and spelling: `Tumors, kidney` says what `kidney_tumour` says."""
    words = re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return frozenset(_plain(word) for word in words) - _EMPTY_WORDS


def _plain(word: str) -> str:
    """In British spelling, in the singular."""
    word = _SPELLINGS.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return _SPELLINGS.get(word, word)
