"""One channel of a file that holds several, as the Decathlon's 4-D tasks do: `scan.nii.gz#1` is its second.

A path of this kind stands for the channel wherever a path stands for a volume; it is taken apart here alone.
"""

import re
from pathlib import Path

_NUMBERED = re.compile(r"(?P<file>.+(?:(?i:\.nii(?:\.gz)?)|/[0-9a-f]{16}))#(?P<channel>\d{1,4})")


def numbered(path: str | Path, channel: int | None) -> str:
    """`channel`: from 0 on; None: the file as a whole."""
    return str(path) if channel is None else f"{path}#{channel}"


def parted(path: str | Path) -> tuple[str, int | None]:
    """The file, and which channel of it, if one is meant."""
    match = _NUMBERED.fullmatch(str(path))
    return (match["file"], int(match["channel"])) if match else (str(path), None)


def file_of(path: Path) -> Path:
    return Path(parted(path)[0])
