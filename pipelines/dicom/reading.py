"""Open one DICOM file: the header, then the pixels, never more than the file can honestly hold.

Everything a hostile or damaged file can do wrong ends as DicomError with a reason that quotes numbers only, never text
out of the file. Time and memory are bounded from outside (pipelines/dicom/sandbox.py); the checks here keep the usual
lies (a declared size no file holds, a deflated bomb) from reaching that bound.
"""

import io
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
)

from pipelines.scans.nifti import MAX_VOXELS

PREAMBLE = 128
MAX_INFLATED_BYTES = 1 << 30
MAX_RATIO = 200  # deflate reaches 1032 on zeros; images of a scanner 2 to 10
LOOK_AHEAD = 1 << 16  # pydicom looks for the end of a sequence in pieces of 8 KiB, past the file's end as well
# What a damaged file makes pydicom, zlib, numpy and the codecs raise. A bug of ours would be caught as well, and show
# up as a quarantined scan with the exception's name: better than a stage that stops at one file of a hundred thousand.
DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, NotImplementedError, RuntimeError,
    EOFError, OSError, zlib.error, struct.error, RecursionError, InvalidDicomError, BytesLengthException, LookupError,
    ArithmeticError,
)  # fmt: skip


class DicomError(ValueError):
    """A file or series that cannot be used; the message is the reason and holds nothing out of the file but numbers."""


class NotDicomError(DicomError):
    """The file is something else: a document, an index, a NIfTI volume."""


def header(path: Path) -> Dataset:
    """The data set without its pixels. Raises NotDicomError or DicomError."""
    return _guarded(path, stop_before_pixels=True)


def whole(path: Path) -> Dataset:
    """The data set with its pixels, not decoded."""
    return _guarded(path, stop_before_pixels=False)


def looks_like_dicom(path: Path) -> bool:
    """By the magic word, or by a first element that only DICOM starts with. Reads 140 bytes."""
    with path.open("rb") as file:
        return _has_magic(start := file.read(PREAMBLE + 12)) or _starts_like_a_dataset(start)


def _has_magic(start: bytes) -> bool:
    return start[PREAMBLE : PREAMBLE + 4] == b"DICM"


def _starts_like_a_dataset(start: bytes) -> bool:
    """Old files lack preamble and meta header: the first element is then of group 2 or 8, little or big endian."""
    if len(start) < 8 or start[:2] not in (b"\x02\x00", b"\x08\x00", b"\x00\x08", b"\x00\x02"):
        return False
    length = int.from_bytes(start[4:8], "little")
    return (start[4:6].isalpha() and start[4:6].isupper()) or length <= 1024


class _Bounded(io.BufferedReader):
    """A file never asked for more than it holds: Python reserves what a lying length asks for before it reads."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size
        self.overrun = 0  # by how much an element's declared length passed the end

    def read(self, size: int | None = -1, /) -> bytes:
        rest = max(0, self._size - self.tell())
        if size is not None and size > max(rest, LOOK_AHEAD):
            self.overrun = max(self.overrun, size - rest)
        return super().read(rest if size is None or size < 0 else min(size, rest))


def _guarded(path: Path, stop_before_pixels: bool) -> Dataset:
    try:
        size = path.stat().st_size
        if size == 0:
            raise DicomError("the file is empty")
        with _Bounded(path) as file:
            dataset = _read(file, size, stop_before_pixels)
            if file.overrun:
                raise DicomError(
                    f"an element declares {file.overrun} bytes more than the file holds; truncated, or its length lies"
                )
        if not len(dataset):
            raise DicomError("no element can be read after the header; the file is truncated")
        return dataset
    except DicomError:
        raise
    except RecursionError:
        raise DicomError("sequences nest deeper than any scanner writes") from None
    except (EOFError, OSError):
        raise DicomError("ends in the middle of an element or sequence; truncated") from None
    except DAMAGE as error:
        raise DicomError(f"not a readable DICOM file ({type(error).__name__})") from None


def _read(file: BinaryIO, size: int, stop_before_pixels: bool) -> Dataset:
    start = file.read(PREAMBLE + 12)
    file.seek(0)
    if not _has_magic(start):
        if not _starts_like_a_dataset(start):
            raise NotDicomError("not a DICOM file: neither the magic word nor a first element of one")
        dataset = dcmread(file, stop_before_pixels=stop_before_pixels, force=True)
    else:
        meta = _meta(file)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _inflated(file, meta, size, stop_before_pixels)
        file.seek(0)
        dataset = dcmread(file, stop_before_pixels=stop_before_pixels, force=False)
    if "TransferSyntaxUID" not in dataset.file_meta:  # PS3.10 demands it; without, the default of PS3.5 holds
        implicit, little = dataset.original_encoding
        if little:
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def text(dataset: Dataset, keyword: str) -> str:
    """One value as text, stripped; empty if absent or unreadable. For coded values only: it may hold anything."""
    try:
        value = dataset.get(keyword)
    except DAMAGE:
        return ""
    return "" if value is None else str(value).strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """A multi-valued text, upper case."""
    try:
        value = dataset.get(keyword)
        values = [value] if isinstance(value, str) else list(value or ())
    except DAMAGE:
        return ()
    return tuple(str(each).strip().upper() for each in values)


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers; None if absent. Raises DicomError if there are others, or no numbers."""
    try:
        value = dataset.get(keyword)
        if value is None or value == "":
            return None
        values = [float(each) for each in (value if isinstance(value, Sequence) else [value])]
    except DAMAGE as error:
        raise DicomError(f"{keyword} cannot be read ({type(error).__name__})") from None
    if len(values) != count:
        raise DicomError(f"{keyword} has {len(values)} values where {count} are due")
    if not all(math.isfinite(each) for each in values):
        raise DicomError(f"{keyword} is NaN or infinite")
    return tuple(values)


def number(dataset: Dataset, keyword: str) -> float | None:
    found = numbers(dataset, keyword, 1)
    return None if found is None else found[0]


def soft_number(dataset: Dataset, keyword: str) -> float | None:
    """A number that only helps to recognise a scan: None if it is absent or unreadable."""
    try:
        return number(dataset, keyword)
    except DicomError:
        return None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if absent or no sequence."""
    try:
        value = dataset.get(keyword)
        return [item for item in value or () if isinstance(item, Dataset)]
    except DAMAGE:
        return []


def image_shape(dataset: Dataset) -> tuple[int, int, int]:
    """(frames, rows, columns), checked against what a volume may have and what the file can hold."""
    sizes = []
    for keyword, default in (("NumberOfFrames", 1.0), ("Rows", None), ("Columns", None)):
        value = number(dataset, keyword)
        value = default if value is None else value
        if value is None:
            raise DicomError(f"{keyword} is missing")
        if value != int(value) or value < 1:
            raise DicomError(f"{keyword} is {value:g}, at least 1 is due")
        sizes.append(int(value))
    frames, rows, columns = sizes
    if frames * rows * columns > MAX_VOXELS:
        raise DicomError(f"{frames} frames of {rows} x {columns} are beyond {MAX_VOXELS} voxels; the header is broken")
    return frames, rows, columns


def is_lossy(dataset: Dataset) -> bool:
    """Did the image go through a lossy compression, now or before, by its own word or by its encoding?"""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", "")) if hasattr(dataset, "file_meta") else ""
    return text(dataset, "LossyImageCompression") == "01" or syntax in _LOSSY


_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit)  # encodings that cannot be without loss


def pixels(dataset: Dataset) -> np.ndarray:
    """Stored values, (frames, rows, columns), integer or float. Raises DicomError with the reason."""
    shape = image_shape(dataset)
    samples = number(dataset, "SamplesPerPixel")
    if samples not in (None, 1.0):
        raise DicomError(f"{samples:g} samples a pixel; colour images are screen captures or pathology, not scans")
    _check_length(dataset, shape)
    try:
        array = np.asarray(dataset.pixel_array)
    except DicomError:
        raise
    except DAMAGE as error:
        raise DicomError(f"pixel data cannot be decoded ({type(error).__name__})") from None
    if array.size != math.prod(shape):
        raise DicomError(f"pixel data has {array.size} values where {shape[0]} x {shape[1]} x {shape[2]} are due")
    return array.reshape(shape)


def _check_length(dataset: Dataset, shape: tuple[int, int, int]) -> None:
    present = [name for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if name in dataset]
    if not present:
        raise DicomError("no pixel data; the file is truncated or no image")
    data: Any = dataset[present[0]].value
    if not data:
        raise DicomError("pixel data is empty")
    syntax = UID(dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian))
    if not syntax.is_transfer_syntax:
        raise DicomError("the transfer syntax is unknown to the standard")
    if syntax.is_compressed and not syntax.is_deflated:
        return
    bits = {"PixelData": number(dataset, "BitsAllocated"), "FloatPixelData": 32.0, "DoubleFloatPixelData": 64.0}[
        present[0]
    ]
    if bits not in (1, 8, 16, 32, 64):
        raise DicomError(
            "BitsAllocated is missing" if bits is None else f"BitsAllocated is {bits:g}; 1, 8, 16, 32 are known"
        )
    due = math.ceil(math.prod(shape) * bits / 8)
    if len(data) < due:
        raise DicomError(
            f"pixel data has {len(data)} bytes where Rows x Columns needs {due}; truncated, or the header lies"
        )


def _meta(file: BinaryIO) -> Dataset:
    file.seek(PREAMBLE + 4)
    return read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_after_meta)


def _after_meta(tag: Any, vr: str | None, length: int) -> bool:
    return bool(tag.group != 2)


def _inflated(file: BinaryIO, meta: Dataset, size: int, stop_before_pixels: bool) -> Dataset:
    """A deflated data set, inflated under a bound: a bomb of a megabyte may hold a terabyte."""
    allowed = min(MAX_INFLATED_BYTES, MAX_RATIO * size)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), allowed)
    if inflater.unconsumed_tail and not inflater.eof:
        raise DicomError(f"deflated data set inflates beyond {allowed} bytes from {size}; a bomb, not a scan")
    stop = (lambda tag, vr, length: bool(tag == 0x7FE00010)) if stop_before_pixels else None
    dataset = read_dataset(io.BytesIO(data), is_implicit_VR=False, is_little_endian=True, stop_when=stop)
    dataset.file_meta = meta  # type: ignore[assignment]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_original_encoding(False, True)
    return dataset
