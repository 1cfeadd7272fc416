"""Free text in DICOM headers: which attributes describe the scan, and cleaning them to words that cannot identify.

Cleaning keeps a word only if the list below knows it, or if it is a number of up to three digits, alone or with a unit.
A list of allowed words is stricter than a search for names: what it does not know is dropped, a name in any language
with it. `T1 post 9ml for Dr. Smith` becomes `t1 post 9ml for`.
"""

import re

from pydicom.datadict import tag_for_keyword

# Column "Clean Descriptors" of PS3.15 table E.1-1: cleaned when the option is on, else removed or emptied.
DESCRIPTORS = frozenset(
    tag_for_keyword(name)
    for name in (
        "AcquisitionComments", "AcquisitionDeviceProcessingDescription", "AcquisitionProtocolDescription",
        "AdditionalPatientHistory", "AdmittingDiagnosesDescription", "Allergies",
        "CommentsOnThePerformedProcedureStep", "ContentDescription", "ContentLabel", "ContrastBolusAgent",
        "ContributionDescription", "DecompositionDescription", "DerivationDescription", "DeviceSettingDescription",
        "FrameComments", "ImageComments", "InterventionDescription",
        "MedicalAlerts", "Occupation", "PatientComments", "PatientState", "PerformedProcedureStepDescription",
        "PreMedication", "ProtocolName", "ReasonForStudy", "ReasonForTheRequestedProcedure", "RequestedContrastAgent",
        "RequestedProcedureComments", "RequestedProcedureDescription", "ROIDescription", "ROIName",
        "ROIObservationLabel", "RTPlanLabel", "ScheduledProcedureStepDescription", "SegmentDescription", "SegmentLabel",
        "SeriesDescription", "ServiceEpisodeDescription", "SpecialNeeds", "StructureSetDescription",
        "StructureSetLabel",
        "StructureSetName", "StudyComments", "StudyDescription", "VisitComments",
    )
)  # fmt: skip

# Text that the machine or a code list fills in, kept as it is: it names products, codes and units, nobody.
TECHNICAL = frozenset(
    tag_for_keyword(name)
    for name in (
        "CodeMeaning", "CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "ConvolutionKernel", "FilterType",
        "ImagedNucleus", "LUTExplanation", "Manufacturer", "ManufacturerModelName", "PulseSequenceName",
        "ReceiveCoilName", "RescaleType", "SequenceName", "SoftwareVersions", "StackID", "TransmitCoilName",
        "WindowCenterWidthExplanation",
    )
)  # fmt: skip

_WORDS = """
2d 3d 4d abdomen abdominal acquisition adc after agent anatomy angio angiography ankle anterior aorta arm arterial
artery asl average ax axial b0 before blade body bone bowel brain bravo breast c c1 c2 c3 c4 c5 c6 c7 cad cardiac
carotid cerebral cervical chest cine cisternography colon contrast cor coronal coronary cortex crop ct cta cube cyst
dark dce delayed derived diffusion dixon dl dti dual dwi dynamic early echo ed edema elbow enhanced enhancement
enhancing ep epi equilibrium es expiration fast fat ffe field fiesta fixed flair flash flip fluid fmri foot for fs fse
fspgr full gad gadolinium gd gradient gre half hand haste head heart helical hepatic high hip hippocampus hippocrop hr
hs hundred iac ideal image images in infarct inferior inspiration inv inversion ir iso isotropic iv joint kidney knee
large late lateral left leg les lge liver loc localiser localizer long low lower lumbar lung lungs lv mag magnitude
map mask mass mean medial mediastinum mip ml mm mono motion mpr mprage mr mra mrcp mri multi multihance multiphase
multislice myocardium native navigator neck necrosis necrotic nephrographic neuro no non oblique of on opposed optic
or orbit orbits out p2 pancreas pancreatic parallel part pc pd pelvis perfusion pet phase pituitary plain plane portal
post postcontrast posterior pre precontrast propeller prostate protocol proton psir pulmonary quick quiet radial rapid
rcbv recon reconstruction ref reference reg registered renal repeat research resolution resp respiratory rest right
roi routine rt rv s2 sag sagittal sat saturation scan scout se segmentation sense sequence series shim short shoulder
side sinus skull slab slice slices small soft space spair spgr spin spine spir spiral spleen ssfp ssfse standard std
stir stress structure study subtraction super superior supine survey susceptibility swan swi t1 t1c t1ce t1gd t1post
t1pre t1w t2 t2star t2w temporal test tfe tfl thick thin thoracic thorax three time tirm tissue to tof tone total tra
trace transverse trufi tse tumor tumour turbo two uncorrected upper urogram vein venous ventricle vertebra vessel vibe
vista volume voxel w water wb weighted whole with without wo wrist
"""
VOCABULARY = frozenset(_WORDS.split())  # fmt: skip

_NUMBER = re.compile(r"^\d{1,3}(?:[.,]\d{1,2})?(?:mm|ml|mg|kg|cc|ms|s|deg|x|hu|kv|ma|t)?$")


def clean(text: str, limit: int = 64) -> str:
    """The words of `text` that the vocabulary knows, lower case, single spaces; at most `limit` characters (VR LO)."""
    words = (word for word in re.split(r"[^\w.,]+|_", text.lower()) if word)
    kept = (word.strip(".,") for word in words)
    return " ".join(word for word in kept if word in VOCABULARY or _NUMBER.match(word))[:limit].strip()
