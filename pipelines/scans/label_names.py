"""What other people call our structures: the labels of a data set by name -> a label contract.

A name counts by its words, in any order and in either spelling (`Tumor, kidney` is `kidney_tumour`). A word that means
nothing alone is tried with the data set's name (`Anterior` in `Hippocampus`) and with its neighbours (`tumor` beside
`liver`). A name that stays unknown is refused: a guess would train a network on the wrong organ. What it means can be
said in params.yaml, data.labels, and goes before all that is found here.
"""

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.scans import vocabulary
from pipelines.scans.contracts import BACKGROUND, IGNORE, LabelContract, contract_of
from pipelines.scans.structure import words_of
from pipelines.scans.vocabulary import Vocabulary

# SNOMED CT codes of a side or part of an organ, as regions of findings -> the organ's.
_WHOLE_ORGAN = {
    "18639004": "64033007", "9846003": "64033007",  # kidneys
    "83678007": "12738006", "119235005": "12738006",  # cerebrum, part of the brain
    "44029006": "39607008", "3341006": "39607008",  # lungs
}  # fmt: skip
_FINDINGS = ({"oedema"}, {"necrotic"}, {"enhancing"}, {"cyst"}, {"tumour"}, {"lesion"})  # names that say as little
Meanings = Mapping[str, Mapping[str, str]]  # params.yaml, data.labels: source -> name or value -> what it means


class UnknownLabelsError(ValueError):
    """Labels that nobody can tell the meaning of. `proposals`: name -> the structure it comes nearest to, or
    background."""

    def __init__(self, text: str, proposals: Mapping[str, str]) -> None:
        super().__init__(text)
        self.proposals = proposals


def contract_by_name(labels: Mapping[str, Any], dataset: str, own: Mapping[str, str] | None = None) -> LabelContract:
    """`labels`: name -> value, or -> values of a region (nnU-Net's regions). `dataset`: its name, for context.

    `own`: name or value -> a structure, `ignore` or `background`. Raises ValueError naming every label that is unknown
    or ambiguous, with what to put into params.yaml.
    """
    words, own = vocabulary.here(), own or {}
    values = {name: _values(name, given) for name, given in labels.items()}
    told = {name: _told(name, values[name], own, words) for name in labels}
    ignored = [name for name in labels if told[name] == IGNORE]
    named = {name: found for name, found in values.items() if told[name] not in (IGNORE, BACKGROUND)}
    if any(0 in found for found in named.values()):
        raise ValueError("a structure has label value 0, which is background")
    meanings = {
        name: told[name] or _meaning(words, name, dataset, [other for other in named if other != name])
        for name in named
    }
    if unknown := [name for name, meaning in meanings.items() if not meaning]:
        raise _unknown(unknown, words)
    overlap = any(isinstance(labels[name], list | tuple) for name in named)
    contract = (
        _by_regions(words, named, meanings) if overlap else {named[name][0]: str(meanings[name]) for name in named}
    )
    background = [value for name in labels if told[name] == BACKGROUND for value in values[name] if value]
    return LabelContract(
        dict(sorted(contract.items())),
        tuple(value for name in ignored for value in values[name]),
        tuple(value for value in background if value not in contract),
    )


def contract_by_value(own: Mapping[str, str]) -> LabelContract:
    """Of labels that bear no names. Raises ValueError if `own`, value -> meaning, says nothing of them."""
    values = {value: int(value) for value in own if value.isdigit()}
    if not any(values.values()):
        raise ValueError(
            "nothing says what its values mean; say it in params.yaml, data.labels: {SOURCE: {1: a structure}}"
        )
    return contract_by_name(values, "", own)


def restated(contract: str, own: Mapping[str, str]) -> str:
    """A layout's own contract, by name, with what data.labels says otherwise of single values or structures."""
    if not own:
        return contract
    pairs = [pair.split("=") for pair in contract_of(contract).spelled().split()]
    meant = {int(value): own.get(name, name) for value, name in pairs}
    meant |= {int(value): name for value, name in own.items() if value.isdigit() and int(value)}
    return " ".join(f"{value}={name}" for value, name in sorted(meant.items()))


def structure_of(code: str, name: str, region: str = "", side: str = "") -> str | None:
    """The structure that a DICOM segment or region means, by its name, else by its SNOMED CT code; None if it has none.

    The name goes first because codes are coarser. A code decides only if a single structure has it; that of a finding,
    such as a cyst, says nothing without `region`, the code of the organ it lies in. `side`: left or right, where a
    modifier says so.
    """
    words, called, organ = vocabulary.here(), words_of(name), _WHOLE_ORGAN.get(region, region)
    found = (side and words.known(called | {side})) or words.known(called)
    if found and (called not in _FINDINGS or organ == getattr(words[found].region, "value", None)):
        return found
    coded = [each for each in words.values() if each.type.value == code]
    if any(each.region is not None for each in coded):
        coded = [each for each in coded if each.region is not None and each.region.value in (region, organ)]
    whole = [each for each in coded if each.laterality in ((side,) if side else ("", "both")) and each.modifier is None]
    return (whole or coded)[0].name if len(whole or coded) == 1 else None


def side_of(name: str) -> str:
    """`left` or `right` if the name says one of them, else nothing."""
    sides = sorted(words_of(name) & {"left", "right"})
    return sides[0] if len(sides) == 1 else ""


def of_source(meanings: Meanings, source: str) -> Mapping[str, str]:
    """What data.labels says of a source, else of its layout."""
    return meanings.get(source) or meanings.get(source.partition("-")[0]) or {}


def _values(name: str, given: Any) -> list[int]:
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found or not all(type(value) is int and 0 <= value < 2**31 for value in found):
        raise ValueError(f"label {name!r} has value {given!r}; whole numbers from 0 on are due")
    return found


def _told(name: str, values: list[int], own: Mapping[str, str], words: Vocabulary) -> str | None:
    """What the parameters say of a label, by its name or its value, or what its name says by itself."""
    meant = own.get(name) or (own.get(str(values[0])) if len(values) == 1 else None)
    if meant is not None and meant not in (IGNORE, BACKGROUND):
        words[meant]  # raises with the nearest name
    if meant is None and words_of(name) == {IGNORE}:
        return IGNORE
    return BACKGROUND if meant is None and words_of(name) == {BACKGROUND} else meant


def _meaning(words: Vocabulary, name: str, dataset: str, others: Iterable[str]) -> str | None:
    """The structure that a name means; None if it is unknown or could be several things."""
    own = words_of(name)
    neighbours = {frozenset({word}) for other in others for word in words_of(other)}
    for contexts in ([frozenset[str]()], [words_of(dataset)], neighbours):
        found = {meaning for context in contexts if (meaning := words.known(own | context))}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _unknown(names: list[str], words: Vocabulary) -> UnknownLabelsError:
    """Which they are, and the line for params.yaml, ready to paste."""
    proposals = {}
    for name in names:
        close = difflib.get_close_matches("_".join(name.lower().split()), words, n=1, cutoff=0.75)
        proposals[name] = close[0] if close else BACKGROUND
    lines = ", ".join(f"{json.dumps(name)}: {meaning}" for name, meaning in list(proposals.items())[:20])
    text = (
        f"no structure is called {', '.join(map(repr, names[:5]))}{', ...' if len(names) > 5 else ''}; say in "
        f"params.yaml what is meant, data.labels: {{SOURCE: {{{lines}}}}} (a structure, background or ignore), or "
        "declare one with `medseg structures add`"
    )
    return UnknownLabelsError(text, proposals)


def _by_regions(
    words: Vocabulary, named: Mapping[str, list[int]], meanings: Mapping[str, str | None]
) -> dict[int, str]:
    """Value -> what all regions around it share and no other region has.

    A region means what the regions inside it mean, too: KiTS calls `kidney` the kidney with its masses.
    """
    atoms = {name: words.atoms(str(meanings[name])) for name in named}
    inside = {
        name: frozenset().union(*(atoms[other] for other in named if set(named[other]) <= set(named[name])))
        for name in named
    }
    result = {}
    for value in sorted({value for found in named.values() for value in found}):
        within = [inside[name] for name in named if value in named[name]]
        without = [inside[name] for name in named if value not in named[name]]
        result[value] = _single(words, value, frozenset.intersection(*within).difference(*without))
    return result


def _single(words: Vocabulary, value: int, atoms: frozenset[str]) -> str:
    meant = [name for name in words if words.atoms(name) == atoms] if atoms else []
    if not meant:
        covers = ", ".join(sorted(atoms)) or "no structure that its regions agree on"
        raise ValueError(f"label value {value} covers {covers}; one value must be one structure")
    return meant[0]
