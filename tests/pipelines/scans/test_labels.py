"""Several masks become one label: the narrower structure keeps a voxel, and a dispute is counted."""

import numpy as np

from pipelines.scans import vocabulary
from pipelines.scans.contracts import contract_of
from pipelines.scans.labels import Pile
from pipelines.scans.structure import IGNORED

WORDS = vocabulary.default()
WHOLE, CORE, ENHANCING = (np.arange(6) < count for count in (6, 4, 2))


def piled(*masks: tuple[str, np.ndarray]) -> Pile:
    pile = Pile()
    for contract, mask in masks:
        pile.add(contract_of(contract).to_structures(mask.astype(np.uint8)))
    return pile


def names(pile: Pile) -> list[str]:
    return [WORDS.by_id[value].name if value else "" for value in pile.whole().tolist()]


def test_regions_lie_over_each_other_in_any_order() -> None:
    masks = [("1=whole_tumour", WHOLE), ("1=tumour_core", CORE), ("1=tumour_enhancing", ENHANCING)]
    expected = ["tumour_enhancing"] * 2 + ["tumour_core"] * 2 + ["whole_tumour"] * 2
    for order in (masks, masks[::-1], [masks[1], masks[2], masks[0]]):
        assert names(piled(*order)) == expected
        assert piled(*order).disputed == 0


def test_a_dispute_is_counted_and_the_later_mask_has_the_voxels() -> None:
    pile = piled(("1=liver", WHOLE), ("1=spleen", ENHANCING))
    assert names(pile) == ["spleen"] * 2 + ["liver"] * 4
    assert pile.disputed == 2


def test_what_nobody_decided_on_lies_over_everything() -> None:
    for order in ((0, 1), (1, 0)):
        masks = [("1=liver", WHOLE), ("1=ignore", CORE)]
        assert piled(*(masks[at] for at in order)).whole().tolist() == [IGNORED] * 4 + [13, 13]
