"""What a radiographer would remark, on small bodies with a known flaw each; and silence on a body without one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines.intake import examination, finding, listing, quality
from pipelines.intake.quality import Finding
from pipelines.params import profiles
from pipelines.params.quality_bounds import Quality
from pipelines.scans import vocabulary
from pipelines.scans.volume_geometry import Volume

BOUNDS = profiles.settings("smoke").ingest.quality
SPACING_MM = (5.0, 2.0, 2.0)
SPLEEN = vocabulary.default()["spleen"].id
SHAPE = (20, 60, 90)  # 100 x 120 x 180 mm
Scan = tuple[str, Volume, np.ndarray]


def abdomen(spleen_at: float = 0.25, liver_at: float = 0.75) -> Scan:
    """A body in air with a liver right and a spleen left; `..._at`: place along the width, 0 left, 1 right."""
    d, h, w = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in SHAPE], indexing="ij")
    body = (h / 0.4) ** 2 + (w / 0.42) ** 2 < 1
    image = np.where(body, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 12, SHAPE)
    image[(abs(h + 0.3) < 0.04) & (abs(w) < 0.04)] = 1600  # spine
    label = np.zeros(SHAPE, np.uint8)
    for name, at in (("spleen", spleen_at), ("liver", liver_at)):
        label[(abs(d) < 0.25) & (abs(h) < 0.15) & (abs(w + 0.5 - at) < 0.08)] = vocabulary.default()[name].id
    return "CT", volume(image), label


def head() -> Scan:
    _, ct, label = abdomen()
    image = np.where(ct.array > -500, 300.0, 0.0) + np.random.default_rng(1).integers(0, 8, SHAPE)
    return "T1", volume(image), np.where(label > 0, vocabulary.default()["tumour_oedema"].id, 0).astype(np.uint8)


def volume(array: np.ndarray, spacing_mm: tuple[float, float, float] = SPACING_MM) -> Volume:
    d, h, w = array.shape
    return Volume(array.astype(np.float32), spacing_mm, np.diag([*reversed(spacing_mm), 1.0]), (w, h, d))


def found(scan: Scan, bounds: Quality = BOUNDS, nominal_frame: bool = False) -> list[Finding]:
    modality, image, label = scan
    return quality.examine({modality: image}, label, bounds, nominal_frame)


def changed(scan: Scan, change: Callable[[np.ndarray], object]) -> Scan:
    """The same scan with its voxels changed in place, or replaced by what `change` returns."""
    modality, image, label = scan
    array = image.array.copy()
    result = change(array)
    return modality, volume(array if result is None else np.asarray(result), image.spacing_mm), label


def spaced(scan: Scan, *spacing_mm: float) -> Scan:
    return scan[0], volume(scan[1].array, spacing_mm), scan[2]  # type: ignore[arg-type]


def turned(scan: Scan, matrix: np.ndarray) -> Scan:
    affine = scan[1].affine.copy()
    affine[:3, :3] = matrix @ affine[:3, :3]
    return scan[0], replace(scan[1], affine=affine), scan[2]


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def labelled(scan: Scan, change: Callable[[np.ndarray], object]) -> Scan:
    label = scan[2].copy()
    change(label)
    return scan[0], scan[1], label


def fill(at: object, value: float) -> Callable[[np.ndarray], object]:
    def change(array: np.ndarray) -> None:
        array[at] = value  # type: ignore[index]

    return change


def speck(at: object) -> Scan:
    return labelled(abdomen(), fill(at, vocabulary.default()["prostate"].id))


def only_a_voxel(scan: Scan) -> Scan:
    label = np.zeros(SHAPE, np.uint8)
    label[10, 30, 40] = SPLEEN
    return scan[0], volume(scan[1].array, (2.0, 2.0, 1.0)), label


def repeat(times: int) -> Callable[[np.ndarray], object]:
    def change(array: np.ndarray) -> None:
        array[-times:] = array[:times]

    return change


@pytest.mark.parametrize("scan", [abdomen(), head()], ids=["ct", "mr"])
def test_a_sound_scan_gives_no_remark(scan: Scan) -> None:
    assert found(scan) == []


@pytest.mark.parametrize(
    ("scan", "refused", "told"),
    [
        (spaced(abdomen(), 0.02, 0.01, 0.01), True, "field of view: 0.4 x 0.6 x 0.9 mm is outside [10, 2500]"),
        (spaced(abdomen(), 50.0, 50.0, 50.0), True, "field of view: 1e+03 x 3e+03 x 4.5e+03 mm"),
        (spaced(abdomen(), 15.0, 2.0, 2.0), False, "spacing: 15 x 2 x 2 mm is outside [0.1, 12]"),
        (spaced(abdomen(), 11.0, 0.5, 0.5), False, "spacing: 11 x 0.5 x 0.5 mm is 22 times longer than wide"),
        (turned(abdomen(), np.array([[1, 0, 0.1], [0, 1, 0], [0, 0, 1]])), True, "axes are 5.71 degrees off the right"),
        (turned(abdomen(), rotation(38)), False, "orientation: turned by 38 degrees from the patient's axes"),
        (changed(abdomen(), lambda a: (a.clip(-160, 240) + 160) / 400 * 255), True, "CT from 0 to 255 spans less than"),
        (changed(abdomen(), lambda a: a / 1000), True, "spans less than 300 HU; windowed or rescaled"),
        (changed(abdomen(), lambda a: a - a.min() + 2), True, "has no negative value: no Hounsfield units, or no"),
        (changed(abdomen(), lambda a: a.clip(-300, None)), False, "CT without air, lowest -300 HU"),
        (changed(abdomen(), lambda a: a.clip(None, 60)), False, "of CT has its highest value 60 HU; windowed"),
        (changed(abdomen(), fill(np.s_[:, :4], -3024)), False, "6.7% of CT is outside [-1100, 4000] HU; padding"),
        (changed(head(), lambda a: a - 150), False, "of T1 is negative; normalised before?"),
        (("T1", abdomen()[1], head()[2]), True, "called T1, but its values are Hounsfield units"),
        (changed(abdomen(), repeat(3)), False, "slices: 3 of 20 in CT repeat another (17, 18, 19)"),
        (changed(abdomen(), repeat(9)), True, "slices: 9 of 20 in CT repeat another (11, 12, 13, 14, 15, ...)"),
        (changed(head(), fill(np.s_[2], 0)), False, "slices: 1 of 20 inside T1 are empty (2)"),
        (changed(head(), fill(np.s_[14:], 0)), False, "slices: 6 of 20 at one end of T1 are empty; truncated export?"),
        (labelled(abdomen(), fill(np.s_[8:12, :4, 10:80], SPLEEN)), False, "of it lies on air, above 10%"),
        (labelled(head(), lambda a: np.copyto(a, np.roll(a, 30, axis=1))), True, "of it lies on air, above 50%"),
        (labelled(abdomen(), fill(np.s_[...], 0)), True, "label: empty"),
        (only_a_voxel(abdomen()), True, "label: 4 mm3 in all, below 10"),
        (speck(np.s_[10, 30, 45:47]), False, "label: prostate has 40 mm3, below 50"),
        (changed(head(), fill(np.s_[7:13], 0)), True, "of it lies on air, above 50%"),
        (abdomen(spleen_at=0.75, liver_at=0.25), False, "left-right: spleen is not left of liver, but 90 mm the other"),
        (abdomen(spleen_at=0.75, liver_at=0.25), False, "liver is not on the patient's right, but 30% beyond"),
    ],
)
def test_each_flaw_is_told_with_its_figure(scan: Scan, refused: bool, told: str) -> None:
    bounds = BOUNDS.model_copy(update={"tiny_mm3": {"default": 10.0, "prostate": 50.0}})
    matching = [finding for finding in found(scan, bounds) if told in finding.text]
    assert [finding.refused for finding in matching] == [refused], found(scan)


def test_sides_are_not_judged_where_headers_are_nominal_or_the_body_is_cut_off() -> None:
    mirrored = abdomen(spleen_at=0.75, liver_at=0.25)
    assert found(mirrored, nominal_frame=True) == []
    modality, image, label = mirrored
    only_spleen = np.where(label == SPLEEN, label, 0).astype(np.uint8)
    assert [f.text.partition(",")[0] for f in found((modality, image, only_spleen))] == [
        "left-right: spleen is not on the patient's left"
    ]
    cut = (modality, volume(image.array[..., 45:]), only_spleen[..., 45:])
    assert found(cut) == []


def test_front_and_back_are_told_as_orientation() -> None:
    modality, image, label = head()
    label[:] = 0
    label[8:12, 20:25, 40:50], label[8:12, 35:40, 40:50] = 1, 2  # anterior behind posterior
    told = [finding.text for finding in found((modality, image, label))]
    assert told == [
        "orientation: hippocampus_anterior is not in front of hippocampus_posterior, but 30 mm the other way"
    ]


def test_every_channel_is_looked_at() -> None:
    _, t1, label = head()
    _, spoilt, _ = changed(head(), fill(np.s_[2], 0))
    told = [finding.text for finding in quality.examine({"FLAIR": t1, "T1": spoilt}, label, BOUNDS)]
    assert told == ["slices: 1 of 20 inside T1 are empty (2)"]


def test_remarks_of_the_file_and_notes_reach_the_manifest_and_refusals_its_reason(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = cohort / "patient003/patient003_frame01.nii.gz"
    for path in (frame, cohort / "patient003/patient003_frame01_gt.nii.gz"):
        image = nib.load(path)
        image.set_sform(image.affine, 0)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    image = nib.load(cohort / "patient004/patient004_frame01.nii.gz")
    nib.save(
        nib.Nifti1Image((np.asarray(image.dataobj) * 3.0 - 1000).astype(np.int16), image.affine),
        cohort / "patient004/patient004_frame01.nii.gz",
    )
    listed = listing.take(cohort, cohort.parent / "digests.sqlite")
    rows = {Path(row.files[0].path).parent.name: row for row in finding.find(Path("data/raw"), listed, ("acdc",))}
    examined = {name: examination.examine_one(row, BOUNDS) for name, row in rows.items()}
    assert examined["patient003"].quarantined == ""
    assert any("neither qform nor sform" in note for note in examined["patient003"].notes)
    assert (
        "patient004_frame01.nii.gz: intensity: called CINE, but its values are Houns"
        in examined["patient004"].quarantined
    )
    assert examined["patient004"].shape == [4, 12, 12]
    assert examined["patient005"].notes == ["slices: 4, below 5"]
