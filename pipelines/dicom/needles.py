"""Identifying values -> byte strings to look for, in all their usual spellings, and the search for all of them at once.

A value is left out, and counted, where it cannot be told from chance, or if its words are kept on purpose: the rules
are in `_worth` and `descriptors.keeps`. Letters are compared without case; how programs write them is in spellings.py.
The search is one pass of an Aho-Corasick automaton (ahocorasick_rs) over the bytes, whatever the number of values.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import permutations

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from pipelines.dicom.descriptors import keeps
from pipelines.dicom.identity import Value
from pipelines.dicom.spellings import dates, encoded, identifiers, in_base64, letters

MIN_LETTERS = 5  # of a name's part or an id; shorter ones occur by chance
MIN_DIGITS = 7  # of an id of digits alone
MIN_PATH = 8  # of a folder's or file's name
MIN_TEXT = 6
_RANKS = ("name", "id", "uid", "date", "place", "device", "private", "text", "path")  # a spelling of two is the first's
_WORD, _FIGURES = re.compile(rb"[a-z0-9]"), re.compile(rb"[0-9 ./-]+")
_FIGURE_BEFORE, _FIGURE_AFTER = re.compile(rb"[0-9]\.?$"), re.compile(rb"\.?[0-9]")


@dataclass(frozen=True, slots=True)
class Needle:
    """One spelling. `whole`: only where no letter or digit touches it; digits alone never count inside a number."""

    kind: str
    spelling: bytes
    whole: bool


class Needles:
    """All spellings of all values. `left_out`: kind -> values that are not searched for, by the rules."""

    def __init__(self, values: Iterable[Value], ordinary: frozenset[str], since: date) -> None:
        """`ordinary`: words of the program itself. `since`: the project's first day, from which it has time stamps."""
        self.left_out: Counter[str] = Counter()
        found: dict[bytes, Needle] = {}
        for value in sorted(values, key=lambda value: (_RANKS.index(value.kind), value.text)):
            spelled = [] if keeps(value.text) else list(_spellings(value, ordinary, since))
            if not spelled:
                self.left_out[value.kind] += 1
            for text in spelled:
                of_person = value.kind in ("name", "id", "path")
                whole = len(text) < 12 or text.isdigit()
                for spelling in encoded(text, wide=of_person):
                    found.setdefault(spelling, Needle(value.kind, spelling, whole))
                for spelling in in_base64(text) if of_person and text.isalnum() else ():
                    found.setdefault(spelling, Needle(value.kind, spelling, whole=False))
        self._needles = list(found.values())
        self._automaton = (
            BytesAhoCorasick([needle.spelling for needle in self._needles], matchkind=MatchKind.Standard)
            if self._needles
            else None
        )
        self.longest = max((len(needle.spelling) for needle in self._needles), default=0)

    def kinds(self) -> dict[str, int]:
        """How many spellings of each kind are searched for."""
        return dict(Counter(needle.kind for needle in self._needles))

    def found_in(self, content: bytes) -> set[str]:
        """Kinds of the values that occur in `content`."""
        if self._automaton is None:
            return set()
        lowered = content.lower()
        kinds = set()
        for index, start, end in self._automaton.find_matches_as_indexes(lowered, overlapping=True):
            needle = self._needles[index]
            if needle.kind not in kinds and _counts(needle, lowered, start, end):
                kinds.add(needle.kind)
        return kinds


def _counts(needle: Needle, content: bytes, start: int, end: int) -> bool:
    if not needle.whole:
        return True
    before, after = content[max(0, start - 2) : start], content[end : end + 2]
    if _FIGURES.fullmatch(needle.spelling):
        return not _FIGURE_BEFORE.search(before) and not _FIGURE_AFTER.match(after)
    return not _WORD.match(before[-1:]) and not _WORD.match(after)


def _spellings(value: Value, ordinary: frozenset[str], since: date) -> Iterator[str]:
    text = value.text
    if value.kind == "name":
        yield from _names(text, ordinary)
    elif value.kind == "date":
        yield from dates(text, since)
    elif _worth(value.kind, text, ordinary):
        for spelled in letters(text):
            yield from identifiers(spelled) if value.kind == "id" else (spelled,)


def _worth(kind: str, text: str, ordinary: frozenset[str]) -> bool:
    """Can finding `text` mean anything? Not for short values, and not for a word that the program itself uses."""
    if text.lower() in ordinary:
        return False
    if text.isdigit():
        return len(text) >= MIN_DIGITS
    return len(text) >= {"path": MIN_PATH, "text": MIN_TEXT, "private": MIN_PATH, "place": MIN_TEXT}.get(
        kind, MIN_LETTERS
    )


def _names(text: str, ordinary: frozenset[str]) -> Iterator[str]:
    """`Family^Given`: each uncommon part alone; two others in either order with the usual signs between."""
    for group in text.split("="):  # the alphabetic, ideographic and phonetic forms
        for spelled in letters(group):
            yield from _arranged(spelled, ordinary)


def _arranged(group: str, ordinary: frozenset[str]) -> Iterator[str]:
    parts = [part for part in re.split(r"[\^,\s]+", group) if part]
    long = [part for part in parts if len(part) >= 2]
    telling = [
        part for part in long if not part.isascii() or (len(part) >= MIN_LETTERS and part.lower() not in ordinary)
    ]
    yield from telling
    for one, other in permutations(long, 2):
        if len(one) + len(other) >= 2 * MIN_LETTERS:
            yield one + other
        if len(one) + len(other) > MIN_LETTERS:
            yield f"{one}%20{other}"
            if not {one, other} & set(telling):  # else a sign ends the telling one
                yield from (f"{one}{sign}{other}" for sign in ("^", " ", ", ", ",", "_", "-", ".", "+"))
