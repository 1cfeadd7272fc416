"""Modality and MR sequence from coded attributes first, then from words; text and faces."""

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from model.network.config import MODALITIES
from pipelines.dicom import burned, deface
from pipelines.dicom.roles import ROLES
from pipelines.dicom.sequence import flattened, recognise
from tests.pipelines.dicom import dicom_files as files


def header(**values: Any) -> Dataset:
    return files._item(**{"Modality": "MR", **values})


@pytest.mark.parametrize(
    ("values", "role", "by"),
    [
        ({"Modality": "CT"}, "CT", "modality"),
        ({"Modality": "PT"}, "PET", "modality"),
        ({"ScanningSequence": "SE", "EchoTime": 10, "RepetitionTime": 500}, "T1", "codes"),
        (
            {"ScanningSequence": "RM", "EchoTime": 10, "RepetitionTime": 650, "ContrastBolusAgent": "9ml"},
            "T1CE",
            "codes",
        ),
        (
            {"ScanningSequence": "SE", "EchoTime": 10, "RepetitionTime": 500, "ContrastBolusAgent": "NONE"},
            "T1",
            "codes",
        ),
        ({"ScanningSequence": "SE", "EchoTime": 90, "RepetitionTime": 4000}, "T2", "codes"),
        ({"ScanningSequence": "SE", "EchoTime": 20, "RepetitionTime": 3000}, "PD", "codes"),
        (
            {"ScanningSequence": ["SE", "IR"], "EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500},
            "FLAIR",
            "codes",
        ),
        (
            {"ScanningSequence": ["GR", "IR"], "EchoTime": 3, "RepetitionTime": 2300, "InversionTime": 900},
            "T1",
            "codes",
        ),
        ({"ScanningSequence": "GR", "EchoTime": 4, "RepetitionTime": 9, "FlipAngle": 15}, "T1", "codes"),
        ({"ScanningSequence": "EP", "EchoTime": 80, "RepetitionTime": 5000, "DiffusionBValue": 1000.0}, "DWI", "codes"),
        ({"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, "ADC", "codes"),
        ({"SeriesDescription": "Ax T2 FLAIR"}, "FLAIR", "description"),
        ({"SeriesDescription": "t1_mprage post gad"}, "T1CE", "description"),
        ({"SeriesDescription": "T1 pre contrast"}, "T1", "description"),
        ({"SeriesDescription": "ep2d_diff_3scan_trace"}, "DWI", "description"),
        ({"SeriesDescription": "something"}, "MR", "modality"),
        ({}, "MR", "modality"),
    ],
)
def test_a_series_is_recognised(values: dict[str, Any], role: str, by: str) -> None:
    found = recognise(header(**values))
    assert (found.role, found.by) == (role, by)
    assert found.role in MODALITIES


def test_where_codes_and_words_disagree_the_codes_decide_and_the_note_says_so() -> None:
    found = recognise(header(ScanningSequence="SE", EchoTime=90, RepetitionTime=4000, SeriesDescription="T1 ax"))
    assert (found.role, found.note) == ("T2", "the description says T1; the coded attributes decide")
    plain = header(ScanningSequence="SE", EchoTime=10, RepetitionTime=500, SeriesDescription="T1 post gad")
    assert recognise(plain).role == "T1CE"
    assert "the attribute is absent" in recognise(plain).note


GRADIENT_ECHO = {"ScanningSequence": "GR", "EchoTime": 4.6, "RepetitionTime": 20, "FlipAngle": 18}
SPIN_ECHO = {"ScanningSequence": "SE", "EchoTime": 10, "RepetitionTime": 500}
INVERSION = {"ScanningSequence": ["GR", "IR"], "EchoTime": 1.6, "RepetitionTime": 700, "ContrastBolusAgent": "Gadovist"}
ECHO_PLANAR = {"ScanningSequence": ["EP", "SE"], "EchoTime": 65, "RepetitionTime": 2500}
DERIVED = ["DERIVED", "SECONDARY", "PROCESSED"]


@pytest.mark.parametrize(
    ("values", "role"),
    [
        # derived images keep the times of what they were made of
        ({**ECHO_PLANAR, "ImageType": DERIVED, "SeriesDescription": "Apparent Diffusion Coefficient (mm2/s)"}, "ADC"),
        ({**SPIN_ECHO, "ImageType": DERIVED, "SeriesDescription": "reformatted"}, "MR"),
        ({**SPIN_ECHO, "ImageType": DERIVED, "SeriesDescription": "t1 reformatted"}, "T1"),
        ({**SPIN_ECHO, "SeriesDescription": "T1 map"}, "MR"),
        ({**ECHO_PLANAR, "ImageType": DERIVED, "SeriesDescription": "DTI FA"}, "MR"),
        ({**ECHO_PLANAR, "ImageType": DERIVED, "SeriesDescription": "eADC"}, "MR"),
        # flow, perfusion, function
        ({**GRADIENT_ECHO, "AngioFlag": "Y"}, "MR"),
        ({**GRADIENT_ECHO, "SeriesDescription": "TOF 3D multi-slab"}, "MR"),
        ({**GRADIENT_ECHO, "AcquisitionContrast": "FLOW_ENCODED"}, "MR"),
        ({"ScanningSequence": "SE", "EchoTime": 9, "RepetitionTime": 4250, "SeriesDescription": "3DpCASL"}, "MR"),
        ({**ECHO_PLANAR, "ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION", "NONE"]}, "MR"),
        # echo-planar
        ({"ScanningSequence": "EP", "EchoTime": 30, "RepetitionTime": 3000, "SequenceName": "*epfid2d1_64"}, "MR"),
        (ECHO_PLANAR, "MR"),
        ({**ECHO_PLANAR, "SeriesDescription": "t2 epi"}, "MR"),
        ({**SPIN_ECHO, "SeriesDescription": "ep2d_se"}, "MR"),
        ({**ECHO_PLANAR, "SeriesDescription": "ep2d_diff b0"}, "DWI"),
        # late enhancement, whatever the inversion time, and what only looks like it
        ({**INVERSION, "InversionTime": 280, "SeriesDescription": "LGE SAX PSIR"}, "LGE"),
        ({**INVERSION, "InversionTime": 320, "SeriesDescription": "LGE SAX PSIR"}, "LGE"),
        ({**INVERSION, "InversionTime": 320}, "MR"),
        ({**INVERSION, "InversionTime": 900, "RepetitionTime": 2300}, "T1CE"),
        # passages of contrast agent
        ({**GRADIENT_ECHO, "SeriesDescription": "dynamic DCE perfusion", "ContrastBolusAgent": "Gadovist"}, "DCE"),
        ({**GRADIENT_ECHO, "ContrastBolusAgent": "Gadovist", "NumberOfTemporalPositions": 4}, "DCE"),
        ({**GRADIENT_ECHO, "SeriesDescription": "dynamic shim"}, "T1"),
        # gradient echoes that people call T2, fat, subtractions, real parts
        ({**GRADIENT_ECHO, "EchoTime": 20, "RepetitionTime": 600, "SeriesDescription": "t2star_fl2d_hemo"}, "MR"),
        ({**GRADIENT_ECHO, "EchoTime": 20, "RepetitionTime": 600, "SeriesDescription": "ax t2 gre"}, "MR"),
        ({**GRADIENT_ECHO, "ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, "MR"),
        ({**GRADIENT_ECHO, "SeriesDescription": "t1_vibe_dixon_F"}, "MR"),
        ({**SPIN_ECHO, "SeriesDescription": "t1 tse dixon fat sat"}, "T1"),
        ({**SPIN_ECHO, "SeriesDescription": "T1 post SUB"}, "MR"),
        ({**SPIN_ECHO, "ImageType": ["ORIGINAL", "PRIMARY", "R_IR", "R", "IR"]}, "MR"),
        # the heart, balanced echoes, nulled fluid
        ({**GRADIENT_ECHO, "EchoTime": 1.4, "TriggerTime": 30.0}, "MR"),
        ({**GRADIENT_ECHO, "EchoTime": 1.4, "TriggerTime": 30.0, "SeriesDescription": "trufi sax"}, "CINE"),
        ({**GRADIENT_ECHO, "EchoTime": 1.4, "SequenceVariant": ["SK", "SS"]}, "MR"),
        ({**GRADIENT_ECHO, "EchoTime": 1.4, "SequenceVariant": ["SK", "SS"], "SeriesDescription": "trufi cor"}, "MR"),
        ({**GRADIENT_ECHO, "SequenceVariant": ["SS", "SP"]}, "T1"),
        ({"ScanningSequence": "RM", "EchoTime": 120, "RepetitionTime": 9000, "SeriesDescription": "Ax FLAIR"}, "FLAIR"),
        # the protocol may name a whole examination
        ({**SPIN_ECHO, "SeriesDescription": "Ax T1", "ProtocolName": "BRAIN MRA T2"}, "T1"),
        ({**GRADIENT_ECHO, "EchoTime": 20, "ImageType": ["ORIGINAL", "PRIMARY", "M", "SWI"]}, "SWI"),
        ({"AcquisitionContrast": "FLUID_ATTENUATED", "EchoTime": 100, "RepetitionTime": 9000}, "FLAIR"),
    ],
)
def test_a_role_is_right_or_mr(values: dict[str, Any], role: str) -> None:
    found = recognise(header(**values))
    assert found.role == role
    assert found.role in ROLES


def test_the_image_without_diffusion_weighting_belongs_to_its_diffusion_series() -> None:
    assert recognise(header(**ECHO_PLANAR), diffusion=True).role == "DWI"


def test_every_role_is_one_of_the_networks() -> None:
    assert set(ROLES) <= set(MODALITIES)


def test_a_frame_of_an_enhanced_image_is_known_by_its_own_type() -> None:
    frame = files._item(MRImageFrameTypeSequence=[files._item(FrameType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"])])
    enhanced = header(PerFrameFunctionalGroupsSequence=[frame], EchoPulseSequence="SPIN")
    assert recognise(flattened(enhanced, 0)).role == "ADC"


@pytest.mark.parametrize("size", [10, 14, 22])
@pytest.mark.parametrize("place", [(3, 3), (3, 225), (120, 3)])
def test_text_in_the_margin_is_seen(size: int, place: tuple[int, int]) -> None:
    from PIL import Image, ImageDraw, ImageFont

    image = np.random.default_rng(0).normal(100, 10, (256, 256))
    canvas = Image.new("L", (256, 256))
    ImageDraw.Draw(canvas).text(place, "SMITH JOHN 1951", fill=255, font=ImageFont.load_default(size))
    image[np.asarray(canvas) > 128] = 900
    assert burned.seen(image[None]) == 0


def test_anatomy_noise_and_a_constant_image_hold_no_text() -> None:
    rng = np.random.default_rng(1)
    row, column = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    ring = np.abs(np.hypot(row - 128, column - 128) - 115) < 5  # a skull up to the border
    head = np.where(ring, 900, 100) + rng.normal(0, 20, ring.shape)
    for image in (head, rng.normal(0, 1, (256, 256)), np.zeros((256, 256)), np.where(row > 250, 900, 0)):
        assert burned.seen(np.asarray(image, dtype=float)[None]) is None


def head(top: int = 80) -> np.ndarray:
    """An ellipsoidal head of 2 mm voxels (R, A, S), bright inside."""
    i, j, k = np.meshgrid(np.arange(90), np.arange(110), np.arange(100), indexing="ij")
    inside = ((i - 45) / 38) ** 2 + ((j - 55) / 48) ** 2 + ((k - top + 60) / 60) ** 2 < 1
    return np.where(inside, 500.0, 0.0)


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, -1, 1), (1, 1, -1)])
def test_the_face_goes_and_the_brain_stays_in_any_orientation(flip: tuple[int, int, int]) -> None:
    affine = np.diag([*(2.0 * np.array(flip)), 1.0])
    array = head()[tuple(slice(None, None, step) for step in flip)]
    result, note = deface.without_face(array, affine)
    turned = result[tuple(slice(None, None, step) for step in flip)]
    assert note == "face removed in front of the skull base"
    assert turned[45, 95, 20] == 0 < head()[45, 95, 20]
    kept = (slice(None), slice(None), slice(40, None))
    assert np.array_equal(turned[kept], head()[kept])
    assert np.array_equal(turned[:, :60], head()[:, :60])


def test_a_head_without_its_top_or_too_little_of_it_is_left_alone() -> None:
    for array in (head(top=130), head()[:, :, 70:]):
        result, note = deface.without_face(array, np.diag([2.0, 2, 2, 1]))
        assert note.startswith("face kept")
        assert np.array_equal(result, array)


def test_a_head_is_known_by_its_code_or_by_words() -> None:
    assert deface.is_head(header(BodyPartExamined="BRAIN"))
    assert not deface.is_head(header(BodyPartExamined="ABDOMEN", StudyDescription="head"))
    assert deface.is_head(header(StudyDescription="MR Brain"))
