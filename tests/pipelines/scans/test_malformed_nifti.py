"""NIfTI files that lie: each is quarantined with a true reason, or read right; none crashes or hangs the stage.

All kinds lie in one folder beside sound scans. One process with bounded memory and time takes the folder in.
"""

import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from pipelines.intake import listing
from pipelines.scans import nifti as reader
from pipelines.scans.volume import VolumeError, read
from tests.conftest import REPOSITORY, save

MEMORY_BYTES = 3 * 2**30  # of address space: what an idle numpy process maps, and some scans
CPU_S, HANG_S = 240, 1200  # of the whole folder: about 4 s of work; what waits for ever does no work at all
LARGE = 40_000  # 40,000^3 voxels: what no machine holds
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, UNITS = 40, 70, 72, 76, 108, 112, 123
QFORM, SFORM, QUATERN, SROW_X, SROW_Y, MAGIC = 252, 254, 256, 280, 296, 344


RAMP = np.arange(864, dtype=np.int16).reshape(12, 12, 6)


def nifti(array: np.ndarray, kind: Any = nib.Nifti1Image, big_endian: bool = False) -> bytes:
    header = kind.header_class(endianness=">") if big_endian else None
    return gzip.compress(kind(array, np.diag([1.5, 1.5, 10.0, 1.0]), header).to_bytes())


def sound(seed: int = 0) -> bytes:
    """A small valid NIfTI-1 file, not compressed."""
    return gzip.decompress(nifti(np.random.default_rng(seed).integers(1, 500, RAMP.shape).astype(np.int16)))


def patched(offset: int, form: str, *values: float, content: bytes | None = None) -> bytes:
    """A valid file with one header field overwritten."""
    content = bytearray(content or sound())
    struct.pack_into(f"<{form}", content, offset, *values)
    return gzip.compress(bytes(content), 1)


def bomb(declared: tuple[int, int, int], inflated_bytes: int) -> bytes:
    """A header, then zeros: a thousandth of `inflated_bytes` on disk, and what the header claims is `declared`."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, 31)
    header = bytearray(sound()[:352])
    struct.pack_into("<4h", header, DIM, 3, *declared)
    once = deflate.compress(bytes(header)) + deflate.flush(zlib.Z_FULL_FLUSH)
    block = deflate.compress(bytes(2**24)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return once + block * (inflated_bytes // 2**24)  # never ended: nobody gets there


def with_extension(size: int) -> bytes:
    content = sound()
    extension = struct.pack("<4B2i", 1, 0, 0, 0, size, 6) + b"Doe^Jane".ljust(24, b"\0")
    grown = bytearray(content[:348] + extension + content[352:])
    struct.pack_into("<f", grown, VOX_OFFSET, 352 + 32)
    return gzip.compress(bytes(grown))


def damaged_inside() -> bytes:
    content = bytearray(gzip.compress(sound(), 0))
    content[len(content) // 2] ^= 255
    return bytes(content)


def two_orientations() -> bytes:
    image = nib.Nifti1Image(RAMP, np.eye(4))
    image.set_sform(np.diag([-1.0, 1, 1, 1]), 1)
    image.set_qform(np.eye(4), 1)
    return gzip.compress(image.to_bytes())


REFUSED: dict[str, tuple[bytes, str]] = {
    "truncated gzip": (gzip.compress(sound())[:900], "truncated"),
    "gzip without its end": (gzip.compress(sound())[:-6], "truncated"),
    "damaged inside": (damaged_inside(), "gzip stream is damaged"),
    "not gzip": (sound(), "not compressed by gzip"),
    "empty": (b"", "it is empty"),
    "gzip of nothing": (gzip.compress(b""), "neither header size"),
    "half a header": (gzip.compress(sound()[:200]), "less than a header"),
    "voxels missing": (gzip.compress(sound()[:-400]), "truncated: 1328 of 1728 bytes"),
    "text": (gzip.compress(b"this is not a scan" * 99), "neither header size"),
    "wrong magic": (patched(MAGIC, "4s", b"abc\0"), "magic b'abc\\x00'"),
    "analyze": (patched(MAGIC, "4s", b"\0\0\0\0"), "Analyze, or damaged"),
    "header of a pair": (patched(MAGIC, "4s", b"ni1\0"), "header of a pair"),
    "dimensions too large": (patched(DIM, "4h", 3, 32000, 32000, 32000), "beyond 1073741824 voxels"),
    "dimensions the file cannot hold": (patched(DIM, "4h", 3, 900, 900, 900), "the header lies: 1458000352 bytes"),
    "negative dimension": (patched(DIM, "4h", 3, 12, -12, 6), "shape (12, -12, 6) is empty or"),
    "zero dimension": (patched(DIM, "4h", 3, 12, 0, 6), "shape (12, 0, 6) is empty or"),
    "rank of 9": (patched(DIM, "h", 9), "claims 9 dimensions"),
    "rank of 0": (patched(DIM, "h", 0), "claims 0 dimensions"),
    "rank of 2": (patched(DIM, "h", 2), "has 2 dimensions"),
    "five dimensions": (nifti(np.ones((6, 6, 3, 1, 3), np.int16)), "has 5 dimensions (6, 6, 3, 1, 3)"),
    "unknown datatype": (patched(DATATYPE, "h", 1234), "datatype 1234 (unknown)"),
    "complex": (nifti(RAMP.astype(np.complex64)), "datatype 32 (complex64)"),
    "colour": (nifti(np.zeros((12, 12, 6), [(name, "u1") for name in "RGB"])), "datatype 128 (RGB24)"),
    "bitpix of another type": (patched(BITPIX, "h", 64), "bitpix 64 contradicts datatype int16"),
    "offset beyond the end": (patched(VOX_OFFSET, "f", 1e9), "vox_offset 1e+09 is outside"),
    "offset inside the header": (patched(VOX_OFFSET, "f", 100), "vox_offset 100 is outside"),
    "offset not a number": (patched(VOX_OFFSET, "f", np.nan), "vox_offset nan is outside"),
    "infinite slope": (patched(SLOPE, "2f", np.inf, 0), "scl_slope is inf"),
    "slope that overflows": (patched(SLOPE, "2f", 3e38, 0), "voxels are NaN or infinite"),
    "affine not a number": (patched(SROW_X, "4f", np.nan, 0, 0, 0), "spacing (nan, "),
    "singular affine": (patched(SROW_Y, "4f", 1.5, 0, 0, 0), "spacing (2.12132, 0, 10)"),
    "quaternion beyond 1": (patched(QFORM, "2h3f", 1, 0, 2, 2, 2), "not a readable NIfTI file"),
    "unknown sform code": (patched(SFORM, "h", 99), "sform_code 99 is unknown"),
    "two orientations": (two_orientations(), "qform says RAS, sform LAS"),
    "zero spacing": (patched(PIXDIM + 4, "f", 0), "spacing (0, 1.5, 10) mm in the header"),
    "huge spacing": (patched(PIXDIM + 4, "f", 1e6), "spacing (1e+06, 1.5, 10) mm in the header"),
    "metres": (patched(UNITS, "B", 1), "spacing in metres"),
    "bomb that says so": (bomb((LARGE // 2,) * 3, 2**26), "beyond 1073741824 voxels"),
    "bomb without a bottom": (bomb((600, 600, 600), 2**26), "the header lies"),
}  # fmt: skip
READ: dict[str, bytes] = {
    "big-endian": nifti(RAMP.astype(">i2"), big_endian=True),
    "nifti-2": nifti(3 * RAMP, nib.Nifti2Image),
    "slope not a number": patched(SLOPE, "2f", np.nan, np.nan, content=sound(1)),
    "slope of 0 and no intercept": patched(SLOPE, "2f", 0, np.nan, content=sound(4)),
    "slope of 0 and an infinite intercept": patched(SLOPE, "2f", 0, np.inf, content=sound(5)),
    "bomb behind the voxels": gzip.compress(sound(2)) + gzip.compress(bytes(2**26)) * 200,
    "extension chain that lies": with_extension(2**30),
    "extension of negative size": with_extension(-16),
    "trailing axis of one": nifti(2 * RAMP[..., None]),
    "two gzip members": gzip.compress(sound(3)[:1000]) + gzip.compress(sound(3)[1000:]),
}  # fmt: skip
BY_PLACE = {
    "fifo": "not a regular file",
    "folder": "a folder with the name of a file",
    "link out of the folder": "a link that leads out of the folder",
    "link to a device": "a link that leads out of the folder",
    "link to itself": "unreadable",
    "linked folder": "a link that leads out of the folder",
    "name of control characters": "control characters",
    "name of bytes": "no UTF-8",
}


def image_of(raw: Path, kind: str) -> Path:
    """Where the ACDC layout has the frame of the patient that stands for `kind`."""
    number = [*REFUSED, *READ, *BY_PLACE].index(kind)
    return raw / f"patient{number:03d}" / f"patient{number:03d}_frame01.nii.gz"


def plant(raw: Path, outside: Path) -> None:
    for kind, content in {**{kind: content for kind, (content, _) in REFUSED.items()}, **READ}.items():
        image_of(raw, kind).parent.mkdir(parents=True)
        image_of(raw, kind).write_bytes(content)
    for kind in BY_PLACE:
        image_of(raw, kind).parent.mkdir(parents=True)
    save(outside / "secret.nii.gz", np.random.default_rng(7).random((12, 12, 6)))
    os.mkfifo(image_of(raw, "fifo"))
    image_of(raw, "folder").mkdir()
    image_of(raw, "link out of the folder").symlink_to(outside / "secret.nii.gz")
    image_of(raw, "link to a device").symlink_to("/dev/zero")
    image_of(raw, "link to itself").symlink_to(image_of(raw, "link to itself").name)
    (image_of(raw, "linked folder").parent / "patient900").symlink_to(outside)
    (image_of(raw, "name of control characters").parent / "patient\n901_frame01.nii.gz").write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(image_of(raw, "name of bytes").parent) + b"/patient\xff902.nii.gz")).write_bytes(b"x")
    (raw / "patient000" / "circle").symlink_to(raw)
    for number in range(990, 993):
        name = f"patient{number}"
        save(raw / name / f"{name}_frame01.nii.gz", np.random.default_rng(number).random((12, 12, 6)))


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The rows of `medseg data check`, and the folder they are of."""
    folder = tmp_path_factory.mktemp("malformed")
    plant(folder / "raw", folder / "outside")
    script = (
        "import json, sys; from pathlib import Path; from pipelines.questions import folder_check;"
        "print(json.dumps(folder_check.check(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "raw")],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MEDSEG_WORKERS": "1"},
        preexec_fn=bounded, capture_output=True, text=True, timeout=HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)
    return {"raw": folder / "raw", "rows": rows}


def bounded() -> None:
    """The kernel ends a process that works or takes more than this."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def row_of(taken: dict[str, Any], kind: str) -> dict[str, Any]:
    place = f"/{image_of(taken['raw'], kind).parent.name}/"
    found = [row for row in taken["rows"] if place in row["files"][0]["path"]]
    assert len(found) == 1, found
    return dict(found[0])


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_lies_is_quarantined_with_a_true_reason(taken: dict[str, Any], kind: str) -> None:
    assert REFUSED[kind][1] in row_of(taken, kind)["quarantined"]


@pytest.mark.parametrize("kind", BY_PLACE)
def test_what_is_no_file_of_this_folder_is_quarantined(taken: dict[str, Any], kind: str) -> None:
    assert BY_PLACE[kind] in row_of(taken, kind)["quarantined"]


@pytest.mark.parametrize("kind", READ)
def test_what_only_looks_odd_is_read(taken: dict[str, Any], kind: str) -> None:
    row = row_of(taken, kind)
    assert row["quarantined"] == ""
    assert sorted(row["shape"]) == [6, 12, 12]
    behind = any("goes on behind the voxels" in note for note in row["notes"])
    assert behind == (kind == "bomb behind the voxels")


def test_sound_scans_beside_them_are_taken_in_and_nothing_outside_was_read(taken: dict[str, Any]) -> None:
    sound_rows = [row for row in taken["rows"] if "/patient99" in row["files"][0]["path"]]
    assert [row["quarantined"] for row in sound_rows] == ["", "", ""]
    assert len(taken["rows"]) == len(REFUSED) + len(READ) + len(BY_PLACE) + 3
    linked = row_of(taken, "link out of the folder")
    assert linked["files"][0]["sha256"] == ""
    assert not any("secret" in file["path"] for row in taken["rows"] for file in row["files"])


def test_two_thousand_mutated_headers_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """Up to four bytes of each are random. Memory is what the process grows by, in kB as Linux counts."""
    rng = np.random.default_rng(0)
    fields = [DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, QFORM, QUATERN]
    originals = {tmp_path / "1.nii": sound(), tmp_path / "2.nii": bytes(nib.Nifti2Image(RAMP, np.eye(4)).to_bytes())}
    for path, original in originals.items():
        path.write_bytes(original)
    honest_s = cpu_s(lambda: [read(path) for _ in range(100) for path in originals])
    start, before_kb, refused = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for path, original in originals.items():
        with path.open("r+b", buffering=0) as file:
            for _ in range(1000):
                content = bytearray(original)
                for _ in range(rng.integers(1, 5)):
                    at = rng.integers(0, 352) if rng.random() < 0.5 else rng.choice(fields) + rng.integers(0, 16)
                    content[at] = rng.integers(0, 256)
                os.pwrite(file.fileno(), content, 0)
                try:
                    volume = read(path)
                    assert volume.array.size == RAMP.size or "goes on" in volume.remarks[-1]
                except VolumeError:
                    refused += 1
    assert 500 < refused < 1950
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 64 * 1024
    assert time.process_time() - start < 10 * 10 * honest_s  # ten times as many files; they cost less than honest ones


def test_a_bomb_that_keeps_its_word_is_refused_where_memory_does_not_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """900 MB from 1 MB: possible, and for an empty label even plausible; read only where 4 GB are free."""
    (tmp_path / "scan.nii.gz").write_bytes(bomb((770, 770, 770), 2**30))
    monkeypatch.setattr(reader, "free_bytes", lambda: 2**32)
    inflating_s = cpu_s(lambda: zlib.decompressobj(31).decompress((tmp_path / "scan.nii.gz").read_bytes(), 2**25))
    start = time.process_time()
    with pytest.raises(VolumeError, match=r"needs 4\.3 GiB to be read, 4\.0 are free"):
        read(tmp_path / "scan.nii.gz")
    assert time.process_time() - start < inflating_s  # of a 32nd, some 80 ms; to refuse takes 1 ms
    monkeypatch.undo()
    assert reader.free_bytes() > 2**20


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def test_voxels_are_those_nibabel_reads_whatever_type_order_and_scaling(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 100, (5, 6, 7))
    for kind in ("u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"):
        scalings = ((0.37, -5.0), (2.0, 0.5), (1.0, -1024.0), (300.0, 7.0))
        for order, slope in (("<", None), (">", None), *product("<>", scalings)):
            header = nib.Nifti1Header(endianness=order)
            image = nib.Nifti1Image(values.astype(order + kind), np.diag([2.0, 3, 4, 1]), header)
            content = bytearray(image.to_bytes())
            if slope:
                struct.pack_into(f"{order}2f", content, SLOPE, *slope)
            path = tmp_path / f"{kind}{order == '<'}{slope is None}.nii"
            path.write_bytes(content)
            expected = np.asarray(nib.load(path).dataobj, dtype=np.float32).transpose(2, 1, 0)
            np.testing.assert_array_equal(read(path).array, expected)


def test_data_raw_itself_may_be_a_link_and_further_places_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    scan = save(tmp_path / "archive/patient001/patient001_frame01.nii.gz", np.ones((4, 4, 4)))
    (tmp_path / "raw").symlink_to(tmp_path / "archive")
    (tmp_path / "several").mkdir()
    (tmp_path / "several/acdc").symlink_to(tmp_path / "archive")
    (scan.parent / "patient001_frame02.nii.gz").symlink_to(scan.name)

    def problems(folder: str) -> list[str]:
        return [entry["problem"] for entry in listing.take(tmp_path / folder, tmp_path / "d.sqlite").to_pylist()]

    assert problems("raw") == ["", ""]
    assert problems("several") == [listing._leads_out(tmp_path / "several/acdc", [tmp_path / "several"])] != [""]
    monkeypatch.setenv("MEDSEG_LINKED", str(tmp_path / "archive"))
    assert problems("several") == ["", ""]
