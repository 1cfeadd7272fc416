"""A finding and its SEG -> a structured report (SR TID 1500): every segment's volume with its interval, and confidence.

The interval is the conformal one of the version's record. DICOM's own words for an uncertainty are two ranges without a
unit, so its bounds are volumes of their own, told apart by their derivation.
"""

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes

from pipelines.dicom.coded import concept, modifiers
from pipelines.dicom.finding import MANUFACTURER, SERIES_NUMBERS, DicomFinding, MeasuredVolume
from pipelines.scans.structure import PRIVATE, Code, Structure

MILLILITRE = Code("mL", "UCUM", "mL")
CONFIDENCE = Code("soft_dice_confidence", PRIVATE, "Soft Dice Confidence")
_PROCEDURES = {"CT": codes.LN.CTUnspecifiedBodyRegion, "PET": codes.LN.PETUnspecifiedBodyRegion}


def measurement_report(finding: DicomFinding, drawn: Dataset) -> sr.Comprehensive3DSR:
    """`drawn`: the SEG of this finding, which the report refers to, segment by segment."""
    observer = sr.ObserverContext(
        codes.DCM.Device,
        sr.DeviceObserverIdentifyingAttributes(
            finding.uid("device"), name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=finding.maker.software
        ),
    )
    groups = [_group(finding, drawn, n, each) for n, each in enumerate(finding.structures, 1)]
    report = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=observer),
        _PROCEDURES.get(finding.series.role, codes.LN.MRIUnspecifiedBodyRegion),
        groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    written = sr.Comprehensive3DSR(
        evidence=[drawn, *finding.series.headers()],
        content=report,
        series_instance_uid=finding.uid("sr", "series"),
        series_number=SERIES_NUMBERS["sr"],
        sop_instance_uid=finding.uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description=finding.description,
        is_complete=True,
    )
    written.DeviceSerialNumber, written.SoftwareVersions = finding.serial, finding.maker.software
    return written


def _group(
    finding: DicomFinding, drawn: Dataset, number: int, structure: Structure
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    told = [f"{name} {value}" for name, value in finding.maker.digests.items()]
    maker = sr.AlgorithmIdentification(
        finding.maker.name,
        finding.maker.version,
        list(filter(None, (*told, finding.maker.standing, finding.maker.remark))),
    )
    series = sr.SourceSeriesForSegmentation(str(finding.series.headers()[0].SeriesInstanceUID))
    segment = sr.ReferencedSegment(drawn.SOPClassUID, drawn.SOPInstanceUID, number, source_series=series)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(finding.uid("tracking", structure.name), structure.name),
        referenced_segment=segment,
        finding_category=concept(structure.category),
        finding_type=concept(structure.type),
        finding_sites=_sites(structure),
        algorithm_id=maker,
        measurements=_measurements(finding.measured[structure.name]),
    )


def _sites(structure: Structure) -> list[sr.FindingSite] | None:
    """Where it lies: its region or itself, with side and modifier, so that left and right stay apart."""
    told = modifiers(structure)
    if not structure.region and not told:
        return None
    side = told[0] if structure.laterality else None
    others = told[1 if structure.laterality else 0 :]
    return [sr.FindingSite(concept(structure.region or structure.type), side, others[0] if others else None)]


def _measurements(measured: MeasuredVolume) -> list[sr.Measurement]:
    found = [_volume(measured.volume_ml)]
    if measured.interval_ml:
        words = f"bound of the {measured.level:.0%} interval"
        for side, value in zip(("Lower", "Upper"), measured.interval_ml, strict=True):
            found.append(_volume(value, Code(f"interval_{side.lower()}", PRIVATE, f"{side} {words}")))
    if measured.confidence is not None:
        found.append(sr.Measurement(concept(CONFIDENCE), measured.confidence, codes.UCUM.NoUnits))
    return found


def _volume(value_ml: float, derivation: Code | None = None) -> sr.Measurement:
    derived = concept(derivation) if derivation else None
    return sr.Measurement(codes.SCT.Volume, value_ml, concept(MILLILITRE), derivation=derived)
