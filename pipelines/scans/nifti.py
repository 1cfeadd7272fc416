"""NIfTI files, read with distrust: what the header claims is checked before a voxel is inflated or memory reserved.

`load` gives the voxels and geometry of a file that keeps its word, or raises VolumeError with the reason. A claim that
no file of this size can keep (zip bombs, lying dimensions) is refused from the first 540 bytes; of a longer stream only
the declared part is inflated. Header extensions are never looked at: voxels do not need them, and they may name people.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from pipelines.scans import channels
from pipelines.scans.byte_stream import ByteStream
from pipelines.scans.byte_stream import VolumeError as VolumeError
from pipelines.work.memory import free_bytes

MAX_VOXELS = 2**30  # 4 GiB in float32, twice a whole-body CT: beyond it a header is broken, not a scan large
MAX_OFFSET_BYTES = 2**26  # before the voxels; the largest real extensions hold a DICOM header, some 100 kB
MAX_INFLATION = 1032  # of deflate; RFC 1951: 258 bytes from two bits
SPACING_BOUNDS_MM = (0.01, 100.0)
XFORM_TOLERANCE_MM = 1.0  # qform and sform of one frame may differ by this at a corner: a quaternion's rounding
HEADER_BYTES = 1 << 12  # read at a time of a file of which only the header is wanted
LARGE_BYTES = 2**28  # below, nobody asks whether memory suffices

_SCALARS = {2: "uint8", 4: "int16", 8: "int32", 16: "float32", 64: "float64"}
_SCALARS |= {256: "int8", 512: "uint16", 768: "uint32", 1024: "int64", 1280: "uint64"}
_NOT_SCALAR = {1: "binary", 32: "complex64", 128: "RGB24", 1536: "float128", 1792: "complex128", 2304: "RGBA32"}
_WHOLE_IN_FLOAT32 = 2**24  # every whole number up to it
_UNITS = {1: "metres", 3: "micrometres"}


@dataclass(frozen=True)
class Nifti:
    """`data`: float32 in the file's own axes (i, j, k). `affine`: voxel -> RAS mm. `remarks`: doubts that stay."""

    data: np.ndarray
    affine: np.ndarray
    remarks: tuple[str, ...]


def load(path: Path) -> Nifti:
    """Read a 3-D NIfTI-1 or NIfTI-2 file, plain or gzip, either byte order; or a channel of a 4-D one, as
    pipelines/scans/channels.py names it. Raises VolumeError with the reason."""
    with _opened(path) as (stream, size, channel):
        return _load(stream, size, channel)


def announced(path: Path) -> tuple[tuple[int, int, int], np.ndarray, str]:
    """Shape in the file's own axes, affine and free text (`descrip`), from the header. Raises VolumeError."""
    with _opened(path) as (stream, _, channel):
        raw = _raw_header(stream.read(Nifti2Header.sizeof_hdr))
        shape, _ = _checked_shape(raw, channel)
        header = type(raw)(raw.binaryblock, raw.endianness, check=True)
        text = bytes(raw["descrip"]).rstrip(b"\0").decode("ascii", "replace")
        return shape, _checked_affine(raw, header, shape)[0], text


@contextmanager
def _opened(path: Path) -> Iterator[tuple[ByteStream, int, int | None]]:
    """Its bytes, their number as stored, the channel meant. Whatever fails meanwhile becomes a VolumeError."""
    name, channel = channels.parted(path)
    path = Path(name)
    try:
        if (size := path.stat().st_size) == 0:
            raise VolumeError("not a readable NIfTI file: it is empty")
        with path.open("rb") as file:
            yield ByteStream(file, path.name.lower().endswith(".gz")), size, channel
    except FileNotFoundError:
        raise VolumeError("file is missing") from None
    except zlib.error as error:
        raise VolumeError(f"gzip stream is damaged ({_plain(error)}); copy the file again") from None
    except VolumeError:
        raise
    except (HeaderDataError, ValueError) as error:
        raise VolumeError(f"not a readable NIfTI file: {_plain(error)}") from None
    except OSError as error:
        raise VolumeError(f"unreadable ({error.strerror or type(error).__name__})") from None


def announced_size(path: Path) -> tuple[int, int]:
    """(voxels, bytes a voxel) by the header alone; (0, 0) if `load` refuses the file for its header."""
    try:
        name, channel = channels.parted(path)
        path = Path(name)
        with path.open("rb") as file:
            stream = ByteStream(file, path.name.lower().endswith(".gz"), HEADER_BYTES)
            raw = _raw_header(stream.read(Nifti2Header.sizeof_hdr))
        shape, count = _checked_shape(raw, channel)
        voxels, voxel_bytes = int(np.prod(shape, dtype=np.int64)), _checked_type(raw).itemsize
        _checked_offset(raw, count * voxels * voxel_bytes, path.stat().st_size, stream.compressed)
        return voxels, voxel_bytes
    except (OSError, ValueError, zlib.error):
        return 0, 0


def _load(stream: ByteStream, size: int, channel: int | None) -> Nifti:
    start = stream.read(Nifti2Header.sizeof_hdr)
    raw = _raw_header(start)
    (shape, count), dtype = _checked_shape(raw, channel), _checked_type(raw)
    voxel_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    offset = _checked_offset(raw, count * voxel_bytes, size, stream.compressed) + (channel or 0) * voxel_bytes
    _check_memory(voxel_bytes + 8 * int(np.prod(shape, dtype=np.int64)))  # stored, float32, float32 reoriented
    header = type(raw)(start[: raw.sizeof_hdr], raw.endianness, check=True)
    affine, remarks = _checked_affine(raw, header, shape)
    stream.skip(offset - len(start))
    content = stream.fill(voxel_bytes, start[offset:])
    stream.skip((count - 1 - (channel or 0)) * voxel_bytes)
    if stream.goes_on():
        remarks += ("header: the file goes on behind the voxels that its header announces",)
    return Nifti(_scaled(np.ndarray(shape, dtype, content, order="F"), header), affine, remarks)


def _raw_header(start: bytes) -> Any:
    """The header as it stands in the file; nibabel's `check` would turn -1.5 mm into 1.5 and 0 into 1, silently."""
    for kind in (Nifti1Header, Nifti2Header):
        for endianness, order in (("<", "little"), (">", "big")):
            if int.from_bytes(start[:4], order) == kind.sizeof_hdr:  # type: ignore[arg-type]
                if len(start) < kind.sizeof_hdr:
                    raise VolumeError(f"truncated: {len(start)} bytes, less than a header of {kind.sizeof_hdr}")
                raw = kind(start[: kind.sizeof_hdr], endianness, check=False)
                _check_magic(bytes(raw["magic"]), kind)
                return raw
    raise VolumeError("not a readable NIfTI file: its first bytes give neither header size, 348 or 540")


def _check_magic(magic: bytes, kind: type[Nifti1Header]) -> None:
    if magic.rstrip(b"\0") == kind.pair_magic.rstrip(b"\0"):
        raise VolumeError("header of a pair whose voxels lie in an .img file; convert it to one .nii.gz")
    if magic[:4].rstrip(b"\0") != kind.single_magic[:4].rstrip(b"\0"):
        raise VolumeError(
            f"not a readable NIfTI file: magic {magic[:4]!r} is not {kind.single_magic[:4]!r} (Analyze, or damaged)"
        )


def _checked_shape(raw: Any, channel: int | None) -> tuple[tuple[int, int, int], int]:
    """Voxels along three axes, and how many such volumes the file holds: one, unless a channel is asked for."""
    rank = int(raw["dim"][0])
    if not 1 <= rank <= 7:
        raise VolumeError(f"header claims {rank} dimensions, 1 to 7 are possible; the header is broken")
    shape = tuple(int(size) for size in raw["dim"][1 : rank + 1])
    if min(shape) < 1 or np.prod([float(size) for size in shape]) > MAX_VOXELS:
        raise VolumeError(f"shape {shape} is empty or beyond {MAX_VOXELS} voxels; the header is broken")
    more = [size for size in shape[3:] if size > 1]
    if len(shape) < 3 or (more and channel is None):
        raise VolumeError(f"has {len(shape)} dimensions {shape} where 3 are due; split it into 3-D files")
    count = more[0] if more else 1
    if channel is not None and (len(more) > 1 or channel >= count):
        raise VolumeError(f"shape {shape} has no channel number {channel}, which the data set's index announces")
    return (shape[0], shape[1], shape[2]), count


def _checked_type(raw: Any) -> np.dtype[Any]:
    code, bits = int(raw["datatype"]), int(raw["bitpix"])
    if code not in _SCALARS:
        raise VolumeError(f"datatype {code} ({_NOT_SCALAR.get(code, 'unknown')}) is no scalar image; convert the file")
    dtype = np.dtype(_SCALARS[code]).newbyteorder(raw.endianness)
    if bits != 8 * dtype.itemsize:
        raise VolumeError(f"bitpix {bits} contradicts datatype {_SCALARS[code]}; the header is broken")
    slope, intercept = float(raw["scl_slope"]), float(raw["scl_inter"])
    unscaled = slope == 0 or np.isnan(slope)  # by the standard, and as nibabel itself writes it: no intercept counts
    for name, value, ignored in (("scl_slope", slope, unscaled), ("scl_inter", intercept, unscaled)):
        if not (ignored or np.isfinite(value)):
            raise VolumeError(f"{name} is {value}; correct the header")
    return dtype


def _checked_offset(raw: Any, voxel_bytes: int, size: int, compressed: bool) -> int:
    """Where the voxels begin. The file must be able to hold what the header promises."""
    stated, least = float(raw["vox_offset"]), raw.sizeof_hdr + 4
    if not least <= stated <= MAX_OFFSET_BYTES:
        raise VolumeError(f"vox_offset {stated:g} is outside [{least}, {MAX_OFFSET_BYTES}]; the header is broken")
    due, most = int(stated) + voxel_bytes, size * MAX_INFLATION if compressed else size
    if due > most:
        what = f"{size} compressed bytes can hold at most {most}" if compressed else f"the file has {size}"
        raise VolumeError(f"truncated, or the header lies: {due} bytes are due, {what}")
    return int(stated)


def _checked_affine(raw: Any, header: Any, shape: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    if (unit := int(raw["xyzt_units"]) & 7) in _UNITS:
        raise VolumeError(f"header gives spacing in {_UNITS[unit]}; convert it to millimetres")
    for name in ("qform_code", "sform_code"):
        if int(raw[name]) != int(header[name]):
            raise VolumeError(f"{name} {int(raw[name])} is unknown; correct the header")
    affine = np.asarray(header.get_best_affine(), dtype=float)
    stored_mm = np.asarray(raw["pixdim"][1:4], dtype=float)
    low, high = SPACING_BOUNDS_MM
    for name, spacing_mm in (("header", stored_mm), ("affine", np.linalg.norm(affine[:3, :3], axis=0))):
        if not (np.isfinite(spacing_mm).all() and (spacing_mm >= low).all() and (spacing_mm <= high).all()):
            shown = ", ".join(f"{value:g}" for value in spacing_mm)
            raise VolumeError(f"spacing ({shown}) mm in the {name} is outside [{low:g}, {high:g}]; correct the header")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise VolumeError("affine is singular or not finite; correct the header")
    return affine, _doubts(header, shape)


def _doubts(header: Any, shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What the header leaves open about the patient's sides. Raises VolumeError if it says two things."""
    qform, qcode = header.get_qform(coded=True)
    sform, scode = header.get_sform(coded=True)
    if not qcode and not scode:
        return ("orientation: the header has neither qform nor sform; left and right are a guess",)
    if not qcode or not scode:
        return ()
    corners = np.array([[0, 0, 0, 1], [*(size - 1 for size in shape), 1]], dtype=float).T
    apart_mm = float(np.abs((qform - sform) @ corners).max())
    if apart_mm <= XFORM_TOLERANCE_MM:
        return ()
    one, other = ("".join(aff2axcodes(matrix)) for matrix in (qform, sform))
    if one != other:
        raise VolumeError(f"qform says {one}, sform {other}: left and right are not known; correct the header")
    if qcode != scode:  # two frames, such as scanner and template, may well differ
        return ()
    return (f"orientation: qform and sform of one frame are {apart_mm:.3g} mm apart at a corner",)


def _check_memory(due_bytes: int) -> None:
    """A file that keeps its word may still be made to fill the machine: a thousandth of it lies on disk."""
    if due_bytes > LARGE_BYTES and due_bytes > (free := free_bytes()):
        raise VolumeError(
            f"needs {due_bytes / 2**30:.1f} GiB to be read, {free / 2**30:.1f} are free; crop it, or free memory"
        )


def _scaled(stored: np.ndarray, header: Any) -> np.ndarray:
    """Stored values -> float32 by slope and intercept, as nibabel rounds them."""
    slope, intercept = header.get_slope_inter()
    if slope is None or (slope, intercept) == (1.0, 0.0):
        return stored.astype(np.float32)
    if _exact_in_float32(stored.dtype, slope, intercept):
        exact = stored.astype(np.float32)
        exact *= np.float32(slope)
        exact += np.float32(intercept)
        return exact
    result = np.empty(stored.shape, dtype=np.float32, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported by who asked
        for at in range(stored.shape[2]):  # in float64, and no more of that than a slice
            result[:, :, at] = apply_read_scaling(stored[:, :, at], np.float64(slope), np.float64(intercept))
    return result


def _exact_in_float32(dtype: np.dtype[Any], slope: float, intercept: float) -> bool:
    """Whole numbers that float32 has all of: a CT's, mostly."""
    whole = dtype.kind in "iu" and dtype.itemsize <= 2 and float(slope).is_integer() and float(intercept).is_integer()
    return whole and abs(slope) * 2 ** (8 * dtype.itemsize) + abs(intercept) < _WHOLE_IN_FLOAT32


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
