"""How much of a GPU a product keeps busy: its tiles go to the multiprocessors in waves, and the last one may be short.

A matrix product is cut into tiles of its result, and, where those are fewer than the multiprocessors, along its depth;
flash attention into 128 queries of a head in the forward pass and 128 keys of a head in the backward pass.
"""

from __future__ import annotations

from math import ceil

from model.certificate.operations import Products

TILES = ((128, 128), (128, 64))  # rows and columns of a result; the library takes what suits
DEPTH = 256  # the least that one of several parts sums up


def occupancy(products: Products | None, multiprocessors: int) -> float:
    """In (0, 1]; 1 for what can be cut at will."""
    if products is None:
        return 1.0
    return max(_share(_tiles(products, *tile, multiprocessors), multiprocessors) for tile in TILES)


def _tiles(products: Products, rows: int, columns: int, multiprocessors: int) -> int:
    tiles = products.batch * ceil(products.rows / rows) * ceil(products.columns / columns)
    return tiles * max(1, min(multiprocessors // tiles, products.depth // DEPTH))


def _share(tiles: int, multiprocessors: int) -> float:
    return tiles / (ceil(tiles / multiprocessors) * multiprocessors)
