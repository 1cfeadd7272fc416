"""How a case file stores voxels: in bricks of 8^3, a byte a voxel or less, so that a random patch is few short reads.

    encoded = encode(image_CDHW, np.float32)         # plain arrays, to be stored by name
    bricks = Bricks(shape_CDHW, **encoded)           # the same arrays, memory-mapped
    patch = bricks[:, 10:138, 40:168, 300:428]       # decodes the bricks that the patch touches

A voxel is `low + step * code`, with one `low` and one `step` a brick: a constant brick has no codes, a brick of two
values has one bit a voxel, any other one byte. Labels (uint8) come back exactly. A real number is off by at most
1/510 of the range of values within its own brick. That is little beside a scan's noise: a brick's range holds at least
the noise of 512 voxels, some 6 standard deviations, so where there is nothing but noise the error's deviation is
6 / (255 sqrt(12)) = 0.7 % of the noise's.

Bricks that lie close together in space lie close together in the file (blocks of 4^3): 16 KB to 32 KB a read.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

BRICK = 8  # voxels per axis
BLOCK = 4  # bricks per axis that are stored together
CODES = BRICK**3
PARTS = ("index", "low", "step", "codes", "bits")
PAGE = mmap.PAGESIZE
WORTH_ASKING_AHEAD = 1 << 20  # bytes of codes; below, the kernel's own reading ahead has fetched the file already


class Bricks:
    """An array of three spatial axes, and any before them, that is decoded where it is sliced.

    Slices (of step 1) and whole numbers select, as in numpy; what comes back is an array of its own. `index`: 0 for a
    constant brick, n > 0 for row n of `codes`, n < 0 for row -n of `bits`. `file`: the memory map that holds the codes.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        index: np.ndarray,
        low: np.ndarray,
        step: np.ndarray,
        codes: np.ndarray,
        bits: np.ndarray,
        file: mmap.mmap | None = None,
    ) -> None:
        self.shape, self.dtype = shape, low.dtype
        self.index, self.low, self.step, self.codes, self.bits = index, low, step, codes, bits
        self.file = file if codes.nbytes + bits.nbytes > WORTH_ASKING_AHEAD else None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[...].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, key: Any) -> np.ndarray:
        key = key if isinstance(key, tuple) else (key,)
        if Ellipsis in key:
            at = key.index(Ellipsis)
            key = (*key[:at], *[slice(None)] * (len(self.shape) - len(key) + 1), *key[at + 1 :])
        key += (slice(None),) * (len(self.shape) - len(key))
        single = tuple(axis for axis, part in enumerate(key) if not isinstance(part, slice))
        bounds = [_bounds(part, size) for part, size in zip(key, self.shape, strict=True)]
        return self._decode(bounds).squeeze(single) if single else self._decode(bounds)

    def _decode(self, bounds: list[tuple[int, int]]) -> np.ndarray:
        if any(low == high for low, high in bounds):
            return np.zeros([high - low for low, high in bounds], self.dtype)
        box = self._bricks_of(bounds)
        index = self.index[box]
        *outer, depth, height, width = index.shape
        codes = self._codes(index.ravel()).view(np.int64)  # rows of a brick move as one number
        codes = codes.reshape(-1, depth, height, width, BRICK, BRICK).transpose(0, 1, 4, 2, 5, 3)
        codes = np.ascontiguousarray(codes).reshape(-1, BRICK, height * BRICK, width).view(np.uint8)
        values = np.empty(codes.shape, self.dtype)
        for layer, code, step, low in zip(
            values, codes, _over_voxels(self.step[box]), _over_voxels(self.low[box]), strict=True
        ):  # a layer at a time stays in the processor's cache
            layer[...] = code
            layer *= step
            layer += low
        d, h, w = (within_bricks(slice(low, high)) for low, high in bounds[-3:])
        return values.reshape(*outer, depth * BRICK, height * BRICK, width * BRICK)[..., d, h, w]

    def _codes(self, index: np.ndarray) -> np.ndarray:
        rows, binary = np.maximum(index, 0), np.flatnonzero(index < 0)
        self._ask_ahead_codes(rows, -index[binary])
        codes = np.take(self.codes, rows, axis=0)
        if binary.size:
            codes[binary] = np.unpackbits(self.bits[-index[binary]], axis=1)
        return codes

    def cut(self, box: Sequence[slice]) -> dict[str, np.ndarray]:
        """The bricks that a box touches, as they are stored, for model/data/payload.py to decode elsewhere.

        `rows` (..., d, h, w) int32: of every brick 0 if it is constant, else its row among those of `codes` and, after
        them, `bits`. `low` and `step`: likewise.
        """
        bounds = [_bounds(part, size) for part, size in zip(box, self.shape, strict=True)]
        at = self._bricks_of(bounds)
        index = self.index[at]
        whole, binary = index > 0, index < 0
        self._ask_ahead_codes(index[whole], -index[binary])
        rows = np.zeros(index.shape, np.int32)
        rows[whole] = np.arange(1, 1 + whole.sum())
        rows[binary] = np.arange(1 + whole.sum(), 1 + whole.sum() + binary.sum())
        codes, bits = np.take(self.codes, index[whole], axis=0), np.take(self.bits, -index[binary], axis=0)
        return {"rows": rows, "low": self.low[at], "step": self.step[at], "codes": codes, "bits": bits}

    def _bricks_of(self, bounds: list[tuple[int, int]]) -> tuple[slice, ...]:
        if self.file is not None:
            self._ask_ahead(self.file, [self.index, self.low, self.step])
        before = (slice(low, high) for low, high in bounds[:-3])
        return (*before, *(slice(low // BRICK, -(-high // BRICK)) for low, high in bounds[-3:]))

    def _ask_ahead_codes(self, whole: np.ndarray, binary: np.ndarray) -> None:
        if self.file is not None:
            self._ask_ahead(self.file, [self.codes[low:high] for low, high in _runs(whole, CODES)])
            self._ask_ahead(self.file, [self.bits[low:high] for low, high in _runs(binary, CODES // 8)])

    @staticmethod
    def _ask_ahead(file: mmap.mmap, parts: list[np.ndarray]) -> None:
        """Have the kernel read all of them at once, not one page fault after the other: 3 times faster from a disk."""
        base = _address(np.frombuffer(file, np.uint8, 1))
        for part in parts:
            start = _address(part) - base
            file.madvise(mmap.MADV_WILLNEED, start // PAGE * PAGE, start % PAGE + part.nbytes)


def within_bricks(part: slice) -> slice:
    """Where a slice of an axis lies among the voxels of the bricks that it touches."""
    return slice(part.start % BRICK, part.start % BRICK + part.stop - part.start)


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _runs(rows: np.ndarray, row_bytes: int) -> list[tuple[int, int]]:
    """First row and end of the runs that `rows` form; gaps of less than two pages are read along."""
    rows = np.sort(rows)
    if not rows.size:
        return []
    gaps = np.flatnonzero(np.diff(rows) > 2 * PAGE // row_bytes)
    return list(zip(rows[np.r_[0, gaps + 1]].tolist(), (rows[np.r_[gaps, -1]] + 1).tolist(), strict=True))


def encode(array: np.ndarray, dtype: type) -> dict[str, np.ndarray]:
    """What `Bricks` takes, by name. `array` has at least three axes; `dtype` is np.float32 or np.uint8.

    Raises ValueError if a value is not finite.
    """
    *outer, depth, height, width = array.shape
    grid = (*outer, *(-(-size // BRICK) for size in (depth, height, width)))
    tables = {"index": np.zeros(grid, np.int32), "low": np.zeros(grid, dtype), "step": np.zeros(grid, dtype)}
    codes, bits = [np.zeros((1, CODES), np.uint8)], [np.zeros((1, CODES // 8), np.uint8)]
    rows = [1, 1]
    for position in np.ndindex(*outer):
        for start in range(0, grid[-3], BLOCK):
            layers: np.ndarray = array[position][start * BRICK : (start + BLOCK) * BRICK].astype(dtype, copy=False)
            bricks, order = _in_blocks(_cut(layers))
            *columns, new_codes, new_bits = _encode_bricks(bricks, rows)
            for table, column in zip(tables.values(), columns, strict=True):
                table[position][start : start + BLOCK].reshape(-1)[order] = column
            codes.append(new_codes)
            bits.append(new_bits)
            rows = [rows[0] + len(new_codes), rows[1] + len(new_bits)]
    return {**tables, "codes": np.concatenate(codes), "bits": np.concatenate(bits)}


def _cut(layers: np.ndarray) -> np.ndarray:
    """(D, H, W) -> (d, h, w, 8^3); what the last bricks have beyond the array repeats its border."""
    whole = np.pad(layers, [(0, -size % BRICK) for size in layers.shape], mode="edge")
    d, h, w = (size // BRICK for size in whole.shape)
    bricks = whole.reshape(d, BRICK, h, BRICK, w, BRICK).transpose(0, 2, 4, 1, 3, 5)
    return bricks.reshape(d, h, w, CODES)


def _in_blocks(bricks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bricks of up to BLOCK layers, one a row, block by block, and where in the layers they come from."""
    _, height, width, _ = bricks.shape
    block = np.arange(height)[:, None] // BLOCK * width + np.arange(width) // BLOCK
    order = np.argsort(np.broadcast_to(block, bricks.shape[:3]).ravel(), kind="stable")
    return bricks.reshape(-1, CODES)[order], order


def _encode_bricks(bricks: np.ndarray, rows: list[int]) -> tuple[np.ndarray, ...]:
    """index, low, step of every brick; codes and bits of those that need them, which will be rows from `rows` on."""
    low, high = bricks.min(axis=1), bricks.max(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        step = high - low
    if not np.isfinite(step).all():
        raise ValueError("voxels that are NaN or infinite cannot be stored; mend or remove the scan")
    varied = np.flatnonzero(step > 0)
    lows, highs, voxels = low[varied, None], high[varied, None], bricks[varied]
    at_top = voxels == highs
    binary = (at_top | (voxels == lows)).all(axis=1)
    index = np.zeros(len(bricks), np.int32)
    index[varied[binary]] = -np.arange(rows[1], rows[1] + binary.sum())
    index[varied[~binary]] = np.arange(rows[0], rows[0] + (~binary).sum())
    many = varied[~binary]
    if bricks.dtype == np.uint8:
        low[many], step[many] = 0, 1
        codes = voxels[~binary]
    else:
        step[many] /= 255
        codes = np.rint((voxels[~binary] - lows[~binary]) / step[many, None]).astype(np.uint8)
    return index, low, step, codes, np.packbits(at_top[binary], axis=1)


def _over_voxels(table: np.ndarray) -> np.ndarray:
    """(..., d, h, w) -> layers (n, 8 h, 8 w)"""
    return table.repeat(BRICK, -2).repeat(BRICK, -1).reshape(-1, table.shape[-2] * BRICK, table.shape[-1] * BRICK)


def _bounds(part: Any, size: int) -> tuple[int, int]:
    if isinstance(part, slice):
        low, high, step = part.indices(size)
        if step != 1:
            raise ValueError(f"slices of step {step} are not supported; take step 1 and then every {step}-th voxel")
        return low, max(low, high)
    low = int(part) + (size if part < 0 else 0)
    if not 0 <= low < size:
        raise IndexError(f"index {int(part)} is outside an axis of {size}")
    return low, low + 1
