"""The structures of the whole system, and each source's label contract.

A source maps its own label values to structures and declares which structures it annotated. Everything else is
*unknown* there, not background: the loss and the evaluation leave it alone.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

HIGHEST_VALUE = 2**24  # of a label: voxels are read as float32, which tells no higher whole numbers apart
WHOLE_WITHIN = 1e-3


@dataclass(frozen=True)
class Structure:
    """One structure: `id` is its value in every label map the system writes; `snomed` is (code, meaning), SCT."""

    id: int
    name: str
    snomed: tuple[str, str]
    colour: tuple[int, int, int]


STRUCTURES = (
    Structure(1, "hippocampus_anterior", ("5366008", "Hippocampus"), (230, 159, 0)),
    Structure(2, "hippocampus_posterior", ("5366008", "Hippocampus"), (86, 180, 233)),
    Structure(3, "right_ventricle", ("53085002", "Right cardiac ventricular structure"), (0, 114, 178)),
    Structure(4, "myocardium", ("74281007", "Myocardium structure"), (0, 158, 115)),
    Structure(5, "left_ventricle", ("87878005", "Left cardiac ventricular structure"), (213, 94, 0)),
    Structure(6, "tumour_necrotic_core", ("6574001", "Necrosis"), (204, 121, 167)),
    Structure(7, "tumour_oedema", ("79654002", "Edema"), (240, 228, 66)),
    Structure(8, "tumour_enhancing", ("108369006", "Neoplasm"), (220, 50, 47)),
    Structure(9, "kidney", ("64033007", "Kidney structure"), (133, 153, 0)),
    Structure(10, "kidney_tumour", ("108369006", "Neoplasm"), (211, 54, 130)),
    Structure(11, "kidney_cyst", ("367643001", "Cyst"), (42, 161, 152)),
    Structure(12, "spleen", ("78961009", "Spleen"), (157, 108, 162)),
    Structure(13, "liver", ("10200004", "Liver"), (221, 130, 101)),
    Structure(14, "liver_tumour", ("108369006", "Neoplasm"), (128, 255, 0)),
    Structure(15, "pancreas", ("15776009", "Pancreas"), (249, 180, 111)),
    Structure(16, "pancreas_tumour", ("108369006", "Neoplasm"), (255, 0, 128)),
    Structure(17, "gallbladder", ("28231008", "Gallbladder"), (139, 150, 98)),
    Structure(18, "stomach", ("69695003", "Stomach"), (216, 132, 216)),
    Structure(19, "duodenum", ("38848004", "Duodenum"), (255, 253, 208)),
    Structure(20, "oesophagus", ("32849002", "Esophagus"), (211, 171, 143)),
    Structure(21, "aorta", ("15825003", "Aorta"), (224, 97, 76)),
    Structure(22, "inferior_vena_cava", ("64131007", "Inferior vena cava"), (0, 151, 206)),
    Structure(23, "adrenal_gland", ("23451007", "Adrenal gland"), (244, 186, 150)),
    Structure(24, "urinary_bladder", ("89837001", "Bladder"), (222, 154, 132)),
    Structure(25, "prostate", ("41216001", "Prostate"), (230, 158, 140)),
    Structure(26, "lung", ("39607008", "Lung"), (172, 138, 115)),
    Structure(27, "left_atrium", ("82471001", "Left atrium"), (80, 200, 255)),
)
BY_NAME = {structure.name: structure for structure in STRUCTURES}

# Unions that the field reports by name. A region is scored where every part of it was annotated.
REGIONS: dict[str, tuple[str, ...]] = {
    "whole_tumour": ("tumour_necrotic_core", "tumour_oedema", "tumour_enhancing"),
    "tumour_core": ("tumour_necrotic_core", "tumour_enhancing"),
    "kidney_and_masses": ("kidney", "kidney_tumour", "kidney_cyst"),
}


@dataclass(frozen=True)
class LabelContract:
    """What a source's label values mean. `values`: value -> structure name; 0 is background everywhere.

    `ignore`: the value of voxels that nobody decided on. A case is annotated as a whole or not, so one that holds such
    voxels is refused. `nominal_frame`: its headers' sides are not the patient's, and are not checked.
    """

    values: Mapping[int, str]
    ignore: int | None = None
    nominal_frame: bool = False

    @property
    def annotated(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.values.values()))

    def to_structures(self, label: np.ndarray) -> np.ndarray:
        """The source's values -> structure ids, uint8, same shape. Raises ValueError naming values outside it."""
        found, index = _indexed(label)
        if self.ignore in found:
            raise ValueError(
                f"label value {self.ignore} marks voxels to ignore; here a case is annotated whole: finish the label"
            )
        outside = [_spelled(value) for value in found if value != 0 and value not in self.values]
        if outside:
            allowed = ", ".join(str(value) for value in (0, *self.values))
            raise ValueError(f"label value {', '.join(outside[:5])} outside the contract ({allowed})")
        ids = [BY_NAME[self.values[int(value)]].id if value else 0 for value in found]
        return np.array(ids, dtype=np.uint8)[index]

    def from_structures(self, label: np.ndarray) -> np.ndarray:
        """Structure ids -> the source's own values; structures the source does not know become background.

        As small a type as holds every value of the contract. Raises ValueError as `inverse` does.
        """
        return self.inverse()[label]

    def inverse(self) -> np.ndarray:
        """The own value of every structure id. Raises ValueError if two values mean one structure."""
        for name, count in Counter(self.values.values()).items():
            if count > 1:
                values = [value for value, each in self.values.items() if each == name]
                raise ValueError(
                    f"values {', '.join(map(str, values))} all mean {name}, and the network does not tell which of "
                    f"them a voxel is due; give it one, as in {values[0]}={name}"
                )
        table = np.zeros(256, dtype=smallest_type(max(self.values)))
        for value, name in self.values.items():
            table[BY_NAME[name].id] = value
        return table

    def spelled(self) -> str:
        """The contract as text, `1=spleen 2=liver`: where a data set brings its own, the manifest holds this."""
        pairs = [f"{value}={name}" for value, name in self.values.items()]
        return " ".join([*pairs, *([f"{self.ignore}={IGNORE}"] if self.ignore is not None else [])])


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


IGNORE = "ignore"
CONTRACTS = {
    "acdc": LabelContract({1: "right_ventricle", 2: "myocardium", 3: "left_ventricle"}, nominal_frame=True),
    "brats": LabelContract({1: "tumour_necrotic_core", 2: "tumour_oedema", 4: "tumour_enhancing"}),
    "kits": LabelContract({1: "kidney", 2: "kidney_tumour", 3: "kidney_cyst"}),
    "dicom": LabelContract({structure.id: structure.name for structure in STRUCTURES}),  # the system's own ids
    "msd-hippocampus": LabelContract({1: "hippocampus_anterior", 2: "hippocampus_posterior"}),
}


def contract_of(name: str) -> LabelContract:
    """The contract of this name, or the one that `name` spells out. Raises ValueError if it is neither."""
    if name in CONTRACTS:
        return CONTRACTS[name]
    pairs = dict(pair.split("=", 1) for pair in name.split() if re.fullmatch(r"\d+=\w+", pair))
    values = {int(value): structure for value, structure in pairs.items() if structure != IGNORE}
    if not values or len(pairs) != len(name.split()) or not set(values.values()) <= set(BY_NAME) or 0 in values:
        raise ValueError(
            f"{name!r} is not a label contract; known: {', '.join(CONTRACTS)}, or spell one out: '1=spleen 2=liver'"
        )
    if (highest := max(map(int, pairs))) > HIGHEST_VALUE:
        raise ValueError(f"label value {highest} in {name!r} is above {HIGHEST_VALUE}; renumber the labels")
    ignored = [int(value) for value, structure in pairs.items() if structure == IGNORE]
    return LabelContract(values, ignored[0] if ignored else None)
