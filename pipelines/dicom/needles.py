"""Identifying values -> byte strings to look for, in all their usual spellings, and the search for all of them at once.

A value is left out, and counted, where it cannot be told from chance: the rules are in `_worth`. Letters are compared
without case, in UTF-8, Latin-1 and UTF-16. The search is one pass of an Aho-Corasick automaton (ahocorasick_rs) over
the bytes, whatever the number of values.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import permutations

from ahocorasick_rs import BytesAhoCorasick, MatchKind

from pipelines.dicom.identity import Value

MIN_LETTERS = 5  # of a name's part or an id; shorter ones occur by chance
MIN_DIGITS = 7  # of an id of digits alone
MIN_PATH = 8  # of a folder's or file's name
MIN_TEXT = 6
_RANKS = ("name", "id", "uid", "date", "place", "device", "private", "text", "path")  # a spelling of two is the first's
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WORD, _DIGIT = re.compile(rb"[a-z0-9]"), re.compile(rb"[0-9.]")


@dataclass(frozen=True)
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
            spelled = list(_spellings(value, ordinary, since))
            if not spelled:
                self.left_out[value.kind] += 1
            for text in spelled:
                for spelling in _encoded(text, wide=value.kind in ("name", "id")):
                    whole = len(text) < 12 or text.isdigit()
                    found.setdefault(spelling, Needle(value.kind, spelling, whole))
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
    touching = _DIGIT if needle.spelling.isdigit() else _WORD
    before, after = content[max(0, start - 1) : start], content[end : end + 1]
    return not touching.match(before) and not (after != b"." and touching.match(after))


def _spellings(value: Value, ordinary: frozenset[str], since: date) -> Iterator[str]:
    text = value.text
    if value.kind == "name":
        yield from _names(text, ordinary)
    elif value.kind == "date":
        yield from _dates(text, since)
    elif _worth(value.kind, text, ordinary):
        yield text


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
    """`Family^Given`: any two parts in either order with the usual signs between, and each uncommon part alone."""
    for group in text.split("="):  # the alphabetic, ideographic and phonetic forms
        parts = [part for part in re.split(r"[\^,\s]+", group) if part]
        long = [part for part in parts if len(part) >= 2]
        for one, other in permutations(long, 2):
            if len(one) + len(other) >= MIN_LETTERS + 1:
                yield from (f"{one}{sign}{other}" for sign in ("^", " ", ", ", ",", "_", "-", ".", "%20", "+"))
                if len(one) + len(other) >= 2 * MIN_LETTERS:
                    yield one + other
        yield from (part for part in long if len(part) >= MIN_LETTERS and part.lower() not in ordinary)
        yield from (part for part in long if not part.isascii())


def _dates(text: str, since: date) -> Iterator[str]:
    """All usual spellings; of a date in the life of the project not the one that its own time stamps have."""
    digits = text.replace(".", "")[:8]
    try:
        day = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return
    if day <= date(1900, 1, 1):  # a dummy
        return
    year, month, number, name = f"{day:%Y}", f"{day:%m}", f"{day:%d}", _MONTHS[day.month - 1]
    yield f"{year}{month}{number}"
    for sign in (".", "/", "-"):
        yield f"{number}{sign}{month}{sign}{year}"
        yield f"{month}{sign}{number}{sign}{year}"
        if day < since or sign == ".":
            yield f"{year}{sign}{month}{sign}{number}"
    yield f"{day.day} {name} {year}"
    yield f"{number}-{name}-{year}"
    yield f"{name} {day.day}, {year}"


def _encoded(text: str, wide: bool) -> set[bytes]:
    forms = {text, text.lower(), text.upper(), text.title()}
    result = {form.encode("utf-8", "surrogateescape").lower() for form in forms}
    if not text.isascii():
        result |= {
            form.encode("latin-1", "ignore").lower() for form in forms if len(form.encode("latin-1", "ignore")) > 4
        }
    if wide:
        result |= {form.encode("utf-16-le", "surrogatepass").lower() for form in forms}
    return result
