"""What a series shows: modality and MR sequence, from coded attributes first, then from the descriptions.

The names are those of model.network.config.MODALITIES. Coded means ScanningSequence, EchoTime, RepetitionTime,
InversionTime, FlipAngle, DiffusionBValue, ContrastBolusAgent: the scanner fills them in. Descriptions are typed by
people and differ from hospital to hospital; they decide only where the codes do not, and the record says which of the
two it was. Bounds of TE, TR and TI in ms follow the usual ranges of clinical protocols at 1.5 and 3 T.
"""

import re
from dataclasses import dataclass

from pydicom import Dataset

from pipelines.dicom.reading import items, soft_number, text, texts

CODES, DESCRIPTION, MODALITY = "codes", "description", "modality"

_BY_MODALITY = {"CT": "CT", "PT": "PET", "US": "US"}
_NO_AGENT = re.compile(r"^(no|none|nil|non|without|n/?a|0|-)?\W*$", re.IGNORECASE)
_IN_WORDS = (  # first match wins
    ("ADC", r"\badc\b|apparent diffusion"),
    ("DWI", r"\bdwi\b|\bdiff(usion)?\b|\btrace\b"),
    ("SWI", r"\bswi\b|\bswan\b|suscept"),
    ("LGE", r"\blge\b|late (gad|enh)|delayed enh|\bpsir\b"),
    ("CINE", r"\bcine\b|\btrufi\b|\bfiesta\b|\bssfp\b"),
    ("DCE", r"\bdce\b|dynamic"),
    ("FLAIR", r"flair|tirm.*dark|dark.?fluid"),
    ("PD", r"\bpd\b|proton"),
    ("T2", r"\bt2"),
    ("T1", r"\bt1|mprage|\bspgr\b|\bbravo\b|\btfl\b|\bvibe\b"),
)
_AFTER_CONTRAST = re.compile(r"post|gad|\bgd\b|t1ce|t1c\b|\+c\b|c\+|contrast|\bkm\b|enhanced", re.IGNORECASE)
_BEFORE_CONTRAST = re.compile(r"\bpre|without|w/?o\b|nativ|non.?contrast", re.IGNORECASE)


@dataclass(frozen=True)
class Recognised:
    """`role`: one of the network's MODALITIES. `by`: codes, description or modality. `note`: where the two disagree."""

    role: str
    by: str
    note: str = ""


def recognise(dataset: Dataset) -> Recognised:
    """`dataset`: the header of one image of the series. `MR` when nothing tells the sequence."""
    modality = text(dataset, "Modality").upper()
    if modality in _BY_MODALITY:
        return Recognised(_BY_MODALITY[modality], MODALITY)
    coded, worded = _by_codes(dataset), _by_words(dataset)
    contrast = has_contrast_agent(dataset)
    if coded == "T1" and contrast:
        return Recognised("T1CE", CODES)
    if coded == "T1" and worded == "T1CE":
        return Recognised("T1CE", DESCRIPTION, "contrast agent by the description only; the attribute is absent")
    if coded:
        family = {"T1CE": "T1"}.get(worded, worded)
        note = f"the description says {worded}; the coded attributes decide" if worded and family != coded else ""
        return Recognised(coded, CODES, note)
    if worded:
        return Recognised("T1CE" if worded == "T1" and contrast else worded, DESCRIPTION)
    return Recognised("MR", MODALITY)


def has_contrast_agent(dataset: Dataset) -> bool:
    """Did the patient have a contrast agent, by the coded attributes?"""
    agent = text(dataset, "ContrastBolusAgent")
    coded = bool(items(dataset, "ContrastBolusAgentSequence"))
    volume = soft_number(dataset, "ContrastBolusVolume") or 0.0
    return coded or volume > 0 or not _NO_AGENT.match(agent)


def _by_codes(dataset: Dataset) -> str:
    sequence = set(texts(dataset, "ScanningSequence"))
    kinds = set(texts(dataset, "ImageType"))
    echo, repetition = soft_number(dataset, "EchoTime"), soft_number(dataset, "RepetitionTime")
    inversion = soft_number(dataset, "InversionTime") or 0.0
    if "ADC" in kinds:
        return "ADC"
    if (soft_number(dataset, "DiffusionBValue") or 0.0) > 0 or kinds & {"DIFFUSION", "TRACEW"}:
        return "DWI"
    if kinds & {"SWI", "SWAN"}:
        return "SWI"
    if (soft_number(dataset, "CardiacNumberOfImages") or 0.0) > 1:
        return "CINE"
    if echo is None or repetition is None:
        return ""
    if "IR" in sequence or inversion > 0:
        return _inversion_recovery(echo, repetition, inversion)
    if "GR" in sequence:
        return _gradient_echo(dataset, echo, repetition)
    return _spin_echo(echo, repetition)


def _inversion_recovery(echo: float, repetition: float, inversion: float) -> str:
    if inversion >= 1400 and repetition >= 4000 and echo >= 60:
        return "FLAIR"  # fluid nulled
    if 0 < inversion < 300:
        return "T2" if echo >= 60 else ""  # fat nulled (STIR): T2 by its long echo, else of no name here
    if echo <= 30 and (repetition <= 3500 or inversion >= 300):
        return "T1"  # MPRAGE, T1 FLAIR
    return ""


def _gradient_echo(dataset: Dataset, echo: float, repetition: float) -> str:
    flip = soft_number(dataset, "FlipAngle") or 90.0
    if echo <= 8 and repetition <= 400 and flip >= 8:
        return "T1"
    return "SWI" if echo >= 15 and "SWI" in text(dataset, "SequenceName").upper() else ""


def _spin_echo(echo: float, repetition: float) -> str:
    if echo <= 30 and repetition <= 1200:
        return "T1"
    if echo >= 60 and repetition >= 1500:
        return "T2"
    return "PD" if echo <= 45 and repetition >= 1500 else ""


def _by_words(dataset: Dataset) -> str:
    words = " ".join(text(dataset, name) for name in ("SeriesDescription", "ProtocolName", "SequenceName"))
    words = words.replace("_", " ").lower()
    for role, pattern in _IN_WORDS:
        if re.search(pattern, words):
            after = _AFTER_CONTRAST.search(words) and not _BEFORE_CONTRAST.search(words)
            return "T1CE" if role == "T1" and after else role
    return ""


def flattened(dataset: Dataset, frame: int) -> Dataset:
    """The header of one frame as a classic image would state it: enhanced MR keeps the coded attributes in macros."""
    shared = next(iter(items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not len(shared) and not own:
        return dataset
    flat = Dataset()
    for keyword in ("Modality", "SeriesDescription", "ProtocolName", "ImageType", "ContrastBolusAgentSequence"):
        if keyword in dataset:
            flat.add(dataset[keyword])
    for place in (shared, *own[frame : frame + 1]):  # the frame's own macros win
        for macro, keyword, classic in _MACROS:
            for item in items(place, macro):
                if keyword in item:
                    setattr(flat, classic, item[keyword].value)
    pulse = {"SPIN": "SE", "GRADIENT": "GR", "BOTH": "SE"}.get(text(dataset, "EchoPulseSequence").upper())
    flat.ScanningSequence = [
        code for code in (pulse, "IR" if _inverts(shared, own[frame : frame + 1]) else None) if code
    ]
    return flat


_MACROS = (
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
)


def _inverts(shared: Dataset, own: list[Dataset]) -> bool:
    modifiers = [item for place in (shared, *own) for item in items(place, "MRModifierSequence")]
    return any(text(item, "InversionRecovery").upper() == "YES" for item in modifiers)
