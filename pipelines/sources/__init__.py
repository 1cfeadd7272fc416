"""Readers of original layouts: each turns file names into `Scan` records, nothing more.

A reader looks at names (and at a small index file where the layout has one), never at voxels; ingest checks those.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.scans.label_names import Meanings
from pipelines.scans.naming import at

SEPARATE_GRIDS = ("bids",)  # layouts whose images of one session need not be registered
MAX_INDEX_BYTES = 2**26  # of an index file: 15,000 scans take about 3 MB


@dataclass(frozen=True)
class Scan:
    """What a layout says about one scan.

    `patient`, `key`: the layout's own ids of patient and scan; they end in ingest, as pseudonyms.
    `source`: the layout. `dataset`: what tells its data sets apart, empty where a layout is one data set.
    `images`: modality -> path relative to the raw folder, POSIX. `labels`: label map or mask, likewise -> its contract,
    by name or spelled out (pipelines/scans/contracts.py); none if unlabelled. `problem`: why the scan cannot be used,
    if the names already tell; paths and ids in it are marked by `naming.at`.
    `annotated`: structures this very scan annotates, where that differs from scan to scan; empty: all of its contracts.
    `notes`: what is odd about it already, `check: finding`.
    """

    source: str
    patient: str
    key: str
    images: dict[str, str]
    labels: dict[str, str]
    problem: str = ""
    annotated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dataset: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.images.values(), *self.labels)


# Of listed files, below a folder, with what params.yaml says of labels that their names do not tell.
Reader = Callable[[Sequence[str], Path, Meanings], Iterator[Scan]]


def readers() -> dict[str, Reader]:
    """Every layout that is read from files, by name."""
    from pipelines.sources import acdc, bids, brats, kits, msd, nnunet

    return {
        "msd": msd.find,
        "acdc": acdc.find,
        "brats": brats.find,
        "kits": kits.find,
        "bids": bids.find,
        "nnunet": nnunet.find,
    }


def layout_of(source: str) -> str:
    """Of a row's source: `nnunet-liver` and `phantom-kits` are of the layouts nnunet and kits."""
    return source.removeprefix("phantom-").partition("-")[0]


def slug(name: str) -> str:
    """What a data set is called among the sources: small letters, digits and dashes, of at most 40 characters."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]


def group(files: Sequence[str], pattern: str) -> dict[str, dict[str, list[str]]]:
    """Files matching `pattern` (groups `case` and `role`) as case -> role -> paths, both sorted."""
    found: dict[str, dict[str, list[str]]] = {}
    expression = re.compile(pattern)
    for path in sorted(files):
        if match := expression.search(path):
            found.setdefault(match["case"], {}).setdefault(match["role"], []).append(path)
    return found


def ambiguous(roles: dict[str, list[str]]) -> str:
    """The problem when one role has two files (x.nii beside x.nii.gz: readers differ in which they take)."""
    for paths in roles.values():
        if len(paths) > 1:
            return f"{at(paths[0])} and {at(paths[1])} both lie there; keep one"
    return ""


def read_index(path: Path) -> Any:
    """A JSON index file. Raises ValueError with the reason, whatever is wrong with it."""
    try:
        if not path.is_file():  # a fifo would wait for a writer
            raise ValueError("is no regular file")
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise ValueError(f"is larger than {MAX_INDEX_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"unreadable ({error.strerror})") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({type(error).__name__})") from None


def beside(index: str, name: str) -> tuple[str, str]:
    """The path that an index file means by `name`, below the raw folder, and the problem if it leads out of that."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(index), name))
    if posixpath.isabs(name) or path.startswith("../"):
        return posixpath.basename(
            name
        ), f"{at(index)}: names a file out of the folder; an index may only name files in it"
    return path, ""
