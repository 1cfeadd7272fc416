"""What patients, cases and files are called once they have left the folder of raw scans.

    Names(pseudonyms).identifier(source, own)   of a case or patient: a keyed pseudonym of the layout's own id
    Names(pseudonyms).path(path)                of a file below data/raw: `layout/PSEUDONYM`
    Names(pseudonyms).told(problem)             a reason with its paths, marked by `at`, called like that

Kept as they are, without a key, so that a published result can be had again anywhere: what the published data sets
MSD, AMOS, ACDC, BraTS, KiTS, LiTS, FLARE and TotalSegmentator call their own scans, by pattern. Such a running number
says nothing about a person. A path is kept if every part of it is such a name. All else may name somebody: any id in
BIDS and nnU-Net raw, a number beyond KiTS's, a folder above.
"""

import hashlib
import re
from collections.abc import Container

from pipelines.scans.key import Pseudonyms

LAYOUT, HIDDEN = "layout", "hidden"  # a file that a layout names; any other
_NAMELESS = re.compile(f"{HIDDEN}/[0-9a-f]{{16}}")  # as the inventory has it, where nobody needs the file itself
_BEGIN, _END = "\x02", "\x03"  # a listed path holds no control characters
_MSD = r"(?:(?:BRATS|la|liver|hippocampus|prostate|lung|pancreas|hepaticvessel|spleen|colon)_\d{1,3}|amos_0\d{3})"
_MSD_TASK = r"(?:brats|heart|leftatrium|liver|hippocampus|prostate|lung|pancreas|hepaticvessel|spleen|colon|amos)"
_BRATS_LATER = r"BraTS-(?:GLI|MEN|MET|PED|SSA|GoAT)-\d{5}"
_BRATS = rf"(?:BraTS(?:20_(?:Training|Validation)_\d{{3}}|2021_\d{{5}})|{_BRATS_LATER}(?:-\d{{3}})?)"
_LITS = r"(?:(?:volume|segmentation)-(?:\d{1,2}|1[0-2]\d|130)|test-volume-[0-6]?\d)"
_FLARE = r"FLARE22_T[rsu]_\d{4}"
_TOTAL = r"s[01]\d{3}"  # of the structures in its masks: not named here, as people add their own
_ACDC, _KITS = r"patient\d{3}", r"case_00[0-5]\d\d"
_IDS = {
    "msd": re.compile(f"{_MSD_TASK}/{_MSD}"),
    "acdc": re.compile(rf"{_ACDC}(?:_frame\d\d)?"),
    "brats": re.compile(_BRATS),
    "lits": re.compile(_LITS),
    "flare": re.compile(_FLARE),
    "totalsegmentator": re.compile(rf"(?:(?:mri-)?v\d{{1,3}})?/{_TOTAL}"),
    "kits": re.compile(_KITS),
}
_DATASETS = re.compile(rf"{_MSD_TASK}|gli|men|met|ped|ssa|goat|2\d|(?:mri-)?v\d{{1,3}}")
_PART = re.compile(
    r"Task\d\d_(?:BrainTumour|Heart|Liver|Hippocampus|Prostate|Lung|Pancreas|HepaticVessel|Spleen|Colon)"
    rf"|images(?:Tr|Ts)|labelsTr|dataset\.json|Info\.cfg|training|testing|msd|acdc|ACDC|brats|kits"
    rf"|{_KITS}|(?:imaging|segmentation)\.nii(?:\.gz)?|{_MSD}\.nii(?:\.gz)?|{_BRATS}"
    rf"|{_BRATS}-(?:t1n|t1c|t2w|t2f|seg)\.nii(?:\.gz)?|{_LITS}\.nii(?:\.gz)?|{_FLARE}(?:_0000)?\.nii(?:\.gz)?"
    rf"|{_TOTAL}|(?:ct|mri)\.nii\.gz|amos22|images(?:Va|Val)|labels(?:Ts|Va|Val)|lits|flare22"
    rf"|{_BRATS}_(?:flair|t1|t1ce|t2|seg)\.nii(?:\.gz)?|{_ACDC}|{_ACDC}_(?:frame\d\d(?:_gt)?|4d)\.nii(?:\.gz)?"
)


class Names:
    """`show_paths`: paths as they are, for a terminal. `known_sources`: named in params.yaml. `keyed`: whether the key
    decided any name so far."""

    def __init__(
        self, pseudonyms: Pseudonyms, show_paths: bool = False, known_sources: Container[str] = frozenset()
    ) -> None:
        self._pseudonyms, self._show_paths, self._known_sources = pseudonyms, show_paths, known_sources
        self.keyed = False

    def identifier(self, source: str, own: str) -> str:
        """The pseudonym of what layout `source` calls `own`. DICOM's ids are keyed pseudonyms before they come here."""
        if source == "dicom" or (source in _IDS and _IDS[source].fullmatch(own)):
            return hashed(source, own)
        self.keyed = True
        return self._pseudonyms.name(source, own)

    def source(self, layout: str, dataset: str) -> str:
        """`LAYOUT-DATASET`. A data set's name may be a person's: kept if it is published or among known_sources."""
        named = f"{layout}-{dataset}"
        if not dataset or self._show_paths or named in self._known_sources or _DATASETS.fullmatch(dataset):
            return named.rstrip("-")
        self.keyed = True
        return f"{layout}-{self._pseudonyms.name('dataset', dataset)[:8]}"

    def path(self, path: str, kind: str = LAYOUT) -> str:
        """`path`: below data/raw, POSIX. `kind`: LAYOUT or HIDDEN."""
        if self._show_paths or published(path) or _NAMELESS.fullmatch(path):
            return path
        return self.hidden(path, kind)

    def hidden(self, path: str, kind: str = HIDDEN) -> str:
        """`path` under its pseudonym, whatever it is; `medseg data whereis` finds it again."""
        self.keyed = True
        return f"{kind}/{self._pseudonyms.name('path', path)}"

    def told(self, problem: str) -> str:
        return re.sub(f"{_BEGIN}(.*?){_END}", lambda match: self.path(match[1]), problem)


def at(path: str) -> str:
    """A path or name inside a reason, marked so that `Names.told` can replace it."""
    return f"{_BEGIN}{path}{_END}"


def published(path: str) -> bool:
    """Does every part of `path` come from a published data set?"""
    return all(_PART.fullmatch(part) for part in path.split("/"))


def hashed(source: str, name: str) -> str:
    """An id's plain hash: for names that say nothing, and for pseudonyms."""
    return hashlib.sha256(f"{source}/{name}".encode()).hexdigest()[:12]
