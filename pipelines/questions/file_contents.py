"""What a file holds, as pieces of bytes to search: the bytes as they lie there, and what is packed inside them.

Opened are gzip, bzip2, xz and zip by their magic numbers (also in each other, PACKED_DEPTH deep; gzip also behind other
bytes), SQLite databases row by row (a long value lies scattered over pages) with what is packed in a value, Parquet
column by column, zlib streams in PDF and PNG, and what git keeps packed. A packed file that is damaged is searched as
it lies there. Nothing is unpacked to disk.
"""

import bz2
import gzip
import io
import lzma
import re
import sqlite3
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

PIECE = 1 << 24
PACKED_DEPTH = 3
MAX_INSIDE = 1 << 26  # bytes of a stream inside another file
MAX_KEYWORD = 300  # bytes before the text in a PNG: its keyword, 79 at most, language, translated keyword
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
    inside = 0
    while piece := file.read(PIECE):
        yield kept + piece
        if depth < PACKED_DEPTH:
            yield from _behind_others(piece, 1 if inside == 0 else 0)
        inside += len(piece)
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


def _behind_others(piece: bytes, start: int) -> Iterator[bytes]:
    """gzip streams that begin at `start` or later; at most MAX_INSIDE bytes of each."""
    for match in re.finditer(rb"\x1f\x8b\x08", piece[start:]):
        with suppress(zlib.error):
            yield zlib.decompressobj(31).decompress(piece[start + match.start() :], MAX_INSIDE)


def _members(file: IO[bytes], overlap: int, depth: int) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            yield member.filename.encode("utf-8", "surrogateescape")
            with suppress(*_UNREADABLE), archive.open(member) as packed:
                yield from _stream(packed, overlap, depth)


def _deflated(content: bytes) -> Iterator[bytes]:
    """zlib streams inside a PDF or PNG; at most MAX_INSIDE bytes of each. PNG's texts have a keyword before theirs."""
    for match in re.finditer(rb"stream\r?\n|IDAT|zTXt|iTXt|iCCP", content):
        keyword = 0 if match[0] == b"IDAT" or match[0].startswith(b"stream") else MAX_KEYWORD
        for begin in re.finditer(rb"x[\x01\x5e\x9c\xda]", content[match.end() : match.end() + keyword + 2]):
            with suppress(zlib.error):
                yield zlib.decompressobj().decompress(content[match.end() + begin.start() :], MAX_INSIDE)


def _rows(path: Path) -> Iterator[bytes]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        database.text_factory = bytes
        names = [row[0].decode() for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            with suppress(sqlite3.Error):  # a virtual table whose module is not loaded
                quoted = name.replace('"', '""')
                for row in database.execute(f'SELECT * FROM "{quoted}"'):
                    values = [value if isinstance(value, bytes) else str(value).encode() for value in row]
                    yield b"\x00".join(values)
                    for value in values:
                        yield from _value(value)


def _value(value: bytes) -> Iterator[bytes]:
    """What is packed in a value of a database: a file of any kind, or a bare zlib stream."""
    if value.startswith((b"PK\x03\x04", b"%PDF", b"\x89PNG", *(magic for magic, _ in _UNPACKERS))):
        yield from _stream(io.BytesIO(value), 0, 1)
    elif value[:1] == b"x":
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(value, MAX_INSIDE)
    elif b"\x1f\x8b\x08" in value:
        yield from _behind_others(value, 1)


def _columns(path: Path) -> Iterator[bytes]:
    file = pq.ParquetFile(path)
    yield str(file.schema_arrow.metadata or "").encode()
    for batch in file.iter_batches(1024):
        yield str(batch.to_pylist()).encode("utf-8", "surrogateescape")


def in_git(root: Path, without: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Every object that the repository at `root` keeps, as (its name, content). None where there is no repository.

    `without`: folders at its top whose files are left out. Raises OSError if git cannot be asked.
    """
    if not (root / ".git").exists():
        return
    ask = ["git", "-C", str(root)]
    told = subprocess.run([*ask, "rev-list", "--objects", "--all"], capture_output=True, check=False)
    named = (line.partition(b" ") for line in told.stdout.splitlines())
    left_out = {name for name, _, path in named if path.decode(errors="replace").partition("/")[0] in without}
    command = [*ask, "cat-file", "--batch-all-objects", "--batch", "--unordered"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as git:
        assert git.stdout is not None
        while header := git.stdout.readline().split():
            content = git.stdout.read(int(header[2]) + 1)
            if header[0] not in left_out:
                yield header[0].decode(), content
    if git.returncode:
        raise OSError(f"git cat-file ended with {git.returncode}")


def packed(content: bytes) -> Iterator[bytes]:
    """`content` and what is packed in it."""
    yield from _stream(io.BytesIO(content), 0, 0)
