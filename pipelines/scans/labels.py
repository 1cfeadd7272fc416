"""The label of a scan, as structure ids: one label map, or several masks put together."""

import numpy as np

from pipelines.scans import scan_files, vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.manifest import Row
from pipelines.scans.structure import IGNORED


class Pile:
    """Label maps of one grid, put together: of two that cover a voxel the narrower structure keeps it.

    A mask of the liver may hold its tumour, and a region (`whole_tumour`) all that lies in it. Where neither lies
    within the other the later one keeps the voxel; `disputed` counts these.
    """

    def __init__(self) -> None:
        self._ids: np.ndarray | None = None
        self.disputed = 0

    def add(self, ids: np.ndarray) -> None:
        """`ids`: structure ids, as `LabelContract.to_structures` gives them."""
        if self._ids is None:
            self._ids = ids
            return
        whole = np.promote_types(self._ids.dtype, ids.dtype)
        below, over = self._ids.astype(whole, copy=True), ids.astype(whole, copy=False)
        both = (below != 0) & (over != 0) & (below != over)
        kept = self._below_keeps(below[both], over[both]) if both.any() else np.zeros(0, bool)
        takes = over != 0
        takes[both] = ~kept
        below[takes] = over[takes]
        self._ids = below

    def whole(self) -> np.ndarray:
        assert self._ids is not None
        return self._ids

    def _below_keeps(self, below: np.ndarray, over: np.ndarray) -> np.ndarray:
        words = vocabulary.here()
        keeps = np.zeros(len(below), bool)
        pairs, index, counts = np.unique(np.stack([below, over]), axis=1, return_inverse=True, return_counts=True)
        for number, (one, other) in enumerate(pairs.T.tolist()):
            if IGNORED in (one, other):
                inside, outside = one == IGNORED, other == IGNORED
            else:
                mine, theirs = (words.atoms(words.by_id[each].name) for each in (one, other))
                inside, outside = mine < theirs, theirs < mine
            if inside:
                keeps[index.ravel() == number] = True
            elif not outside:
                self.disputed += int(counts[number])
        return keeps


def read(row: Row) -> np.ndarray:
    """Structure ids (D, H, W) of a labelled row, uint8 or int16. Raises ValueError as contract and file do."""
    pile = Pile()
    for file in row.labels:
        pile.add(contract_of(file.contract).to_structures(scan_files.read(row, file).array))
    return pile.whole()


def nominal_frame(row: Row) -> bool:
    """Do its headers not tell the patient's sides?"""
    return any(contract_of(file.contract).nominal_frame for file in row.labels)
