"""Label values to structures and back: nothing wraps, nothing is guessed, and what is told has all its digits."""

import numpy as np
import pytest

from pipelines.scans import vocabulary
from pipelines.scans.contracts import CONTRACTS, contract_of
from pipelines.scans.volume import write_label

TWO = contract_of("1=kidney 2=spleen")
WORDS = vocabulary.default()


def test_values_that_floating_point_left_beside_a_whole_number_are_that_number() -> None:
    almost = np.array([[[0, 1 - 2**-24, 2 + 9e-4]]], np.float32)
    np.testing.assert_array_equal(TWO.to_structures(almost), [[[0, 9, 12]]])


def test_other_values_are_told_with_all_their_digits() -> None:
    with pytest.raises(ValueError, match=r"label value 0\.9985, 300 outside the contract \(0, 1, 2\)"):
        TWO.to_structures(np.array([[[0, 0.9985, 300]]], np.float32))


@pytest.mark.parametrize(("highest", "dtype"), [(2, np.uint8), (255, np.uint8), (256, np.int16), (2**24, np.int32)])
def test_own_values_come_back_in_a_type_that_holds_them(highest: int, dtype: type) -> None:
    written = contract_of(f"1=kidney {highest}=spleen").from_structures(np.array([[[0, 9, 12]]], np.uint8), WORDS)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, [[[0, 1, highest]]])


def test_a_structure_of_two_values_has_no_way_back() -> None:
    with pytest.raises(ValueError, match=r"values 1, 2 all mean kidney.*give it one, as in 1=kidney"):
        contract_of("1=kidney 2=kidney 3=spleen").from_structures(np.zeros((1, 1, 1), np.uint8), WORDS)
    assert all(contract.inverse() is not None for contract in CONTRACTS.values())


def test_a_label_map_is_never_cast(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="a label map of int64 is not written"):
        write_label(tmp_path, np.full((2, 2, 2), 256), np.eye(4))  # type: ignore[arg-type]


def test_labels_through_every_contract_and_back_are_themselves() -> None:
    for contract in CONTRACTS.values():
        label = np.array([[[0, *contract.values]]], np.uint8)
        np.testing.assert_array_equal(contract.from_structures(contract.to_structures(label), WORDS), label)
