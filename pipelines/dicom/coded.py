"""What a finding says in DICOM's own words: coded concepts, by highdicom, whose import takes a while."""

import logging

from highdicom import AlgorithmIdentificationSequence
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from pipelines.dicom.finding import MANUFACTURER, Maker
from pipelines.scans.structure import SNOMED, Code, Structure

logging.getLogger("highdicom").setLevel(logging.WARNING)  # it logs the UIDs that it copies

SIDES = {
    "left": Code("7771000", SNOMED, "Left"),
    "right": Code("24028007", SNOMED, "Right"),
    "both": Code("51440002", SNOMED, "Right and left"),
}


def concept(code: Code) -> CodedConcept:
    return CodedConcept(code.value, code.scheme, code.meaning[:64])


def modifiers(structure: Structure) -> list[CodedConcept]:
    """Side and whatever else tells a structure from others of its type."""
    found = [SIDES[structure.laterality]] if structure.laterality else []
    return [concept(code) for code in (*found, *filter(None, [structure.modifier]))]


def algorithm(maker: Maker) -> AlgorithmIdentificationSequence:
    family = codes.DCM.ArtificialIntelligence
    told = {**maker.digests, "standing": maker.standing, **({"scan": maker.remark} if maker.remark else {})}
    return AlgorithmIdentificationSequence(maker.name, family, maker.version, MANUFACTURER, told)
