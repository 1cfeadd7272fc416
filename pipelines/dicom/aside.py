"""Images that are sound, but no scan to learn from: planning images, screens, projections, phase images, maps, mosaics.

    reason(dataset, kinds) -> str     of one image; empty for a scan
    planning(frames) -> str           of a whole series that shows several planes

Nobody can mend them, and every export holds some, so they are set aside and do not count as quarantined.
"""

import re
from collections.abc import Collection, Sequence

import numpy as np
from pydicom import Dataset

from pipelines.dicom.frames import Frame
from pipelines.dicom.reading import text, texts

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SQUARE = 0.1  # cosine: planes of a localiser are perpendicular, within 6 degrees
MAX_PLANNING = 30  # slices of a planning series in one plane
THICK_MM = 5.0

# What, by a code string, or by the description. First match wins.
_ANY = (
    (
        "a localiser, calibration or bolus tracking: planning images",
        {"LOCALIZER", "SCOUT", "SURVEY"},
        r"locali[sz]er|lokali[sz]|\bscouts?\b|\bsurvey|\bsurview|\bpilot\b|topogram|scano(gram)?\b|\b(3|three|tri).?(pl|plane)\b|"
        r"bolus.?track|\btracker\b|smart ?prep|^monitoring|premonitoring|test.?bolus|\blocator\b|"
        r"^\W*locs?\b|\basset cal|calibration|\bref ?scan|coil sens",
    ),
    (
        "a screen of the console",
        {"SCREEN SAVE", "CT_SOM5 PROT", "DOSE_INFO"},
        r"patient protocol|dose (report|info)|exam summary|screen ?save",
    ),
    (
        "a Siemens mosaic, a whole volume in one image; export it as enhanced MR, or convert it to NIfTI first",
        {"MOSAIC"},
        "",
    ),
    (
        "a projection through the volume",
        {"MIP", "MINIP", "MAXIP", "MNIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "PROJECTION_IMAGE", "VRT"},
        "",
    ),
    (
        "a map of a material",
        set[str](),
        r"\biodine (map|only|no water|\(water\))|\bz ?eff|effective z|electron density",
    ),
    (
        "a map of perfusion",
        {"CBF", "CBV", "RCBF", "RCBV", "MTT", "RMTT", "TTP", "TMAX"},
        r"\br?r?cb[fv]\b|\br?mtt\b|\bttp\b|\btmax\b|blood (flow|volume)|transit time|time to peak|permeability",
    ),
)  # fmt: skip
_DERIVED = (
    ("a projection through the volume", set[str](), r"\bt?(mip|minip|mnip|maxip)s?\b|projection|\bvrt\b"),
    ("a map of perfusion", {"PERFUSION"}, ""),
)
_MR = (
    (
        "a phase image",
        {"P", "PHASE", "PHASE MAP", "PHASE_MAP", "P_FFE", "P_SE", "P_IR", "VELOCITY MAP", "VELOCITY_MAP"},
        r"\bpha ?images?\b|\bphase (map|image)s?\b",
    ),
    ("an imaginary part", {"I", "IMAGINARY", "I_FFE", "I_SE", "I_IR"}, ""),
    (
        "a field map",
        {"B0", "B0 MAP", "B0_MAP", "FIELD_MAP", "FIELDMAP", "FIELD MAP", "B1", "B1 MAP"},
        r"field ?map|\bb[01] ?map",
    ),
)


def reason(dataset: Dataset, kinds: Collection[str]) -> str:
    """`kinds`: code strings of the image, upper case. Empty if it is a scan."""
    if is_secondary_capture(text(dataset, "SOPClassUID")):
        return "a secondary capture: a screen or document, not a scan"
    if text(dataset, "PhotometricInterpretation").upper() not in ("MONOCHROME1", "MONOCHROME2", ""):
        return "a colour image: a screen capture, fused view or photograph, not a scan"
    tables = [*_ANY, *(_MR if text(dataset, "Modality").upper() == "MR" else ())]
    tables += _DERIVED if "DERIVED" in {*kinds, *texts(dataset, "ImageType")} else ()
    words = described(dataset)
    return next(
        (what for what, codes, pattern in tables if codes & {*kinds} or (pattern and re.search(pattern, words))), ""
    )


def is_secondary_capture(uid: str) -> bool:
    return uid == SECONDARY_CAPTURE or uid.startswith(f"{SECONDARY_CAPTURE}.")


def described(dataset: Dataset) -> str:
    """The words of the series' description, or where it has none the protocol's, lower case."""
    words = text(dataset, "SeriesDescription") or text(dataset, "ProtocolName")
    return words.replace("_", " ").lower()


def planning(frames: Sequence[Frame]) -> str:
    """Why a series of several planes is one of planning images; empty if it is none.

    Its planes are perpendicular, with few slices each, and there are three of them, or they are thick.
    """
    planes: list[list[Frame]] = []
    for frame in frames:
        own = next((plane for plane in planes if abs(plane[0].normal @ frame.normal) > 1 - SQUARE**2), None)
        planes.append([frame]) if own is None else own.append(frame)
    normals = np.array([plane[0].normal for plane in planes])
    square = np.abs(normals @ normals.T - np.eye(len(planes))).max() < SQUARE
    few = max(map(len, planes)) <= MAX_PLANNING
    if len(planes) < 2 or not (square and few and (len(planes) == 3 or all(map(_is_thick, planes)))):
        return ""
    return f"a localiser: planning images of {len(planes)} planes"


def _is_thick(plane: list[Frame]) -> bool:
    """Slices far from each other, or too few to tell."""
    places = np.sort([float(frame.position_mm @ plane[0].normal) for frame in plane])
    return len(plane) < 3 or bool(np.median(np.diff(places)) >= THICK_MM)
