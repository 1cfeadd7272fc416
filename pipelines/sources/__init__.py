"""Readers of original layouts: each turns file names into `Scan` records, nothing more.

A reader looks at names (and at a small index file where the layout has one), never at voxels; ingest checks those.
"""

import json
import posixpath
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.scans import channels
from pipelines.scans.label_names import Meanings
from pipelines.scans.naming import at

SEPARATE_GRIDS = ("bids",)  # layouts whose images of one session need not be registered
NIFTI = r"(?i:\.nii(?:\.gz)?)$"  # how names end
# A patient seen several times must not be on both sides of a split: patient001_frame01 and _frame12 are one.
_OCCASION = re.compile(r"^(.+?)[_-](?:frame|phase|time|visit|ses|session|tp)[-_]?\d+$", re.IGNORECASE)
MAX_INDEX_BYTES = 2**26  # of an index file: 15,000 scans take about 3 MB


@dataclass(frozen=True)
class Scan:
    """What a layout says about one scan.

    `patient`, `key`: the layout's own ids of patient and scan; they end in ingest, as pseudonyms.
    `source`: the layout. `dataset`: what tells its data sets apart, empty where a layout is one data set.
    `images`: modality -> path relative to the raw folder, POSIX, with a channel of it (pipelines/scans/channels.py);
    the number of a channel, "0" first, where names do not tell the modality. `labels`: label map or mask, likewise ->
    its contract, by name or spelled out (pipelines/scans/contracts.py); none if unlabelled. `unread`: further files
    that belong to it. `problem`: why the scan cannot be used, if the names already tell; paths and ids in it are
    marked by `naming.at`, and SOURCE stands for the source in what is to be put into params.yaml. `unknown`: labels
    whose names say nothing -> the structure they come nearest to.
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
    unread: tuple[str, ...] = ()
    unknown: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[str, ...]:
        """Files, each once."""
        files = (channels.parted(path)[0] for path in self.images.values())
        return tuple(dict.fromkeys((*files, *self.labels, *self.unread)))


# Of listed files, below a folder, with what params.yaml says of labels that their names do not tell.
Reader = Callable[[Sequence[str], Path, Meanings], Iterator[Scan]]


def readers() -> dict[str, Reader]:
    """Every layout that is read from files, by name."""
    from pipelines.sources import acdc, bids, brats, flare, kits, lits, msd, nnunet, pairs, totalsegmentator

    return {
        "msd": msd.find,
        "acdc": acdc.find,
        "brats": brats.find,
        "kits": kits.find,
        "lits": lits.find,
        "bids": bids.find,
        "nnunet": nnunet.find,
        "totalsegmentator": totalsegmentator.find,
        "flare": flare.find,
        "pairs": pairs.find,
    }


def scans_in(files: Sequence[str], root: Path, meanings: Meanings, layouts: Container[str]) -> Iterator[Scan]:
    """Of these layouts, in the order of `readers`; a file that one has claimed is no other's."""
    taken: set[str] = set()
    for name, find in readers().items():
        if name in layouts:
            own = [scan for scan in find(files, root, meanings) if not taken & set(scan.paths)]
            taken.update(path for scan in own for path in scan.paths)
            yield from own


def layout_of(source: str) -> str:
    """Of a row's source: `nnunet-liver` and `phantom-kits` are of the layouts nnunet and kits."""
    return source.removeprefix("phantom-").partition("-")[0]


def patient_of(case: str) -> str:
    """What a case is called without the occasion that it was taken at."""
    return _OCCASION.sub(r"\1", case)


def stem_of(path: str) -> str:
    """A file's name without its ending."""
    return re.sub(NIFTI, "", posixpath.basename(path))


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


def as_listed(files: Iterable[str]) -> Mapping[str, str]:
    """Paths by their spelling with the ending in small letters: an index says .nii.gz of what a copy calls .NII.GZ."""
    return {_plain(path): path for path in sorted(files, reverse=True)}


def listed_as(path: str, known: Mapping[str, str]) -> str | None:
    """The path as it is really spelled; None if there is none."""
    return known.get(_plain(path))


def _plain(path: str) -> str:
    return re.sub(NIFTI, lambda match: match[0].lower(), path)


def beside(index: str, name: str) -> tuple[str, str]:
    """The path that an index file means by `name`, below the raw folder, and the problem if it leads out of that."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(index), name))
    if posixpath.isabs(name) or path.startswith("../"):
        return posixpath.basename(
            name
        ), f"{at(index)}: names a file out of the folder; an index may only name files in it"
    return path, ""
