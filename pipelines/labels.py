"""The structures of the whole system, and each source's label contract.

A source maps its own label values to structures and declares which structures it annotated. Everything else is
*unknown* there, not background: the loss and the evaluation leave it alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np


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
    Structure(11, "kidney_cyst", ("441457006", "Cyst"), (42, 161, 152)),
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
    """What a source's label values mean. `values`: value -> structure name; 0 is background everywhere."""

    values: Mapping[int, str]

    @property
    def annotated(self) -> tuple[str, ...]:
        return tuple(self.values.values())

    def to_structures(self, label: np.ndarray) -> np.ndarray:
        """The source's values -> structure ids, uint8, same shape. Raises ValueError naming values outside it."""
        found = np.unique(label)
        outside = [f"{value:g}" for value in found if value != 0 and value not in self.values]
        if outside:
            allowed = ", ".join(str(value) for value in (0, *self.values))
            raise ValueError(f"label value {', '.join(outside[:5])} outside the contract ({allowed})")
        table = np.zeros(256, dtype=np.uint8)
        for value, name in self.values.items():
            table[value] = BY_NAME[name].id
        return table[label.astype(np.uint8)]

    def from_structures(self, label: np.ndarray) -> np.ndarray:
        """Structure ids -> the source's own values; structures the source does not know become background."""
        table = np.zeros(256, dtype=np.uint8)
        for value, name in self.values.items():
            table[BY_NAME[name].id] = value
        return table[label]


CONTRACTS = {
    "acdc": LabelContract({1: "right_ventricle", 2: "myocardium", 3: "left_ventricle"}),
    "brats": LabelContract({1: "tumour_necrotic_core", 2: "tumour_oedema", 4: "tumour_enhancing"}),
    "kits": LabelContract({1: "kidney", 2: "kidney_tumour", 3: "kidney_cyst"}),
    "msd-hippocampus": LabelContract({1: "hippocampus_anterior", 2: "hippocampus_posterior"}),
}


def structure_ids(names: Iterable[str]) -> list[int]:
    """Ids of structures by name, in the system's order."""
    return sorted(BY_NAME[name].id for name in names)
