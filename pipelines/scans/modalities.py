"""What a channel of a scan can show, as data: modalities and MR sequences, and what the project's modalities.yaml adds.

    known = modalities.here()           of the project around the current folder; elsewhere the default
    known.named("t1w")                  the modality that people call so, T1; VocabularyError if there is none
    known.kinds("T1")                   what it is a kind of, nearest first: (MR,)
    modalities.in_hu("CBCT")            are its values Hounsfield units? Then what holds of CT holds of it

A project's own is a line of its modalities.yaml: `my_sequence: {kind: MR, synonyms: [my seq]}`. No position is told
here: which row of a network stands for a name is written in its weights (model/network/config.py).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.scans import vocabulary
from pipelines.scans.vocabulary import VocabularyError
from pipelines.work import project
from pipelines.work.wording import did_you_mean

FILE = "modalities.yaml"
DEFAULT = Path(__file__).with_name(FILE)
EXAMPLE = "my_sequence: {kind: MR}"
HU, NO_UNIT = "HU", "none"
_NAME = r"[A-Za-z][A-Za-z0-9_]{0,30}"
_RESERVED = ("absent", "label")  # a row that no channel has, and the role of label files


class ModalityDeclaration(BaseModel):
    """What modalities.yaml says of one modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str | None = Field(default=None, description="the modality that it is a kind of, as T1 is of MR")
    synonyms: tuple[str, ...] = Field(default=(), description="what other people call it")
    unit: Literal["HU", "none"] | None = Field(default=None, description="of its values; without, that of its kind")


@dataclass(frozen=True)
class Modality:
    """`kind`: name of what it is a kind of, or nothing. `unit`: HU or NO_UNIT."""

    name: str
    kind: str = ""
    synonyms: tuple[str, ...] = ()
    unit: str = NO_UNIT

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "synonyms": list(self.synonyms)}


class Modalities(Mapping[str, Modality]):
    """Modalities by name. Raises VocabularyError if one has the name or a synonym of another."""

    def __init__(self, each: Iterable[Modality], told_as: str = FILE) -> None:
        self._by_name = {modality.name: modality for modality in each}
        self._by_spelling: dict[str, str] = {}
        for modality in self._by_name.values():
            for called in (modality.name, *modality.synonyms):
                other = self._by_spelling.setdefault(spelled(called), modality.name)
                if other != modality.name:
                    raise VocabularyError(f"{told_as}: {modality.name}: {called!r} means {other}")

    def __getitem__(self, name: str) -> Modality:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def find(self, called: str) -> str | None:
        """The modality that is called so, whatever the case and the signs between words; None if there is none."""
        return self._by_spelling.get(spelled(called))

    def named(self, called: str) -> str:
        """The same. Raises VocabularyError with what is known, and how another is declared."""
        if (found := self.find(called)) is not None:
            return found
        raise VocabularyError(f"modality {called!r} is unknown; {self.remedy(called)}")

    def remedy(self, called: str) -> str:
        """Of an unknown name: the nearest, what is known, and how another is declared."""
        near = did_you_mean(called.upper(), self).partition("; known")[0].removeprefix("; ")
        line = EXAMPLE.replace("my_sequence", called) if re.fullmatch(_NAME, called) else EXAMPLE
        known = f"known are {', '.join(self)}; another is declared in {FILE}, in a line such as `{line}`"
        return f"{near} {known}".strip()

    def kinds(self, name: str) -> tuple[str, ...]:
        """What a modality is a kind of, nearest first; nothing of one that is not known."""
        found: list[str] = []
        while name in self and (name := self[name].kind):
            found.append(name)
        return tuple(found)


def spelled(called: str) -> str:
    """A name without case and without signs, but for those that say something: T2* is not T2, T1+ not T1."""
    return re.sub(r"[\W_]", "", called.lower().replace("*", "star").replace("+", "plus"))


def in_hu(name: str) -> bool:
    """Are the values Hounsfield units? Not of a modality that is unknown."""
    found = here().get(name)
    return found is not None and found.unit == HU


def here() -> Modalities:
    """The default with what the project around the current folder adds; outside a project the default."""
    try:
        own = project.root() / FILE
    except ValueError:
        return default()
    return of_file(own)


def of_file(path: Path) -> Modalities:
    """The default with what a project's modalities.yaml adds. Raises VocabularyError naming every wrong entry."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return default()
    return _of_file(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _of_file(path: Path, _changed_ns: int, _bytes: int) -> Modalities:
    return extended(default(), vocabulary.read(path, "modalities", EXAMPLE), path.name)


@lru_cache(maxsize=1)
def default() -> Modalities:
    return extended(Modalities(()), vocabulary.read(DEFAULT, "modalities", EXAMPLE), FILE)


def extended(base: Modalities, own: Mapping[str, Any], told_as: str) -> Modalities:
    """`own`: entries by name, each after its kind. One of a name that `base` has adds synonyms."""
    found, problems = dict(base), []
    for name, given in own.items():
        try:
            found[name] = _with_synonyms(base[name], given) if name in base else _declared(name, given or {}, found)
        except ValidationError as error:
            problems += vocabulary.told(name, error)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise VocabularyError(f"{told_as}: {'; '.join(problems[:5])}{more}")
    return Modalities(found.values(), told_as)


def _declared(name: Any, given: Any, present: Mapping[str, Modality]) -> Modality:
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise ValueError("a name is of letters, digits and _, a letter first, at most 31 in all")
    if name.lower() in _RESERVED:
        raise ValueError("this name has another meaning")
    entry = ModalityDeclaration.model_validate(given)
    if entry.kind is not None and entry.kind not in present:
        raise ValueError(f"its kind {entry.kind!r} is not declared before it{did_you_mean(entry.kind, present)}")
    inherited = present[entry.kind].unit if entry.kind is not None else NO_UNIT
    return Modality(name, entry.kind or "", entry.synonyms, entry.unit or inherited)


def _with_synonyms(modality: Modality, given: Any) -> Modality:
    """What a project may say of one of the default: nothing that results hang on."""
    if not isinstance(given, Mapping) or set(given) != {"synonyms"}:
        raise ValueError("it is one of the default's, of which only synonyms can be said here")
    return replace(modality, synonyms=(*modality.synonyms, *ModalityDeclaration.model_validate(given).synonyms))
