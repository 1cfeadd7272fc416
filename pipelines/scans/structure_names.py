"""What other people call our structures: the labels of a data set by name -> a label contract.

A name counts by its words, in any order and in either spelling (`Tumor, kidney` is `kidney_tumour`). A word that means
nothing alone is tried with the data set's name (`Anterior` in `Hippocampus`) and with its neighbours (`tumor` beside
`liver`). A name that stays unknown is refused: a guess would train a network on the wrong organ.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.scans.structures import BY_NAME, IGNORE, REGIONS, STRUCTURES, LabelContract

_SPELLINGS = {
    "tumor": "tumour", "tumors": "tumour", "tumours": "tumour", "cancer": "tumour", "neoplasm": "tumour",
    "edema": "oedema", "esophagus": "oesophagus", "renal": "kidney", "kidneys": "kidney", "lungs": "lung",
    "hepatic": "liver", "pancreatic": "pancreas", "glands": "gland", "cysts": "cyst", "peritumoral": "tumour",
    "peritumoural": "tumour", "necrosis": "necrotic", "hippocampal": "hippocampus", "l": "left", "r": "right",
}  # fmt: skip
_EMPTY_WORDS = {"and", "of", "the", "structure", "organ", "label", "mask"}

_ALIASES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in BY_NAME},
    **REGIONS,
    "rv": ("right_ventricle",), "rv cavity": ("right_ventricle",), "rvc": ("right_ventricle",),
    "lv": ("left_ventricle",), "lv cavity": ("left_ventricle",), "lvc": ("left_ventricle",),
    "myo": ("myocardium",), "mlv": ("myocardium",), "lv myocardium": ("myocardium",),
    "wt": REGIONS["whole_tumour"], "tc": REGIONS["tumour_core"],
    "et": ("tumour_enhancing",), "enhancing": ("tumour_enhancing",), "enhancing tumour core": ("tumour_enhancing",),
    "ed": ("tumour_oedema",), "oedema": ("tumour_oedema",),
    "ncr": ("tumour_necrotic_core",), "ncr net": ("tumour_necrotic_core",), "necrotic": ("tumour_necrotic_core",),
    "necrotic core": ("tumour_necrotic_core",), "non enhancing tumour": ("tumour_necrotic_core",),
    "masses": ("kidney_tumour", "kidney_cyst"),
    "postcava": ("inferior_vena_cava",), "ivc": ("inferior_vena_cava",), "bladder": ("urinary_bladder",),
    "adrenal": ("adrenal_gland",), "gall bladder": ("gallbladder",), "prostate uterus": ("prostate",),
}  # fmt: skip
PAIRED = {"kidney", "adrenal_gland", "lung"}
_KIDNEY, _BRAIN = frozenset({"64033007", "18639004", "9846003"}), frozenset({"12738006", "83678007", "119235005"})
_LIVER, _PANCREAS = frozenset({"10200004"}), frozenset({"15776009"})
_ORGANS = {  # of findings, whose codes (cyst, edema, necrosis, neoplasm) say nothing of where they are
    "kidney_tumour": _KIDNEY, "kidney_cyst": _KIDNEY, "liver_tumour": _LIVER, "pancreas_tumour": _PANCREAS,
    "tumour_necrotic_core": _BRAIN, "tumour_oedema": _BRAIN, "tumour_enhancing": _BRAIN,
}  # fmt: skip
_FINDINGS = ({"oedema"}, {"necrotic"}, {"enhancing"})  # names that say as little


def contract_by_name(labels: Mapping[str, Any], dataset: str) -> LabelContract:
    """`labels`: name -> value, or -> values of a region (nnU-Net's regions). `dataset`: its name, for context.

    Raises ValueError naming every label that is unknown, ambiguous, or one side of a pair whose other side is missing.
    """
    values = {name: _values(name, given) for name, given in labels.items()}
    ignore = next((found[0] for name, found in values.items() if _words(name) == {IGNORE}), None)
    named = {name: found for name, found in values.items() if _words(name) not in ({IGNORE}, {"background"})}
    if any(0 in found for found in named.values()):
        raise ValueError("a structure has label value 0, which is background")
    meanings = {name: _meaning(name, dataset, [other for other in named if other != name]) for name in named}
    if unknown := [name for name, meaning in meanings.items() if not meaning]:
        close = difflib.get_close_matches(unknown[0].lower(), BY_NAME, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"no structure of the system is called {', '.join(map(repr, unknown[:5]))}; {hint}Rename it, or add the "
            "structure to pipelines/scans/structures.py or the name to pipelines/scans/structure_names.py"
        )
    _check_pairs(named, meanings)
    overlap = any(isinstance(labels[name], list | tuple) for name in named)
    contract = _by_regions(named, meanings) if overlap else {named[name][0]: meanings[name] for name in named}
    return LabelContract({value: _single(value, contract[value]) for value in sorted(contract)}, ignore)


def structure_of(code: str, name: str, region: str = "") -> str | None:
    """The structure that a DICOM segment or region means, by its name, else by its SNOMED CT code; None if it has none.

    The name goes first because codes are coarser: both parts of the hippocampus share one. A code decides only if a
    single structure has it, and a finding's only with its organ. `region`: SNOMED CT code of that organ, if stated.
    """
    words = _words(name)
    if len(meaning := _known(words)) == 1 and (words not in _FINDINGS or region in _ORGANS[meaning[0]]):
        return meaning[0]
    coded = [each.name for each in STRUCTURES if each.snomed[0] == code and region in _ORGANS.get(each.name, (region,))]
    return coded[0] if len(coded) == 1 else None


def side_of(name: str) -> str:
    """`left` or `right` if the name says one of them, else nothing."""
    sides = sorted(_words(name) & {"left", "right"})
    return sides[0] if len(sides) == 1 else ""


def _values(name: str, given: Any) -> list[int]:
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found or not all(type(value) is int and 0 <= value < 2**31 for value in found):
        raise ValueError(f"label {name!r} has value {given!r}; whole numbers from 0 on are due")
    return found


def _words(name: str) -> frozenset[str]:
    words = re.findall(r"[a-z]+|\d+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return frozenset(_SPELLINGS.get(word, word) for word in words) - _EMPTY_WORDS


_BY_WORDS = {_words(alias): meaning for alias, meaning in _ALIASES.items()}


def _meaning(name: str, dataset: str, others: Iterable[str]) -> tuple[str, ...]:
    """The structures that a name covers; none if it is unknown or could be several things."""
    own = _words(name)
    neighbours = {frozenset({word}) for other in others for word in _words(other)}
    for contexts in ([frozenset[str]()], [_words(dataset)], neighbours):
        found = {meaning for context in contexts if (meaning := _known(own | context))}
        if found:
            return found.pop() if len(found) == 1 else ()
    return ()


def _known(words: frozenset[str]) -> tuple[str, ...]:
    if words in _BY_WORDS:
        return _BY_WORDS[words]
    one_side = _BY_WORDS.get(words - {"left", "right"}, ())
    return one_side if set(one_side) & PAIRED and len(words & {"left", "right"}) == 1 else ()


def _check_pairs(named: Mapping[str, list[int]], meanings: Mapping[str, tuple[str, ...]]) -> None:
    """A structure here is both organs of a pair: with one side only, the other would count as background."""
    for structure in PAIRED:
        sides = {side for name in named if meanings[name] == (structure,) for side in _words(name) & {"left", "right"}}
        if len(sides) == 1:
            raise ValueError(f"{structure} is annotated on the {sides.pop()} only; the other side would be background")


def _by_regions(named: Mapping[str, list[int]], meanings: Mapping[str, tuple[str, ...]]) -> dict[int, tuple[str, ...]]:
    """Value -> what all regions around it share and no other region has.

    A region means what the regions inside it mean, too: KiTS calls `kidney` the kidney with its masses.
    """
    inside = {
        name: set().union(*(meanings[other] for other in named if set(named[other]) <= set(named[name])))
        for name in named
    }
    result = {}
    for value in sorted({value for found in named.values() for value in found}):
        within = [inside[name] for name in named if value in named[name]]
        without = [inside[name] for name in named if value not in named[name]]
        result[value] = tuple(sorted(set.intersection(*within).difference(*without)))
    return result


def _single(value: int, meaning: tuple[str, ...]) -> str:
    if len(meaning) != 1:
        covers = ", ".join(meaning) or "no structure that its regions agree on"
        raise ValueError(f"label value {value} covers {covers}; one value must be one structure")
    return meaning[0]
