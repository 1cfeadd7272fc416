"""Damaged and hostile DICOM: one folder with all of it beside a sound series, through the stage once.

Nothing crashes or hangs; each is quarantined with the reason that is true of it; the sound series is not touched.
"""

import gzip
import json
import os
import re
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import FileDataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from pipelines.intake import finding, listing
from pipelines.scans.naming import Names
from tests.pipelines.dicom import dicom_files as files
from tests.pipelines.dicom.test_series import KEY, brought

Make = Callable[[Path], Path]
DAMAGED: dict[str, tuple[Make, str]] = {}


def damaged(reason: str) -> Callable[[Make], Make]:
    """Register a maker: it writes below a folder of its own and returns the file, or the folder, that is refused."""

    def register(make: Make) -> Make:
        DAMAGED[make.__name__] = (make, reason)
        return make

    return register


def sound(folder: Path, **changed: object) -> Path:
    """A series of its own, named for its folder."""
    files.series(folder, files.voxels(4), study=folder.name, series=folder.name, **changed)  # type: ignore[arg-type]
    return folder


def one_file(folder: Path, content: bytes, name: str = "x.dcm") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def good_bytes(folder: Path) -> bytes:
    paths = files.series(folder / "tmp", files.voxels(1), study=folder.name, series=folder.name)
    content = paths[0].read_bytes()
    paths[0].unlink()
    return content


def rewritten(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """The last slice of a sound series, its bytes changed."""
    sound(folder)
    path = sorted(folder.glob("*.dcm"))[-1]
    path.write_bytes(change(path.read_bytes()))
    return folder


def each_slice(folder: Path, change: Callable[[FileDataset], object]) -> Path:
    return sound(folder, change=lambda dataset, k: change(dataset))


@damaged("the file is empty")
def empty(folder: Path) -> Path:
    return one_file(folder, b"")


@damaged("not a DICOM file")
def text(folder: Path) -> Path:
    return one_file(folder, b"this is not a scan, whatever its name says\n" * 20)


@damaged("not a DICOM file")
def zeros(folder: Path) -> Path:
    return one_file(folder, bytes(1 << 20))


@damaged("not a DICOM file")
def cut_in_the_preamble(folder: Path) -> Path:
    return one_file(folder, good_bytes(folder)[:100])


@damaged("truncated")
def magic_word_only(folder: Path) -> Path:
    return one_file(folder, bytes(128) + b"DICM")


@damaged("SeriesInstanceUID is missing")
def cut_in_the_header(folder: Path) -> Path:
    return one_file(folder, good_bytes(folder)[:420])


@damaged("pixel data has 660 bytes where Rows x Columns needs 960; truncated")
def cut_in_the_pixels(folder: Path) -> Path:
    return rewritten(folder, lambda content: content[:-300])


@damaged("not a DICOM file")
def bytes_swapped(folder: Path) -> Path:
    content = good_bytes(folder)
    content += b"\0" * (len(content) % 2)
    return one_file(folder, np.frombuffer(content, "<u2").byteswap().tobytes())


@damaged("not a DICOM file")
def gzipped(folder: Path) -> Path:
    return one_file(folder, gzip.compress(good_bytes(folder)))


@damaged("Rows cannot be read")
def wrong_vr(folder: Path) -> Path:
    before = b"\x28\x00\x10\x00US\x02\x00"
    return rewritten(folder, lambda content: content.replace(before, b"\x28\x00\x10\x00DS\x02\x00"))


@damaged("ImagePositionPatient cannot be read")
def letters_for_a_number(folder: Path) -> Path:
    return rewritten(folder, lambda content: content.replace(b"-10.0\\-20.0\\", b"-10.0\\TWENTY"))


@damaged("pixel data is empty")
def pixel_data_of_no_size(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "PixelData", b""))


@damaged("no pixel data")
def no_pixel_data(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: delattr(dataset, "PixelData"))


@damaged("bytes where Rows x Columns needs")
def more_rows_than_pixels(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "Rows", 20_000))


@damaged("are beyond 1073741824 voxels")
def rows_and_columns_beyond_reason(folder: Path) -> Path:
    return each_slice(folder, lambda ds: (setattr(ds, "Rows", 65_000), setattr(ds, "Columns", 65_000)))


@damaged("Rows is 0")
def no_rows(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "Rows", 0))


@damaged("beyond 1073741824 voxels")
def a_thousand_million_frames(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "NumberOfFrames", 1_000_000_000))


@damaged("BitsAllocated is 13")
def thirteen_bits(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "BitsAllocated", 13))


@damaged("RescaleSlope is NaN or infinite")
def slope_not_a_number(folder: Path) -> Path:
    before = b"\x28\x00\x53\x10DS\x04\x00"
    return rewritten(folder, lambda content: content.replace(before + b"1.0 ", before + b"nan "))


@damaged("RescaleIntercept is NaN or infinite")
def intercept_infinite(folder: Path) -> Path:
    return rewritten(folder, lambda content: content.replace(b"DS\x08\x00-1000.0 ", b"DS\x08\x00-1e99999"))


@damaged("RescaleSlope is 0")
def slope_zero(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "RescaleSlope", 0))


@damaged("is outside")
def spacing_zero(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "PixelSpacing", [0, 0.7]))


@damaged("PixelSpacing has 1 values where 2 are due")
def spacing_of_one_value(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "PixelSpacing", [0.7]))


@damaged("PixelSpacing is missing")
def no_spacing(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: delattr(dataset, "PixelSpacing"))


@damaged("not two perpendicular unit vectors")
def orientation_of_no_length(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "ImageOrientationPatient", [0] * 6))


@damaged("lies beyond 100000 mm")
def a_slice_on_the_moon(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "ImagePositionPatient", [0, 0, 384_400_000_000]))


@damaged("several slices at one place with different pixels")
def all_slices_at_one_place(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: setattr(dataset, "ImagePositionPatient", [0, 0, 0]))


@damaged("SeriesInstanceUID is missing")
def no_series(folder: Path) -> Path:
    dataset = files.add_pixels(files.image(study=folder.name), files.voxels(1)[0])
    del dataset.SeriesInstanceUID
    folder.mkdir(parents=True)
    files.write(dataset, folder / "x.dcm")
    return folder / "x.dcm"


@damaged("inflates beyond")
def deflated_bomb(folder: Path) -> Path:
    """500 MB of zeros in half a megabyte."""
    content = good_bytes(folder)
    start = content.index(b"\x08\x00\x08\x00")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (
        packer.compress(content[start:]) + b"".join(packer.compress(bytes(1 << 24)) for _ in range(30)) + packer.flush()
    )
    return one_file(folder, relabelled(content[:start], DeflatedExplicitVRLittleEndian) + bomb)


def relabelled(meta: bytes, syntax: str) -> bytes:
    """A file's preamble and meta header with another transfer syntax, its length right."""
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = meta.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(meta[at + 6 : at + 8], "little")
    return meta[: at + 6] + len(value).to_bytes(2, "little") + value + meta[at + 8 + length :]


@damaged("bytes more than the file holds")
def giant_declared_length(folder: Path) -> Path:
    content = good_bytes(folder)
    at = content.index(b"\x08\x00\x08\x00")
    return one_file(folder, content[:at] + b"\x08\x00\x06\x00UT\0\0\xf0\xff\xff\xff" + content[at:])


@damaged("bytes more than the file holds")
def giant_pixel_length(folder: Path) -> Path:
    def giant(content: bytes) -> bytes:
        at = content.index(b"\xe0\x7f\x10\x00OW")
        return content[: at + 8] + b"\xf0\xff\xff\xff" + content[at + 12 : at + 200]

    return rewritten(folder, giant)


@damaged("sequences nest deeper than any scanner writes")
def nested_without_end(folder: Path) -> Path:
    content = good_bytes(folder)
    at = content.index(b"\x10\x00\x10\x00")
    nest = (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 20_000
    return one_file(folder, content[:at] + nest + content[at:])


@damaged("ends in the middle of an element or sequence")
def sequence_that_never_ends(folder: Path) -> Path:
    content = good_bytes(folder)
    at = content.index(b"\x10\x00\x10\x00")
    return one_file(folder, content[:at] + b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + content[at:])


@damaged("ImagePositionPatient is missing")
def names_that_climb_out(folder: Path) -> Path:
    """Identifiers that would write elsewhere if they became file names."""

    def climb(dataset: FileDataset) -> None:
        dataset.PatientID = "../../../../tmp/evil"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "../../evil", f"/etc/evil/{folder.name}"
        del dataset.ImagePositionPatient

    return each_slice(folder, climb)


@damaged("its name holds control characters or is no UTF-8; rename it")
def file_name_that_climbs_out(folder: Path) -> Path:
    return one_file(folder, b"nothing at all" * 20, "x..\\..\\evil\n%2e%2e%2f\udcff.dcm")


@damaged("a link that leads out of the folder")
def link_out_of_the_folder(folder: Path) -> Path:
    outside = folder.parents[1] / "outside"
    paths = files.series(outside / folder.name, files.voxels(3), series="outside", study=folder.name)
    folder.mkdir()
    (folder / "x.dcm").symlink_to(paths[0])
    return folder / "x.dcm"


@damaged("a link that leads out of the folder")
def folder_linked_from_outside(folder: Path) -> Path:
    outside = folder.parents[1] / "outside"
    files.series(outside / folder.name, files.voxels(3), series="outside", study=folder.name)
    folder.mkdir()
    (folder / "inner").symlink_to(outside / folder.name, target_is_directory=True)
    return folder / "inner"


@damaged("pixel data cannot be decoded|the series crashed its reader")
def compressed_noise(folder: Path) -> Path:
    return each_slice(
        folder, lambda dataset: _encapsulated(dataset, JPEG2000Lossless, b"\xff\x4f\xff\x51" + noise(500))
    )


@damaged("pixel data cannot be decoded|the series crashed its reader")
def jpeg_noise(folder: Path) -> Path:
    return each_slice(
        folder, lambda dataset: _encapsulated(dataset, JPEGBaseline8Bit, b"\xff\xd8\xff\xe0" + noise(500))
    )


@damaged("pixel data cannot be decoded")
def run_length_noise(folder: Path) -> Path:
    return each_slice(folder, lambda dataset: _encapsulated(dataset, RLELossless, noise(600)))


def noise(count: int) -> bytes:
    return np.random.default_rng(count).bytes(count)


def _encapsulated(dataset: FileDataset, syntax: str, frame: bytes) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


@damaged("the transfer syntax is unknown to the standard")
def unknown_transfer_syntax(folder: Path) -> Path:
    return rewritten(folder, lambda content: content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0"))


@damaged("per-frame groups for 4 frames; the header lies")
def fewer_groups_than_frames(folder: Path) -> Path:
    dataset = files.enhanced(folder / "x.dcm", files.voxels(4), study=folder.name, series=folder.name)
    del dataset.PerFrameFunctionalGroupsSequence[1:]
    files.write(dataset, folder / "x.dcm")
    return folder


@damaged("voxels are NaN or infinite")
def float_pixels_not_numbers(folder: Path) -> Path:
    def floats(dataset: FileDataset) -> None:
        plane = np.full((20, 24), np.nan, np.float32)
        del dataset.PixelData, dataset.HighBit, dataset.BitsStored, dataset.PixelRepresentation
        dataset.BitsAllocated, dataset.FloatPixelData = 32, plane.tobytes()

    return each_slice(folder, floats)


@damaged("structures 1 of 1: ContourData has 9 values where 3000 are due")
def contour_that_lies_about_its_points(folder: Path) -> Path:
    sound(folder)
    drawn_on = files.image(study=folder.name, series=folder.name)
    files.structure_set(folder / "rt.dcm", drawn_on, {"kidney": [np.full((3, 3), 30.0)]})
    structures = dcmread(folder / "rt.dcm")
    structures.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 1000
    files.write(structures, folder / "rt.dcm")
    return folder


@damaged("unreadable (No such file or directory)")
def dangling_link(folder: Path) -> Path:
    folder.mkdir()
    (folder / "x.dcm").symlink_to(folder / "gone.dcm")
    return folder / "x.dcm"


@damaged("not a regular file")
def pipe(folder: Path) -> Path:
    folder.mkdir()
    os.mkfifo(folder / "x.dcm")
    return folder / "x.dcm"


@damaged("unreadable (a link that leads to itself)")
def link_to_itself(folder: Path) -> Path:
    folder.mkdir()
    (folder / "x.dcm").symlink_to(folder / "x.dcm")
    return folder / "x.dcm"


def shown(path: Path) -> str:
    """As the inventory lists it."""
    name = path.as_posix()
    return name if name.isprintable() else name.encode("unicode_escape", "surrogatepass").decode()


@pytest.fixture(scope="module")
def reasons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Maker -> the reason in the stage's records, or in ingest's rows for what cannot even be opened."""
    raw = tmp_path_factory.mktemp("malformed") / "raw"
    raw.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the very values that are wanted here
        refused = {name: make(raw / name) for name, (make, _) in DAMAGED.items()}
    sound(raw / "sound")
    records = brought(raw)
    usable = [v for record in records for v in record["volumes"] if not v["quarantined"]]
    assert len(usable) >= 1
    by_name = {path.stem: path for record in records for path in record["folder"].glob("*.json")}
    told = {}
    for record in records:
        stem = record.get("series") or ""
        volumes = "; ".join(volume["quarantined"] for volume in record["volumes"])
        told[stem] = record["quarantined"] or volumes
    for stem, path in by_name.items():
        if path.parent.name == "refused":
            told[stem] = json.loads(path.read_text())["quarantined"]
    listed = listing.take(raw, raw.parent / "digests.sqlite")
    rows = [{**row, "path": Names(KEY).hidden(row["path"])} for row in listed.to_pylist()]
    for row in finding.find(raw, type(listed).from_pylist(rows, listing.SCHEMA), ()):
        told[row.files[0].path.rpartition("/")[2]] = row.quarantined
    found = {}
    for name, path in refused.items():
        here = list(path.glob("*.dcm")) if path.is_dir() and not path.is_symlink() else [path]
        names = [KEY.name("path", shown(p.relative_to(raw))) for p in here]
        series = {KEY.name("series", files.uid("series", name, name)), KEY.name("series", f"/etc/evil/{name}")}
        found[name] = "; ".join(told[each] for each in (*names, *series) if told.get(each))
    return found


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_quarantined_with_a_true_reason(reasons: dict[str, str], name: str) -> None:
    _, reason = DAMAGED[name]
    assert reasons[name], "accepted, or lost without a word"
    pattern = "|".join(re.escape(part) for part in reason.split("|"))
    assert re.search(pattern, reasons[name]), reasons[name]


def test_more_than_40_kinds_are_covered() -> None:
    assert len(DAMAGED) >= 40
