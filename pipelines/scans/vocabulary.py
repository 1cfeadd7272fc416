"""The structures that labels can mean: a default vocabulary, and what the project's structures.yaml adds to it.

    words = vocabulary.here()                  of the project around the current folder; elsewhere the default
    words["kidney_left"].id                    its value in every label map the system writes
    words.atoms("kidney")                      the structures it is the union of: kidney_left, kidney_right
    words.named("Left Kidney")                 the structure that other people call so

Ids are for ever: weights, case files and label maps hold them. The default has those below 10,000; a project gives its
own from 10,000 on. pipelines.scans.structure.IGNORED is none: it marks voxels that nobody decided on.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipelines.scans.structure import Declaration, Structure, of_declaration, words_of
from pipelines.work import project
from pipelines.work.wording import did_you_mean, short

FILE = "structures.yaml"
DEFAULT = Path(__file__).with_name(FILE)
FIRST_OWN_ID = 10_000


class Vocabulary(Mapping[str, Structure]):
    """Structures by name. Raises VocabularyError if they contradict each other."""

    def __init__(self, structures: Iterable[Structure], told_as: str = FILE) -> None:
        self._by_name: dict[str, Structure] = {}
        self.by_id: dict[int, Structure] = {}
        self._atoms: dict[str, frozenset[str]] = {}
        for each in structures:
            if (other := self.by_id.get(each.id)) is not None:
                raise VocabularyError(
                    f"{told_as}: {each.name} has id {each.id}, which {other.name} has; ids are for ever"
                )
            self._by_name[each.name] = self.by_id[each.id] = each
        for each in self._by_name.values():
            self._check_parts(each, told_as)

    def __getitem__(self, name: str) -> Structure:
        """Raises VocabularyError if there is none, with the nearest name."""
        try:
            return self._by_name[name]
        except KeyError:
            raise VocabularyError(
                f"no structure is called {name!r}{did_you_mean(name, self._by_name)}; `medseg structures ls` lists "
                f"all, `medseg structures add {name}` declares it in {FILE}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def atoms(self, name: str) -> frozenset[str]:
        """The structures without parts that it is made of; itself, if it has none."""
        if name not in self._atoms:
            parts = self[name].parts
            self._atoms[name] = frozenset().union(*map(self.atoms, parts)) if parts else frozenset({name})
        return self._atoms[name]

    def covered_ids(self, name: str) -> list[int]:
        """Values of label maps that lie within it: its own, its parts', and those of every union inside it."""
        inside = self.atoms(name)
        return sorted(each.id for each in self._by_name.values() if self.atoms(each.name) <= inside)

    def named(self, name: str) -> str | None:
        """The structure that is called so, by its words in any order and either spelling; None if there is none."""
        return self.known(words_of(name))

    def known(self, words: frozenset[str]) -> str | None:
        return self._by_words.get(words)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that it says."""
        return hashlib.sha256(json.dumps(self.records(self)).encode()).hexdigest()

    def records(self, names: Iterable[str]) -> dict[str, Any]:
        """What these structures are, with all that they can be told by: what a trained model carries."""
        return {name: self[name].to_json() for name in self.closure(names)}

    def closure(self, names: Iterable[str]) -> list[str]:
        """These, the parts that they are made of, and the unions that they can be told by, sorted by id."""
        names = set(names)
        atoms = frozenset().union(*(self.atoms(name) for name in names)) if names else frozenset()
        found = {
            each for each in self if each in names or (self.atoms(each) <= atoms and self[each].parts) or each in atoms
        }
        return sorted(found, key=lambda name: self[name].id)

    @cached_property
    def _by_words(self) -> dict[frozenset[str], str]:
        """Names before synonyms; of two structures with one synonym, the default's first keeps it."""
        found = {words_of(name): name for name in self._by_name}
        for each in self._by_name.values():
            for synonym in each.synonyms:
                found.setdefault(words_of(synonym), each.name)
        found.pop(frozenset(), None)
        return found

    def _check_parts(self, structure: Structure, told_as: str, within: tuple[str, ...] = ()) -> None:
        if structure.name in within:
            raise VocabularyError(f"{told_as}: {structure.name} is a part of itself, by {' > '.join(within)}")
        for part in structure.parts:
            if part not in self._by_name:
                raise VocabularyError(f"{told_as}: {structure.name} has a part {part!r}, which no structure is called")
            self._check_parts(self._by_name[part], told_as, (*within, structure.name))


def of_records(records: Mapping[str, Any]) -> Vocabulary:
    """What weights carry; of those older than it, the project's."""
    return Vocabulary(Structure.from_json(record) for record in records.values()) if records else here()


class VocabularyError(ValueError):
    """A vocabulary that cannot be used, or a name that is not in it."""


def here() -> Vocabulary:
    """The default with what the project around the current folder adds; outside a project the default."""
    try:
        own = project.root() / FILE
    except ValueError:
        return default()
    return of_file(own)


def of_file(path: Path) -> Vocabulary:
    """The default with what a project's structures.yaml adds. Raises VocabularyError naming every wrong entry."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return default()
    return _of_file(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _of_file(path: Path, _changed_ns: int, _bytes: int) -> Vocabulary:
    own = read(path)
    if not own:
        return default()
    return extended(default(), own, path.name)


@lru_cache(maxsize=1)
def default() -> Vocabulary:
    return Vocabulary(
        (of_declaration(name, Declaration.model_validate(entry)) for name, entry in read(DEFAULT).items()), FILE
    )


def extended(base: Vocabulary, own: Mapping[str, Any], told_as: str) -> Vocabulary:
    """`own`: entries by name. One of a name that `base` has adds synonyms, or changes colour and tolerance."""
    structures = {name: base[name] for name in base}
    problems = []
    for name, given in own.items():
        try:
            structures[name] = _changed(base[name], given) if name in base else _declared(name, given, structures)
        except ValidationError as error:
            problems += told(name, error)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise VocabularyError(f"{told_as}: {'; '.join(problems[:5])}{more}")
    return Vocabulary(structures.values(), told_as)


def _declared(name: Any, given: Any, present: Mapping[str, Structure]) -> Structure:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ValueError("a name is of small letters, digits and _, a letter first")
    if not isinstance(given, Mapping) or "id" not in given:
        raise ValueError(f"it needs an id, such as {{id: {next_id(present.values())}}}")
    entry = Declaration.model_validate(given)
    if entry.id < FIRST_OWN_ID:
        raise ValueError(
            f"id {entry.id} is below {FIRST_OWN_ID}; those are the default's. {next_id(present.values())} is free"
        )
    structure = of_declaration(name, entry)
    alike = next((other.name for other in present.values() if other.codes == structure.codes and not other.parts), None)
    if alike and not structure.parts:
        raise ValueError(f"it has the codes of {alike}: distinct things need distinct type, region, side or modifier")
    return structure


def _changed(structure: Structure, given: Any) -> Structure:
    """What a project may say otherwise of a structure of the default: nothing that results hang on."""
    allowed = {"synonyms", "colour", "tolerance_mm"}
    if not isinstance(given, Mapping) or not set(given) <= allowed:
        raise ValueError(f"it is one of the default's, of which only {', '.join(sorted(allowed))} can be said here")
    entry = Declaration.model_validate({**given, "id": structure.id})
    return replace(
        structure,
        synonyms=(*structure.synonyms, *entry.synonyms),
        colour=entry.colour or structure.colour,
        tolerance_mm=entry.tolerance_mm if "tolerance_mm" in given else structure.tolerance_mm,
    )


def next_id(structures: Iterable[Structure]) -> int:
    """The first free one of a project's own."""
    return max([FIRST_OWN_ID - 1, *(each.id for each in structures)]) + 1


def told(name: str, error: ValidationError) -> list[str]:
    """What is wrong with an entry, a line a fault."""
    return [
        f"{name}.{'.'.join(map(str, each['loc'])) or 'entry'}: {short(each['input'])}: {each['msg']}"
        for each in error.errors()
    ]


def read(path: Path, what: str = "structures", example: str = "my_lesion: {id: 10000}") -> dict[str, Any]:
    """The entries by name, not validated. Raises VocabularyError if the file holds no mapping, or a name twice."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise VocabularyError(f"{path}: unreadable ({type(error).__name__})") from None
    except yaml.YAMLError as error:
        raise VocabularyError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise VocabularyError(f"{path}: must map names of {what} to what they are, as in `{example}`")
    return content


class _Loader(yaml.CSafeLoader):
    """Refuses a key that is there twice: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)
