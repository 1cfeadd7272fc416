"""Free text in DICOM headers: which attributes describe the scan, and cleaning them to words that cannot identify.

Cleaning keeps a word only if the list below knows it, or if it is a number of up to three digits with a unit, or one of
at most two alone: numbers side by side may be a date or an identity card's. A list of allowed words is stricter than a
search for names: what it does not know is dropped, a name in any language with it. `T1 post 9ml for Dr. Smith` becomes
`t1 post 9ml for`.
"""

import re
from itertools import pairwise

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
VOCABULARY = frozenset(_WORDS.split())

_MAKERS = """
agfa agilent bruker canon elscint esaote fonar fujifilm ge general electric healthcare hitachi hologic imaging
kodak konica lodox marconi mediso medical medrad minolta mirada mr neusoft neurologica paramed philips picker samsung
shimadzu siemens systems toshiba united uih varian xoran corporation corp inc gmbh ag co ltd nv system
"""
_MODELS = """
achieva acuson allegra aera altaire amira ambition aquilion artis aurora avanto biograph bright brightspeed brilliance
brivo cima connectome definition discovery edge elite emotion essenza excel explorer flash force free galan genesis
geminus gemini genesys gyroscan harmony horizon iqon ict ingenia intera interra lightning lightspeed lumina lx magna
magnetom magneto max mct mono mobile multiva mx8000 naeotom nexaris one open optima orian panorama perspective plus
pioneer precedence prime prisma prisma_fit pristina pro proteus quantum rxl revolution scope sensation signa sigma sky
skyra sola somatom spectra spectral spectro spirit symphony terra titan trio triotim tim verio vantage vct vida vision
vitrea vue xr xt fit as hd hdx hdxt go up all top now cardiac elan artist architect premier voyager creator hero air x
ct cx dstream evo gx lx mi mr pet xs
"""
_BODY_PARTS = """
abdomenpelvis abdpel abdpelv anus arms axilla back bladder bowel breast brain buttock calcaneus calf cap cardiac cchest
cervix cheek chestabd chestabdomen chestabdpelv chestabdpelvis clavicle coccyx cspine ctspine duodenum ear eye eyelid
face facial femur finger forearm gallbladder hand headneck headandneck heart humerus ilium jaw jejunum kidneys larynx
legs lspine lsspine mandible maxilla mouth neckchest nose orbits ovary parotid patella penis pharynx radius rectum rib
ribs sacrum scapula scrotum sella si sinuses stomach sternum tspine testis thigh thumb thyroid tibia toe tongue torso
trachea ulna ureter urethra uterus vagina vulva wholebody wholespine wbody zygoma abdo thorax extremity lowlimb uplimb
lexa uexa tlspine ijoint hipjoint footankle
"""
_IMAGE_TYPES = """
original primary derived secondary axial localizer other m p r i nd norm dis2d dis3d mosaic mpr mip minip projection
image subtraction add sub div diffusion adc fa trace tracew tracew_dis2d csa 3d average none resampled reformatted
volume filtered fil ffe se ir m_ffe m_se m_ir p_ffe r_ir r_ffe t1 t2 proton_density map phase magnitude real imaginary
water fat in_phase out_phase inphase outphase opp_phase in opp unspecified dynamic mixed vascular composed epi fieldmap
field_map perfusion asl swi mnip t2map t1map single_energy helical volume_ct ct_som5 ct_som7 spi spo seq rad tim screen
som5 som7 fm dose_info dual energy monoenergetic virtual mono multi_energy ax sag cor reconstructed motion correction
mfsplit shmix siemens tof max min std sum parallel_projection b0 compressed fused stress rest multiplanar gated cardiac
cardiac_gated respiratory_gated tagging flow_encoded velocity map_adc ivim dti normalized
"""
_KERNEL = re.compile(r"[A-Za-z]{1,3}\d{1,3}[A-Za-z]?(?:\\?\d{1,2})?")
_MODEL = re.compile(r"[A-Za-z]{0,3}[\d.]{1,3}T?|\d{1,3}")
_NO_CODE = re.compile(r"(?!)")
# The record's attributes of the kind in TECHNICAL, and code strings: known words, and what a code looks like.
_TECHNICAL_WORDS = {
    "Manufacturer": (frozenset(_MAKERS.split()), _NO_CODE),
    "ManufacturerModelName": (frozenset((_MAKERS + _MODELS).split()), _MODEL),
    "BodyPartExamined": (frozenset(_BODY_PARTS.split()) | VOCABULARY, _NO_CODE),
    "ConvolutionKernel": (VOCABULARY | {"boneplus", "detail", "chst", "lungplus", "edge", "smooth", "sharp"}, _KERNEL),
    "ScanningSequence": (frozenset({"se", "ir", "gr", "ep", "rm"}), _NO_CODE),
    "ImageType": (frozenset(_IMAGE_TYPES.split()), re.compile(r"[A-Z]?\d{1,2}")),
}
_ALL = VOCABULARY | frozenset((_MAKERS + _MODELS + _BODY_PARTS).split())

MAX_NUMBERS = 2
_NUMBER = re.compile(r"\d{1,3}(?:[.,]\d{1,2})?")
_MEASURE = re.compile(rf"{_NUMBER.pattern}(?:mm|ml|mg|kg|cc|ms|s|deg|x|hu|kv|ma|t)")


def clean(text: str, limit: int = 64, known: frozenset[str] = VOCABULARY) -> str:
    """The words of `text` that are `known`, lower case, single spaces; at most `limit` characters (VR LO)."""
    words = [found for word in _split(text) if (found := word.strip(".,"))]
    kept = [
        word
        for k, word in enumerate(words)
        if word in known or _MEASURE.fullmatch(word) or (_NUMBER.fullmatch(word) and _stands_alone(words, k))
    ]
    numbers = [k for k, word in enumerate(kept) if _NUMBER.fullmatch(word)]
    if len(numbers) > MAX_NUMBERS or any(after == before + 1 for before, after in pairwise(numbers)):
        kept = [word for word in kept if not _NUMBER.fullmatch(word)]
    return " ".join(kept)[:limit].strip()


def keeps(text: str) -> bool:
    """Is every word of `text` one that is kept on purpose, here or in technical text? Then finding it means nothing."""
    words = [word.strip(".,") for word in _split(text)]
    return any(word.isalpha() for word in words) and clean(text, len(text), _ALL).split() == [w for w in words if w]


def technical(keyword: str, text: str) -> str:
    """What the record keeps of an attribute that the machine fills in: known words and codes, as they are written."""
    if keyword not in _TECHNICAL_WORDS:
        return text
    known, code = _TECHNICAL_WORDS[keyword]
    words = re.split(r"[\s,_/]+", text)
    return " ".join(word for word in words if word.lower().strip(".()") in known or code.fullmatch(word))[:64]


def _split(text: str) -> list[str]:
    return [word for word in re.split(r"[^\w.,]+|_", text.lower()) if word]


def _stands_alone(words: list[str], k: int) -> bool:
    """No digit begins or ends the word before or after: 12/03/65 is no three small numbers."""
    before, after = words[k - 1][-1:] if k else "", words[k + 1][:1] if k + 1 < len(words) else ""
    return not before.isdigit() and not after.isdigit()
