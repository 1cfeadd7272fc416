"""What a series shows: modality and MR sequence, from coded attributes first, then from the descriptions.

    recognise(dataset, diffusion) -> Recognised     of one image of the series

Echo, repetition and inversion time tell the sequence of a plain magnitude image only: images derived from others, phase
images, echo-planar and perfusion images carry the acquisition's times as well. There ImageType and its kin, or the
description, say what the image is, and where they do not it is MR, "sequence not stated": never a guess. Descriptions
are typed by people and differ from hospital to hospital; the record says which of the two it was. Bounds of TE, TR and
TI in ms follow the usual ranges of clinical protocols at 1.5 and 3 T.
"""

import re
from dataclasses import dataclass

from pydicom import Dataset

from pipelines.dicom.aside import described
from pipelines.dicom.frames import kinds_of
from pipelines.dicom.reading import DAMAGE, items, soft_number, text, texts
from pipelines.dicom.roles import (
    ADC,
    BY_CONTRAST,
    CINE,
    CT,
    DCE,
    DWI,
    FLAIR,
    IN_WORDS,
    LGE,
    MORE_EXACT,
    MR,
    OF_NO_SEQUENCE,
    PD,
    PET,
    SWI,
    T1,
    T1CE,
    T2,
    US,
)  # fmt: skip

CODES, DESCRIPTION, MODALITY = "codes", "description", "modality"
_BY_MODALITY = {"CT": CT, "PT": PET, "US": US}
_NO_AGENT = re.compile(r"^(no|none|nil|non|without|n/?a|0|-)?\W*$", re.IGNORECASE)
_AFTER_CONTRAST = re.compile(r"post|gad|\bgd\b|t1ce|t1c\b|\+c\b|c\+|contrast|\bkm\b|enhanced", re.IGNORECASE)
_BEFORE_CONTRAST = re.compile(r"\bpre|without|w/?o\b|nativ|non.?contrast", re.IGNORECASE)
_ECHO_PLANAR = re.compile(r"\bep2d|\bepfid|\bepse|\bepi\b|\*ep")


@dataclass(frozen=True)
class Recognised:
    """`role`: one of roles.ROLES. `by`: codes, description or modality. `note`: where they disagree; why it is MR."""

    role: str
    by: str
    note: str = ""


def recognise(dataset: Dataset, diffusion: bool = False) -> Recognised:
    """`dataset`: the header of one image. `diffusion`: others of its series have a b-value, so it is one of b 0."""
    modality = text(dataset, "Modality").upper()
    if modality in _BY_MODALITY:
        return Recognised(_BY_MODALITY[modality], MODALITY)
    kinds, worded = kinds_of(dataset), _by_words(dataset)
    if "ADC" in kinds:
        return Recognised(ADC, CODES)
    if what := _of_no_sequence(dataset, kinds, worded):
        return Recognised(MR, CODES, f"{what}: none of the known sequences")
    if diffusion and worded != ADC:
        return Recognised(DWI, CODES)
    if worded in (ADC, LGE) or (worded == DCE and _is_dynamic(dataset)):
        return Recognised(worded, DESCRIPTION)
    if "DERIVED" in kinds:
        return _derived(dataset, kinds, worded)
    return _combined(_by_codes(dataset, kinds), worded, dataset)


def _derived(dataset: Dataset, kinds: frozenset[str], worded: str) -> Recognised:
    """The times in the header are those of what it was made of."""
    if stated := _by_kinds(dataset, kinds):
        return Recognised(stated, CODES)
    return _combined("", worded, dataset)


def _combined(coded: str, worded: str, dataset: Dataset) -> Recognised:
    contrast = has_contrast_agent(dataset)
    if coded == T1 and contrast and _times(dataset) > 1:
        return Recognised(DCE, CODES)
    if coded == T1 and contrast:
        return Recognised(T1CE, CODES)
    if coded == T2 and worded == FLAIR and soft_number(dataset, "InversionTime") is None:
        return Recognised(FLAIR, DESCRIPTION, "nulled fluid by the description only; the inversion time is absent")
    if coded == T1 and worded == T1CE:
        return Recognised(T1CE, DESCRIPTION, "contrast agent by the description only; the attribute is absent")
    if coded:
        family = {T1CE: T1}.get(worded, worded)
        note = f"the description says {worded}; the coded attributes decide" if worded and family != coded else ""
        return Recognised(coded, CODES, note)
    if worded in ("", T1, T1CE, T2, PD) and _is_echo_planar(dataset):
        return Recognised(MR, CODES, "an echo-planar image: none of the known sequences")
    if worded == CINE and not _is_gated(dataset) and "cine" not in described(dataset):
        return Recognised(MR, CODES, "a balanced gradient echo: none of the known sequences")
    if worded == T2 and {*texts(dataset, "ScanningSequence")} == {"GR"}:
        return Recognised(MR, CODES, "a gradient echo that the description calls T2: T2*, none of the known sequences")
    if worded:
        return Recognised(T1CE if worded == T1 and contrast else worded, DESCRIPTION)
    return Recognised(MR, MODALITY)


def has_contrast_agent(dataset: Dataset) -> bool:
    """Did the patient have a contrast agent, by the coded attributes?"""
    agent = text(dataset, "ContrastBolusAgent")
    coded = bool(items(dataset, "ContrastBolusAgentSequence"))
    volume = soft_number(dataset, "ContrastBolusVolume") or 0.0
    return coded or volume > 0 or not _NO_AGENT.match(agent)


def _of_no_sequence(dataset: Dataset, kinds: frozenset[str], worded: str) -> str:
    """What an image is instead of one of the known sequences; empty if it may be one."""
    if text(dataset, "AngioFlag").upper() == "Y":
        return "an angiography or flow image"
    for what, codes, pattern in OF_NO_SEQUENCE:
        if MORE_EXACT.get(what) != worded and (codes & kinds or re.search(pattern, _words(dataset), re.MULTILINE)):
            return what
    return ""


def _words(dataset: Dataset) -> str:
    """Description and name of the sequence, a line each."""
    return f"{described(dataset)}\n{text(dataset, 'SequenceName').lower()}"


def _is_dynamic(dataset: Dataset) -> bool:
    """Is what the description calls dynamic a passage of contrast agent?"""
    return bool(re.search(r"\bdce\b", described(dataset))) or has_contrast_agent(dataset) or _times(dataset) > 1


def _times(dataset: Dataset) -> float:
    return soft_number(dataset, "NumberOfTemporalPositions") or 1.0


def _is_echo_planar(dataset: Dataset) -> bool:
    stated = "EP" in texts(dataset, "ScanningSequence") or text(dataset, "EchoPlanarPulseSequence").upper() == "YES"
    factor = _private_number(dataset, 0x2001, "Philips Imaging DD 001", 0x13)
    return stated or factor > 1 or "EPI" in kinds_of(dataset) or bool(_ECHO_PLANAR.search(_words(dataset)))


def _private_number(dataset: Dataset, group: int, creator: str, element: int) -> float:
    """Of the few private attributes that alone tell something; 0 if it is absent."""
    try:
        return float(dataset.private_block(group, creator)[element].value)
    except DAMAGE:
        return 0.0


def _is_gated(dataset: Dataset) -> bool:
    """Was the image triggered by the heart? Its repetition time is then a beat's, or a part of one."""
    stated = (soft_number(dataset, name) or 0.0 for name in ("TriggerTime", "HeartRate", "NominalInterval"))
    return any(value > 0 for value in stated) or (soft_number(dataset, "CardiacNumberOfImages") or 0.0) > 1


def _by_kinds(dataset: Dataset, kinds: frozenset[str]) -> str:
    if (soft_number(dataset, "DiffusionBValue") or 0.0) > 0 or kinds & {"DIFFUSION", "TRACEW"}:
        return DWI
    return SWI if kinds & {"SWI", "SWAN"} else ""


def _by_codes(dataset: Dataset, kinds: frozenset[str]) -> str:
    sequence = set(texts(dataset, "ScanningSequence"))
    echo, repetition = soft_number(dataset, "EchoTime"), soft_number(dataset, "RepetitionTime")
    inversion = soft_number(dataset, "InversionTime") or 0.0
    if stated := _by_kinds(dataset, kinds):
        return stated
    if "CINE" in kinds or (soft_number(dataset, "CardiacNumberOfImages") or 0.0) > 1:
        return CINE
    if kinds & {"R", "REAL", "R_IR"} or _is_echo_planar(dataset):
        return ""
    if contrast := next(
        (BY_CONTRAST[kind] for kind in texts(dataset, "AcquisitionContrast") if kind in BY_CONTRAST), ""
    ):
        return contrast
    if echo is None or repetition is None:
        return ""
    if "IR" in sequence or inversion > 0:
        return _inversion_recovery(dataset, echo, repetition, inversion)
    if "GR" in sequence:
        return _gradient_echo(dataset, echo, repetition)
    return _spin_echo(echo, repetition)


def _inversion_recovery(dataset: Dataset, echo: float, repetition: float, inversion: float) -> str:
    if inversion >= 1400 and repetition >= 4000 and echo >= 60:
        return FLAIR  # fluid nulled
    if 0 < inversion < 300:
        return T2 if echo >= 60 else ""  # fat nulled (STIR): T2 by its long echo, else of no name here
    of_the_heart = has_contrast_agent(dataset) or _is_gated(dataset)
    if inversion < 500 and of_the_heart and "GR" in texts(dataset, "ScanningSequence"):
        return ""  # myocardium nulled after contrast: a late enhancement, if a description says so
    if echo <= 30 and (repetition <= 3500 or inversion >= 300):
        return T1  # MPRAGE, T1 FLAIR
    return ""


def _gradient_echo(dataset: Dataset, echo: float, repetition: float) -> str:
    flip = soft_number(dataset, "FlipAngle") or 90.0
    variant = {*texts(dataset, "SequenceVariant")}
    if _is_gated(dataset) or ("SS" in variant and "SP" not in variant):
        return ""  # the heart, or balanced: T2 over T1
    if echo <= 8 and repetition <= 400 and flip >= 8:
        return T1
    return SWI if echo >= 15 and "SWI" in text(dataset, "SequenceName").upper() else ""


def _spin_echo(echo: float, repetition: float) -> str:
    if echo <= 30 and repetition <= 1200:
        return T1
    if echo >= 60 and repetition >= 1500:
        return T2
    return PD if echo <= 45 and repetition >= 1500 else ""


def _by_words(dataset: Dataset) -> str:
    """By the series' description and the sequence's name; where these do not tell, by the protocol, which may name a
    whole examination."""
    own = " ".join((text(dataset, "SeriesDescription"), text(dataset, "SequenceName")))
    return _role_in(own) or _role_in(text(dataset, "ProtocolName"))


def _role_in(written: str) -> str:
    words = written.replace("_", " ").lower()
    for role, pattern in IN_WORDS:
        if re.search(pattern, words):
            after = _AFTER_CONTRAST.search(words) and not _BEFORE_CONTRAST.search(words)
            return T1CE if role == T1 and after else role
    return ""


def flattened(dataset: Dataset, frame: int) -> Dataset:
    """The header of one frame as a classic image would state it: enhanced MR keeps the coded attributes in macros."""
    shared = next(iter(items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not len(shared) and not own:
        return dataset
    flat = Dataset()
    for keyword in _TOP:
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


_TOP = (
    "Modality", "SeriesDescription", "ProtocolName", "ImageType", "ContrastBolusAgentSequence", "AcquisitionContrast",
    "ComplexImageComponent", "EchoPlanarPulseSequence", "NumberOfTemporalPositions",
)  # fmt: skip
_MACROS = (
    ("MRImageFrameTypeSequence", "FrameType", "ImageType"),
    ("MRImageFrameTypeSequence", "AcquisitionContrast", "AcquisitionContrast"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent", "ComplexImageComponent"),
    ("MRTimingAndRelatedParametersSequence", "RepetitionTime", "RepetitionTime"),
    ("MRTimingAndRelatedParametersSequence", "FlipAngle", "FlipAngle"),
    ("MREchoSequence", "EffectiveEchoTime", "EchoTime"),
    ("MRModifierSequence", "InversionTimes", "InversionTime"),
    ("MRDiffusionSequence", "DiffusionBValue", "DiffusionBValue"),
)


def _inverts(shared: Dataset, own: list[Dataset]) -> bool:
    modifiers = [item for place in (shared, *own) for item in items(place, "MRModifierSequence")]
    return any(text(item, "InversionRecovery").upper() == "YES" for item in modifiers)
