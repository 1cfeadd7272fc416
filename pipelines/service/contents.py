"""What was uploaded, told by its first bytes, and named so that the search for scans finds what belongs together."""

import gzip
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fastapi import HTTPException

from pipelines.service.serve_settings import ServeLimits
from pipelines.sources import stem_of
from pipelines.sources.channel_names import modality_at_end

MIB = 1 << 20
ZIP, NIFTI, PACKED, DICOM = ".zip", ".nii", ".nii.gz", ".dcm"
MAX_RATIO = 200  # as pipelines/serving/dicom_inputs.py: scans shrink to a half, empty ones to a 50th
MEMBER_BYTES = 1024  # of a zip's directory, for each file that it may hold
_CHANNEL = re.compile(r"(?P<name>.+)_(?P<channel>00\d\d)")


def settle_files(folder: Path, names: dict[Path, str], limits: ServeLimits) -> None:
    """Rename the files of an upload; `names`: how the client calls them. Raises HTTPException 413, 415 or 422."""
    if not names:
        raise HTTPException(422, "nothing was sent; send a NIfTI file, DICOM files or a zip of them")
    groups: dict[str, int] = {}
    for number, (path, name) in enumerate(names.items()):
        kind = kind_of(path)
        if kind == ZIP:
            check_zip(path, limits)
        new = f"{number:06d}{kind}" if kind in (ZIP, DICOM) else _nifti_name(name, kind, groups)
        if (folder / new).exists():
            raise HTTPException(422, "two files have one name and modality; name them apart, as a_t1.nii, a_flair.nii")
        path.rename(folder / new)
    if len(names) > 1 and any(path.suffix == ZIP for path in folder.iterdir()):
        raise HTTPException(422, "a zip comes alone; pack all into one")


def kind_of(path: Path) -> str:
    """By content. Raises HTTPException 415 or 422."""
    with path.open("rb") as file:
        head = file.read(1 << 12)
    if not head:
        raise HTTPException(422, "a file is empty; send it whole")
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return ZIP
    if head[128:132] == b"DICM":
        return DICOM
    if _is_nifti(head):
        return NIFTI
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as unpacked:
                head = unpacked.read(352)
        except (OSError, EOFError, zlib.error):
            raise HTTPException(422, "a file is damaged: it begins as gzip and cannot be read; send it whole") from None
        if _is_nifti(head):
            return PACKED
    raise HTTPException(415, "a file is neither NIfTI (.nii, .nii.gz) nor DICOM nor a zip; send one of these")


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0",) or head[4:8] == b"n+2\0"


def check_zip(path: Path, limits: ServeLimits) -> None:
    """Its directory, which may lie: who unpacks it counts again. Raises HTTPException 413 or 422."""
    try:
        with path.open("rb") as file:
            end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end and end[zipfile._ECD_SIZE] > limits.files * MEMBER_BYTES:  # type: ignore[attr-defined]
            raise _too_many(limits)
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError):
        raise HTTPException(422, "the zip cannot be read; pack it again and send it whole") from None
    if sum(not member.is_dir() for member in members) > limits.files:
        raise _too_many(limits)
    total = sum(member.file_size for member in members)
    if total > min(limits.unpacked_mib * MIB, MAX_RATIO * max(path.stat().st_size, MIB)):
        raise HTTPException(
            413, f"the zip unpacks to more than may be ({limits.unpacked_mib} MiB), or is a bomb; split it"
        )
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        if ".." in parts or parts[:1] == ("/",) or re.match(r"[A-Za-z]:", member.filename):
            raise HTTPException(422, "the zip names files outside of itself; pack a folder by its name")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise HTTPException(422, "the zip holds a link or device; pack plain files")
        if member.flag_bits & 0x1:
            raise HTTPException(422, "the zip is encrypted; pack it without a password")


def _too_many(limits: ServeLimits) -> HTTPException:
    return HTTPException(413, f"the zip holds more than {limits.files} files; split it")


def _nifti_name(name: str, kind: str, groups: dict[str, int]) -> str:
    """`scan-1_T1.nii.gz`: files of one name, but for what ends it, are one scan."""
    stem = stem_of(PurePosixPath(name.replace("\\", "/")).name) if name else ""
    if channel := _CHANNEL.fullmatch(stem):
        own, end = channel["name"], channel["channel"]
    else:
        own, end = modality_at_end(stem)
    number = groups.setdefault(own, len(groups) + 1)
    return f"scan-{number}{f'_{end}' if end else ''}{kind}"
