"""De-identify one DICOM data set: the basic profile of PS3.15 table E.1-1, with options.

    deidentified(dataset, pseudonyms, ProfileOptions()) -> a new data set; the given one is not changed

The table (edition 2026c, 690 attributes) is data of the package dicom-anonymizer; the actions on it are ours, because
that package's are random, not keyed. Beyond the table every attribute goes by its kind, so that what the table does not
list is not simply kept: person names are emptied, UIDs that are not the standard's are remapped, dates are shifted,
free text is cleaned or dropped, and private attributes are dropped.

Always applied: Retain Longitudinal Temporal Information with Modified Dates (113107): dates move by a keyed number of
days, one a patient; times of day go. Options: Clean Descriptors (113105), Retain Device Identity (113109).
"""

from collections.abc import Sequence as Values
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as table
from pydicom import DataElement, Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, generate_uid

from pipelines.dicom.descriptors import DESCRIPTORS, TECHNICAL, clean
from pipelines.dicom.reading import DAMAGE, DicomError, text
from pipelines.scans.key import Pseudonyms

STANDARD_ROOT = "1.2.840.10008."  # SOP classes, transfer syntaxes: the standard's own, nobody's identity
METHOD = "PS3.15 E basic profile 2026c"
MAX_DEPTH = 16  # sequences in sequences; an enhanced image needs 6
REMOVE, EMPTY, REPLACE, REMAP = "X", "Z", "D", "U"

# Column "Retain Device Identity" of table E.1-1: kept as they are when the option is on.
DEVICE = frozenset(
    tag_for_keyword(name)
    for name in (
        "CassetteID", "DetectorID", "DeviceSerialNumber", "DeviceUID", "GantryID", "GeneratorID",
        "LensMake", "LensModel", "LensSerialNumber", "LensSpecification", "ManufacturerDeviceClassUID",
        "ManufacturerDeviceIdentifier", "PerformedStationAETitle", "PerformedStationName", "PlateID",
        "ScheduledStationAETitle", "ScheduledStationName", "SourceSerialNumber", "StationAETitle",
        "StationName", "UDISequence", "UniqueDeviceIdentifier", "XRayDetectorID", "XRaySourceID",
    )
)  # fmt: skip
_METHOD_CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113105": "Clean Descriptors Option",
    "113109": "Retain Device Identity Option",
}
_FREE_TEXT = {"LO", "SH", "ST", "LT", "UT", "UC"}
_OPAQUE = {"UN", "OB", "UR"}  # of unknown content; pixel data is told apart by its tag
_DUMMIES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000", "AS": "000Y", "AE": "REMOVED", "PN": "REMOVED"}
_PIXELS = {0x7FE00010, 0x7FE00008, 0x7FE00009}


@dataclass(frozen=True)
class ProfileOptions:
    """`clean_descriptors`: keep descriptions, cleaned word by word. `retain_device`: keep serial numbers, stations."""

    clean_descriptors: bool = True
    retain_device: bool = False


@dataclass(frozen=True)
class _Context:
    pseudonyms: Pseudonyms
    options: ProfileOptions
    patient: str
    shift_days: int


def deidentified(
    dataset: Dataset, pseudonyms: Pseudonyms, options: ProfileOptions | None = None, patient: str = ""
) -> Dataset:
    """A new data set without identity. Raises DicomError if an attribute cannot be read or nests beyond MAX_DEPTH.

    `patient`: the pseudonym, where more is known of the patient than this header tells.
    """
    options = options or ProfileOptions()
    patient = patient or patient_of(dataset, pseudonyms)
    context = _Context(pseudonyms, options, patient, pseudonyms.shift_days(patient))
    try:
        result = _dataset(dataset, context, 0)
    except DicomError:
        raise
    except DAMAGE as error:
        raise DicomError(f"an attribute cannot be read ({type(error).__name__})") from None
    result.PatientID = result.PatientName = patient
    result.PatientIdentityRemoved = "YES"
    result.LongitudinalTemporalInformationModified = "MODIFIED"
    result.DeidentificationMethod = METHOD
    result.DeidentificationMethodCodeSequence = [_code(value) for value in _codes(options)]
    if hasattr(dataset, "file_meta"):
        result.file_meta = _file_meta(dataset.file_meta, pseudonyms)
        result.set_original_encoding(*dataset.original_encoding)
    return result


def patient_of(dataset: Dataset, pseudonyms: Pseudonyms) -> str:
    """The patient's pseudonym: of id and issuer; without an id, of name and birth date; without these, of the study."""
    if identifier := text(dataset, "PatientID"):
        return pseudonyms.name("patient", f"{text(dataset, 'IssuerOfPatientID')}\0{identifier}")
    named = f"{text(dataset, 'PatientName')}\0{text(dataset, 'PatientBirthDate')}"
    if named != "\0":
        return pseudonyms.name("patient by name", named)
    study = text(dataset, "StudyInstanceUID") or text(dataset, "SeriesInstanceUID") or text(dataset, "SOPInstanceUID")
    if not study:
        raise DicomError("neither patient nor study nor series is named; nobody can tell whose scan this is")
    return pseudonyms.name("patient by study", study)


def person_of(dataset: Dataset, pseudonyms: Pseudonyms) -> str:
    """The same whoever issued the id, and the patient's pseudonym where no issuer is named."""
    identifier = text(dataset, "PatientID")
    return pseudonyms.name("patient", f"\0{identifier}") if identifier else patient_of(dataset, pseudonyms)


def shifted(value: str, days: int) -> str:
    """A DICOM date (`YYYYMMDD`, or `YYYY.MM.DD` as ACR-NEMA had it) moved by `days`; empty if it is no date."""
    digits = value.replace(".", "").strip()[:8]
    try:
        moved = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return ""
    return f"{moved:%Y%m%d}" if moved.year >= 1000 else ""


def _dataset(dataset: Dataset, context: _Context, depth: int) -> Dataset:
    if depth > MAX_DEPTH:
        raise DicomError(f"sequences nest deeper than {MAX_DEPTH}")
    result = Dataset()
    for element in dataset:
        if (kept := _element(element, context, depth)) is not None:
            result.add(kept)
    return result


def _element(element: DataElement, context: _Context, depth: int) -> DataElement | None:
    tag, options = element.tag, context.options
    if tag.is_private or tag.element == 0 or (0x5000 <= tag.group < 0x7000 and tag.group < 0x6100):
        return None  # private; group lengths; curves 50xx and overlays 60xx, which may hold burned-in text
    if tag in _PIXELS:
        return element
    if options.retain_device and tag in DEVICE:
        return element
    if element.VR in ("DA", "DT") and tag != tag_for_keyword("PatientBirthDate"):
        return _with(element, _each(element.value, lambda value: shifted(str(value), context.shift_days)))
    if tag in DESCRIPTORS and options.clean_descriptors and element.VR in _FREE_TEXT | {"CS"}:
        return _with(element, _each(element.value, lambda value: clean(str(value))))
    return _apply(action_of(tag), element, context, depth)


def _apply(action: str, element: DataElement, context: _Context, depth: int) -> DataElement | None:
    if action == REMOVE:
        return None
    if element.VR == "SQ":
        inner = [_dataset(item, context, depth + 1) for item in element.value or ()]
        return _with(element, inner if action != EMPTY else [])
    if element.VR == "UI":
        return _with(element, _each(element.value, lambda value: remapped(str(value), context.pseudonyms)))
    if action == EMPTY:
        return _with(element, None)
    if action == REPLACE:
        return _with(element, _DUMMIES.get(element.VR, "REMOVED" if element.VR in _FREE_TEXT else None))
    return _by_kind(element, context)


def _by_kind(element: DataElement, context: _Context) -> DataElement | None:
    """What table E.1-1 does not list."""
    if element.VR == "PN":
        return _with(element, None)
    if element.VR in _FREE_TEXT and element.tag not in TECHNICAL:
        if not context.options.clean_descriptors:
            return None
        return _with(element, _each(element.value, lambda value: clean(str(value))))
    if element.VR in _OPAQUE or element.VR in ("TM", "AE"):
        return None
    return element


def remapped(uid: str, pseudonyms: Pseudonyms) -> str:
    """The standard's own UIDs stay, others are replaced by keyed ones; empty stays empty."""
    return uid if not uid or uid.startswith(STANDARD_ROOT) else pseudonyms.uid(uid)


def action_of(tag: int) -> str:
    """What the basic profile does with an attribute: X, Z, D, U, or nothing if its table does not list it."""
    return _actions().get(tag, "")


@lru_cache(maxsize=1)
def _actions() -> dict[BaseTag | int, str]:
    """Tag -> action of the basic profile. Where the table leaves a choice (X/Z/D) the type-safe one: empty or dummy."""
    lists = (
        (table.X_TAGS, REMOVE), (table.Z_TAGS, EMPTY), (table.X_Z_TAGS, EMPTY), (table.Z_D_TAGS, EMPTY),
        (table.X_Z_D_TAGS, EMPTY), (table.D_TAGS, REPLACE), (table.X_D_TAGS, REPLACE), (table.U_TAGS, REMAP),
        (table.X_Z_U_STAR_TAGS, REMAP),
    )  # fmt: skip
    return {(group << 16) + rest[0]: action for tags, action in lists for group, *rest in tags if len(rest) == 1}


def _with(element: DataElement, value: Any) -> DataElement:
    return DataElement(element.tag, element.VR, value)


def _each(value: Any, change: Any) -> Any:
    if value is None or value == "":
        return value
    if isinstance(value, Values) and not isinstance(value, str):
        return [change(each) for each in value]
    return change(value)


def _codes(options: ProfileOptions) -> list[str]:
    chosen = {"113105": options.clean_descriptors, "113109": options.retain_device}
    return [code for code in _METHOD_CODES if chosen.get(code, True)]


def _code(value: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", _METHOD_CODES[value]
    return item


def _file_meta(meta: Dataset, pseudonyms: Pseudonyms) -> FileMetaDataset:
    """A fresh one: the old names the software, its user and the sending station."""
    fresh = FileMetaDataset()
    for keyword in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
        if keyword in meta:
            setattr(fresh, keyword, meta[keyword].value)
    if "MediaStorageSOPInstanceUID" in meta:
        fresh.MediaStorageSOPInstanceUID = UID(pseudonyms.uid(str(meta.MediaStorageSOPInstanceUID)))
    fresh.ImplementationClassUID = generate_uid(entropy_srcs=["medsegformer"])
    return fresh
