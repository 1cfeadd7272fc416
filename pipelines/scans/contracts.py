"""What the values of a source's label maps mean: its label contract.

A source maps its own values to structures and declares by that which structures it annotated. Everything else is
*unknown* there, not background: the loss and the evaluation leave it alone.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.scans import vocabulary
from pipelines.scans.structure import HIGHEST_ID, IGNORED, Structure

HIGHEST_VALUE = 2**24  # of a label: voxels are read as float32, which tells no higher whole numbers apart
WHOLE_WITHIN = 1e-3
IGNORE, BACKGROUND = "ignore", "background"  # what a value can mean beside a structure


@dataclass(frozen=True)
class LabelContract:
    """What a source's label values mean. `values`: value -> structure name; 0 is background everywhere.

    `ignore`: values of voxels that nobody decided on; loss and evaluation leave them out. `background`: values of what
    was drawn and is none of the structures looked for. `nominal_frame`: its headers' sides are not the patient's, and
    are not checked.
    """

    values: Mapping[int, str]
    ignore: tuple[int, ...] = ()
    background: tuple[int, ...] = ()
    nominal_frame: bool = False

    @property
    def annotated(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.values.values()))

    def to_structures(self, label: np.ndarray) -> np.ndarray:
        """The source's values -> structure ids, same shape; uint8, or int16 where ids or IGNORED need it.

        Raises ValueError naming values outside it.
        """
        found, index = _indexed(label)
        known = {*self.values, *self.ignore, *self.background, 0}
        outside = [_spelled(value) for value in found if value not in known]
        if outside:
            allowed = ", ".join(str(value) for value in (0, *self.values, *self.ignore, *self.background))
            raise ValueError(f"label value {', '.join(outside[:5])} outside the contract ({allowed})")
        words = vocabulary.here()
        ids = [self._id(int(value), words) for value in found]
        return np.array(ids, dtype=smallest_type(max(ids, default=0)))[index]

    def _id(self, value: int, words: vocabulary.Vocabulary) -> int:
        if value in self.ignore:
            return IGNORED
        return words[self.values[value]].id if value in self.values else 0

    def from_structures(self, label: np.ndarray, structures: Mapping[str, Structure]) -> np.ndarray:
        """Structure ids -> the source's own values; structures the source does not know become background.

        As small a type as holds every value of the contract. Raises ValueError as `inverse` does.
        """
        return self.inverse(structures)[label]

    def inverse(self, structures: Mapping[str, Structure] | None = None) -> np.ndarray:
        """The own value of every structure id, of `structures` or of the project's.

        A union's value is due to its parts, too, unless one of them has a value of its own. Raises ValueError if two
        values mean one structure.
        """
        words = vocabulary.Vocabulary(structures.values()) if structures is not None else vocabulary.here()
        for name, count in Counter(self.values.values()).items():
            if count > 1:
                values = [value for value, each in self.values.items() if each == name]
                raise ValueError(
                    f"values {', '.join(map(str, values))} all mean {name}, and the network does not tell which of "
                    f"them a voxel is due; give it one, as in {values[0]}={name}"
                )
        table = np.zeros(HIGHEST_ID + 2, dtype=smallest_type(max(self.values)))
        known = {value: name for value, name in self.values.items() if name in words}
        for value, name in sorted(known.items(), key=lambda each: -len(words.atoms(each[1]))):  # the narrower over it
            table[words.covered_ids(name)] = value
        return table

    def spelled(self) -> str:
        """The contract as text, `1=spleen 2=liver 255=ignore`: what the manifest holds."""
        pairs = [f"{value}={name}" for value, name in self.values.items()]
        pairs += [f"{value}={IGNORE}" for value in self.ignore]
        return " ".join([*pairs, *(f"{value}={BACKGROUND}" for value in self.background)])


def smallest_type(highest: int) -> type[np.integer[Any]]:
    """Of a label map with values from 0 to `highest`; those that every viewer reads."""
    return np.uint8 if highest < 2**8 else np.int16 if highest < 2**15 else np.int32


def _indexed(label: np.ndarray) -> tuple[Sequence[float], np.ndarray]:
    """The values of a label map, ascending, and each voxel's place among them. Sorts only what is no small integer.

    Values within 1e-3 of a whole number are that number: a label that was resampled or scaled in floating point.
    """
    if label.min() >= 0 and label.max() < 256 and np.array_equal(whole := label.astype(np.uint8), label):
        found = np.unique(whole)  # bincount would turn every byte into eight
        place: np.ndarray = np.zeros(256, dtype=np.uint8)
        place[found] = np.arange(len(found))
        return found.tolist(), place[whole]
    whole = np.rint(label)
    values, index = np.unique(np.where(np.abs(label - whole) <= WHOLE_WITHIN, whole, label), return_inverse=True)
    return values.tolist(), index.reshape(label.shape)


def _spelled(value: float) -> str:
    """All digits: 0.999 must not be told as 1."""
    return str(int(value)) if value == int(value) else str(np.float32(value))


CONTRACTS = {
    "acdc": LabelContract({1: "right_ventricle", 2: "myocardium", 3: "left_ventricle"}, nominal_frame=True),
    "brats": LabelContract({1: "tumour_necrotic_core", 2: "tumour_oedema", 4: "tumour_enhancing"}),
    "brats23": LabelContract({1: "tumour_necrotic_core", 2: "tumour_oedema", 3: "tumour_enhancing"}),  # and later
    "brats24": LabelContract(  # after treatment
        {1: "tumour_necrotic_core", 2: "tumour_oedema", 3: "tumour_enhancing", 4: "resection_cavity"}
    ),
    "flare22": LabelContract(
        {
            1: "liver",
            2: "kidney_right",
            3: "spleen",
            4: "pancreas",
            5: "aorta",
            6: "inferior_vena_cava",
            7: "adrenal_gland_right",
            8: "adrenal_gland_left",
            9: "gallbladder",
            10: "oesophagus",
            11: "stomach",
            12: "duodenum",
            13: "kidney_left",
        }
    ),
    "kits": LabelContract({1: "kidney", 2: "kidney_tumour", 3: "kidney_cyst"}),
    "lits": LabelContract({1: "liver", 2: "liver_tumour"}),
    "msd-hepaticvessel": LabelContract({1: "liver_vessels", 2: "liver_tumour"}),
    "msd-hippocampus": LabelContract({1: "hippocampus_anterior", 2: "hippocampus_posterior"}),
}
OWN_IDS = "dicom"  # the contract of label maps that hold the system's own ids


def contract_of(name: str) -> LabelContract:
    """The contract of this name, or the one that `name` spells out. Raises ValueError if it is neither."""
    if name in CONTRACTS:
        return CONTRACTS[name]
    words = vocabulary.here()
    if name == OWN_IDS:
        return LabelContract({each.id: each.name for each in words.values()})
    pairs = dict(pair.split("=", 1) for pair in name.split() if re.fullmatch(r"\d+=\w+", pair))
    meant = {int(value): structure for value, structure in pairs.items() if structure not in (IGNORE, BACKGROUND)}
    if not pairs or len(pairs) != len(name.split()) or 0 in meant:
        raise ValueError(
            f"{name!r} is not a label contract; known: {', '.join((*CONTRACTS, OWN_IDS))}, or spell one out: "
            "'1=spleen 2=liver'"
        )
    for structure in meant.values():
        words[structure]  # raises with the nearest name
    if (highest := max(map(int, pairs))) > HIGHEST_VALUE:
        raise ValueError(f"label value {highest} in {name!r} is above {HIGHEST_VALUE}; renumber the labels")
    left_out = {
        what: tuple(int(value) for value, structure in pairs.items() if structure == what)
        for what in (IGNORE, BACKGROUND)
    }
    return LabelContract(meant, left_out[IGNORE], left_out[BACKGROUND])
