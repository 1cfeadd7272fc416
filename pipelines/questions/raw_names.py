"""What the names of raw files and folders may tell of patients, in every layout, for the audit: held in memory only.

    collect(raw) -> set of Value(kind, text)

Kinds: `path` names of folders and files without their endings; `name` words in them; `id` numbers in them, and the ids
that layouts give to patients and cases. Left out is what a published data set calls its own files, and the words that
layouts are written in.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

from pipelines.dicom.descriptors import keeps
from pipelines.dicom.identity import Value
from pipelines.intake import listing
from pipelines.scans.naming import published
from pipelines.sources import readers

_ENDING = re.compile(
    r"(?:\.(?:nii|gz|json|tsv|txt|csv|dcm|ima|dicom|cfg|md|pdf|png|jpg|zip|bval|bvec|nrrd|mha))+$", re.I
)
# Words of layouts, of tools and of folders that people make; no one of them names a patient.
_WORDS = """
anat annotations archive asl bids bold brain brats cases centre center channel cohort cohorts converted copy ct data
dataset datasets dcm decathlon derivatives description dicom dicomdir dseg dwi export exported exports fmap func
head hospital image images imagestr imagests imaging kits label labels labelstr labelsts magn manual mask masks
medical msd nifti nii nnunet openneuro participants patient patients perf pet probseg raw readme scan scans
segmentation segmentations series session sessions site study subject subjects task test testing tmp train training
unread validation visit volume volumes
"""
_GENERIC = frozenset(_WORDS.split())
_COUNTED = re.compile(  # IMG0001, or fewer digits than a number of a person has
    r"(?:im|img|image|slice|frame|series|serie|ser|scan|vol|volume|file|case|sub|i|mr|ct)\d+|(?:\D*\d){1,3}\D*", re.I
)
_ENTITY = re.compile(r"^(?:sub|ses|acq|run|task|ce|rec|dir|label|desc|space|echo|hemi|part|seg|res|den)-")
MIN_WORD = 2
MASKS = "totalsegmentator"  # calls its masks after what they show


def collect(raw: Path) -> set[Value]:
    """From every file and folder below `raw`, whether it can be read or not."""
    paths = [path.relative_to(raw).as_posix() for path, _ in listing.walk(raw)]
    parts = {part for path in paths for part in path.split("/")}
    values: set[Value] = set()
    for name, find in readers().items():
        for scan in find(paths, raw, {}):
            if name == MASKS:
                parts -= {
                    PurePosixPath(path).name for path in (*scan.labels, *scan.unread)
                }  # of organs, not of persons
            for own in {scan.patient, scan.key}:
                values |= {value for part in own.split("/") for value in _of_part(part)}
    return values | {value for part in parts for value in _of_part(part)}


def _of_part(part: str) -> Iterator[Value]:
    """Values of one folder's or file's name; of none that says nothing."""
    stem = _ENDING.sub("", part)
    if published(part) or published(f"{stem}.nii.gz") or published(stem):
        return
    pieces = [_ENTITY.sub("", piece) for piece in re.split(r"[_\s,;.()^=+&]+", stem)]
    words = [word for piece in pieces for word in re.split(r"-", piece) if word]
    telling = [word for word in words if word.lower() not in _GENERIC and not keeps(word)]
    if not telling:
        return
    yield Value("path", stem)
    for word in telling:
        if re.search(r"\d", word):
            if word.isdigit() or not _COUNTED.fullmatch(word):
                yield Value("id", word)
        elif len(word) >= MIN_WORD:
            yield Value("name", word)
    for one, other in pairwise(telling):
        if one.isalpha() and other.isalpha():
            yield Value("name", f"{one}^{other}")
    for piece in pieces:
        if "-" in piece and re.search(r"\d", piece):
            yield Value("id", piece)
