"""What a file holds, as pieces of bytes to search: the bytes as they lie there, and what is packed inside them.

Opened are gzip, bzip2, xz and zip by their magic numbers (also in each other, PACKED_DEPTH deep), SQLite databases row
by row (a long value lies scattered over pages), Parquet column by column, and zlib streams in PDF and PNG. A packed
file that is damaged is searched as it lies there. Nothing is unpacked to disk.
"""

import bz2
import gzip
import lzma
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

PIECE = 1 << 24
PACKED_DEPTH = 3
_UNREADABLE = (
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    zipfile.BadZipFile,
    RuntimeError,
    NotImplementedError,
)
_UNPACKERS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file, mode="rb")),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)


def pieces(path: Path, overlap: int) -> Iterator[bytes]:
    """All bytes of a file, packed ones unpacked as well; neighbours share `overlap` bytes so that nothing is cut."""
    with path.open("rb") as file:
        start = file.read(16)
        file.seek(0)
        yield from _stream(file, overlap, 0)
    with suppress(*_UNREADABLE, sqlite3.Error, ArrowException):
        if start == b"SQLite format 3\x00":
            yield from _rows(path)
        elif start[:4] == b"PAR1":
            yield from _columns(path)


def _stream(file: IO[bytes], overlap: int, depth: int) -> Iterator[bytes]:
    """The bytes of an open, seekable file, then of what is packed in it."""
    start = file.read(8)
    file.seek(0)
    kept = b""
    whole = b""
    while piece := file.read(PIECE):
        yield kept + piece
        kept = (kept + piece)[-overlap:] if overlap else b""
        whole = whole + piece if start[:4] in (b"%PDF", b"\x89PNG") else b""
    if depth >= PACKED_DEPTH:
        return
    with suppress(*_UNREADABLE):
        for magic, unpack in _UNPACKERS:
            if start.startswith(magic):
                file.seek(0)
                yield from _stream(unpack(file), overlap, depth + 1)
        if start.startswith(b"PK\x03\x04"):
            yield from _members(file, overlap, depth + 1)
    yield from _deflated(whole)


def _members(file: IO[bytes], overlap: int, depth: int) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            yield member.filename.encode("utf-8", "surrogateescape")
            with suppress(*_UNREADABLE), archive.open(member) as packed:
                yield from _stream(packed, overlap, depth)


def _deflated(content: bytes) -> Iterator[bytes]:
    """zlib streams inside a PDF or PNG; at most 64 MiB of each."""
    for match in re.finditer(rb"stream\r?\n|IDAT|zTXt|iTXt", content):
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(content[match.end() :], 1 << 26)


def _rows(path: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        names = [row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            with suppress(sqlite3.Error):  # a virtual table whose module is not loaded
                quoted = name.replace('"', '""')
                for row in database.execute(f'SELECT * FROM "{quoted}"'):
                    yield b"\x00".join(value if isinstance(value, bytes) else str(value).encode() for value in row)


def _columns(path: Path) -> Iterator[bytes]:
    file = pq.ParquetFile(path)
    yield str(file.schema_arrow.metadata or "").encode()
    for batch in file.iter_batches(1024):
        yield str(batch.to_pylist()).encode("utf-8", "surrogateescape")
