"""Bad input, on real files: the scan is quarantined with file and reason, and the rest goes on."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from pipelines import params
from pipelines.intake import claims, examination, finding, listing
from pipelines.intake.splits import assign_splits
from pipelines.questions import folder_check
from pipelines.scans import key
from pipelines.scans.manifest import SET_ASIDE, TEST, TRAIN, File, Row, usable
from pipelines.scans.naming import Names
from pipelines.scans.volume_geometry import Volume
from pipelines.sources import phantom
from pipelines.stages import ingest
from tests.conftest import save

IMAGE = "patient003/patient003_frame01.nii.gz"
LABEL = "patient003/patient003_frame01_gt.nii.gz"


def examined(raw: Path) -> list[Row]:
    listed = listing.take(raw, raw.parent / "digests.sqlite")
    return examination.examine(finding.find(Path("data/raw"), listed, ("acdc",)))


def the_refused(raw: Path) -> Row:
    rows = examined(raw)
    refused = [row for row in rows if row.quarantined]
    assert len(refused) == 1, [row.quarantined for row in refused]
    assert len(usable(rows)) == len(rows) - 1 >= 9
    return refused[0]


def truncate(raw: Path) -> None:
    content = (raw / IMAGE).read_bytes()
    (raw / IMAGE).write_bytes(content[: len(content) * 2 // 3])


def not_an_image(raw: Path) -> None:
    (raw / IMAGE).write_bytes(b"this is not a scan")


def label_of_another_shape(raw: Path) -> None:
    image = nib.load(raw / LABEL)
    save(raw / LABEL, np.asarray(image.dataobj)[:-1], image.affine)


def label_of_another_affine(raw: Path) -> None:
    image = nib.load(raw / LABEL)
    affine = image.affine.copy()
    affine[0, 3] += 3
    save(raw / LABEL, np.asarray(image.dataobj), affine)


def value_outside_the_contract(raw: Path) -> None:
    image = nib.load(raw / LABEL)
    label = np.asarray(image.dataobj).copy()
    label[0, 0, 0] = 7
    save(raw / LABEL, label, image.affine)


def half_a_label(raw: Path) -> None:
    image = nib.load(raw / LABEL)
    save(raw / LABEL, np.asarray(image.dataobj).astype(np.float32) * 0.5, image.affine)


def nan_voxels(raw: Path) -> None:
    image = nib.load(raw / IMAGE)
    array = np.asarray(image.dataobj).astype(np.float32)
    array[2, 2, 2] = np.nan
    save(raw / IMAGE, array, image.affine)


def four_dimensions(raw: Path) -> None:
    image = nib.load(raw / IMAGE)
    save(raw / IMAGE, np.stack([np.asarray(image.dataobj)] * 3, axis=-1), image.affine)


def empty_label(raw: Path) -> None:
    image = nib.load(raw / LABEL)
    save(raw / LABEL, np.zeros(image.shape, np.uint8), image.affine)


def constant_image(raw: Path) -> None:
    image = nib.load(raw / IMAGE)
    save(raw / IMAGE, np.full(image.shape, 5, np.int16), image.affine)


def _with_spacing(raw: Path, value: float) -> None:
    """Plant a spacing in the header's bytes, as no library would write it."""
    import gzip

    content = bytearray(gzip.decompress((raw / IMAGE).read_bytes()))
    content[84:88] = np.float32(value).tobytes()  # pixdim[2]
    (raw / IMAGE).write_bytes(gzip.compress(bytes(content)))


def zero_spacing(raw: Path) -> None:
    _with_spacing(raw, 0.0)


def negative_spacing(raw: Path) -> None:
    _with_spacing(raw, -1.5)


def dangling_link(raw: Path) -> None:
    (raw / IMAGE).unlink()
    (raw / IMAGE).symlink_to(raw / "gone.nii.gz")


def missing_image(raw: Path) -> None:
    (raw / IMAGE).unlink()


def plain_beside_compressed(raw: Path) -> None:
    nib.save(nib.load(raw / IMAGE), (raw / IMAGE).with_suffix(""))


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (truncate, IMAGE, "truncated"),
        (not_an_image, IMAGE, "not a readable NIfTI"),
        (label_of_another_shape, LABEL, "shape (11, 12, 4) differs from"),
        (label_of_another_affine, LABEL, "affine differs by 3 mm"),
        (value_outside_the_contract, LABEL, "label value 7 outside the contract (0, 1, 2, 3)"),
        (half_a_label, LABEL, "label value 0.5, 1.5 outside the contract"),
        (nan_voxels, IMAGE, "1 voxels are NaN"),
        (four_dimensions, IMAGE, "has 4 dimensions"),
        (empty_label, LABEL, "label is empty"),
        (constant_image, IMAGE, "every voxel has the same value"),
        (zero_spacing, IMAGE, "spacing (1.5, 0, 10) mm in the header is outside"),
        (negative_spacing, IMAGE, "spacing (1.5, -1.5, 10) mm in the header is outside"),
        (dangling_link, IMAGE, "unreadable (No such file or directory)"),
        (missing_image, LABEL, "a ground truth without its frame"),
        (plain_beside_compressed, IMAGE, "both lie there; keep one"),
    ],
)
def test_a_bad_scan_is_quarantined_with_file_and_reason(
    cohort: Path, damage: Callable[[Path], None], file: str, reason: str
) -> None:
    damage(cohort)
    refused = the_refused(cohort)
    assert reason in refused.quarantined
    assert file.removesuffix(".gz") in refused.quarantined


def test_an_unreadable_folder_is_reported_and_the_rest_goes_on(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the operating system reports it; root may read everything, so the refusal is simulated at os.scandir."""
    locked = cohort / "patient003"
    plain_scandir = os.scandir

    def scandir(path: str | Path) -> object:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return plain_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    refused = the_refused(cohort)
    assert refused.quarantined == "patient003: unreadable folder (Permission denied)"


def test_the_same_case_twice_is_quarantined_once(cohort: Path) -> None:
    shutil.copytree(cohort / "patient003", cohort / "copy" / "patient003")
    refused = the_refused(cohort)
    assert "duplicate case" in refused.quarantined
    assert "data/raw/copy/patient003" in refused.quarantined or "data/raw/patient003" in refused.quarantined


def test_the_same_voxels_under_another_name_are_a_duplicate(cohort: Path) -> None:
    (cohort / "patient099").mkdir()
    for suffix in ("", "_gt"):
        source = cohort / "patient003" / f"patient003_frame01{suffix}.nii.gz"
        shutil.copy(source, cohort / "patient099" / f"patient099_frame01{suffix}.nii.gz")
    assert "the same as data/raw/patient003" in the_refused(cohort).quarantined


def test_a_scan_that_cannot_be_used_takes_no_sound_one_with_it(cohort: Path) -> None:
    shutil.copytree(cohort / "patient003", cohort / "copy" / "patient003")  # comes first, by its path
    empty_label(cohort / "copy")
    refused = the_refused(cohort)
    assert refused.quarantined == "data/raw/copy/patient003/patient003_frame01_gt.nii.gz: label is empty"
    ids = [row.case_id for row in examined(cohort)]
    assert len(set(ids)) == len(ids) == 11


def test_case_ids_are_unique_and_carry_no_name_of_the_layout(cohort: Path) -> None:
    shutil.copytree(cohort / "patient003", cohort / "copy" / "patient003")
    ids = [row.case_id for row in examined(cohort)]
    assert len(set(ids)) == len(ids) == 11
    assert not any("patient" in case_id for case_id in ids)


def test_a_reason_that_many_scans_share_is_told_once_and_in_one_line(cohort: Path) -> None:
    rows = [replace(row, quarantined="no structure is called 'knee'") for row in examined(cohort)]
    with pytest.raises(ValueError, match=rf"raise the bound: {rows[0].case_id} and 9 more: no structure [^\n]*knee'$"):
        ingest._stop_above(rows, 0.05)


def test_a_structure_that_a_label_shows_is_kept_in_the_manifest(cohort: Path) -> None:
    image = nib.load(cohort / LABEL)
    label = np.asarray(image.dataobj).copy()
    label[label == 3] = 2
    save(cohort / LABEL, label, image.affine)
    drawn = {row.files[0].path[9:]: row.drawn for row in examined(cohort)}
    assert drawn.pop(IMAGE) == ["right_ventricle", "myocardium"]
    assert set(map(tuple, drawn.values())) == {("right_ventricle", "myocardium", "left_ventricle")}


def test_above_the_bound_the_stage_stops_with_the_list(cohort: Path) -> None:
    truncate(cohort)
    with pytest.raises(ValueError, match=r"1 of 10 scans are quarantined, above .*0.05(.|\n)*frame01.*truncated"):
        ingest._stop_above(examined(cohort), 0.05)
    ingest._stop_above(examined(cohort), 0.1)


def test_what_is_set_aside_does_not_count_against_the_bound(cohort: Path) -> None:
    rows = examined(cohort)
    ingest._stop_above([*rows[1:], replace(rows[0], quarantined=f"{SET_ASIDE}a localiser")], 0.0)
    with pytest.raises(ValueError, match="1 of 10"):
        ingest._stop_above([*rows[1:], replace(rows[0], quarantined="a localiser")], 0.0)


def test_with_dicom_only_paths_that_another_layout_claims_are_listed(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(key.VARIABLE, str(key.create(cohort.parents[2] / f"{cohort.parents[1].name}.key")))
    (cohort / "Somebody, Some").mkdir()
    (cohort / "Somebody, Some" / "scan.dcm").write_bytes(b"x")
    (cohort / "Somebody, Some" / "letter").write_bytes(b"y")
    listed = listing.take(cohort, cohort.parent / "digests.sqlite")
    names = Names(key.load())
    shown = list(claims.calling(listed, cohort, ("acdc", "dicom"), names).values())
    assert sum(path.startswith("patient") for path in shown) == 20
    assert sum(path.startswith("hidden/") for path in shown) == 2
    assert len(shown) == 22
    without = list(claims.calling(listed, cohort, ("acdc",), names).values())
    assert sorted(without) == sorted(shown)


def splits(raw: Path, **changed: float) -> dict[str, str]:
    settings = params.Data(
        sources=("acdc",), **{"split_seed": 0, "test_fraction": 0.3, "validation_fraction": 0.1, **changed}
    )
    return {row.case_id: row.split for row in assign_splits(examined(raw), settings)}


def test_a_split_stays_put_when_scans_are_added(cohort: Path) -> None:
    before = splits(cohort)
    for number in range(50, 60):
        (cohort / f"patient{number:03d}").mkdir()
        rng = np.random.default_rng(number)
        label = np.asarray(nib.load(cohort / LABEL).dataobj)
        save(cohort / f"patient{number:03d}" / f"patient{number:03d}_frame01.nii.gz", rng.random(label.shape))
        save(cohort / f"patient{number:03d}" / f"patient{number:03d}_frame01_gt.nii.gz", label)
    after = splits(cohort)
    assert len(after) == 20
    assert {case: after[case] for case in before} == before
    assert set(before.values()) >= {TRAIN, TEST}


def test_all_frames_of_a_patient_share_a_split(cohort: Path) -> None:
    for number in range(10):
        stem = cohort / f"patient{number:03d}" / f"patient{number:03d}"
        label = np.asarray(nib.load(f"{stem}_frame01_gt.nii.gz").dataobj)
        save(Path(f"{stem}_frame02.nii.gz"), np.random.default_rng(100 + number).random(label.shape))
        save(Path(f"{stem}_frame02_gt.nii.gz"), label)
    rows = assign_splits(
        examined(cohort), params.Data(sources=("acdc",), split_seed=1, test_fraction=0.3, validation_fraction=0.2)
    )
    assert len(rows) == 20
    assert len({(row.patient, row.split) for row in rows}) == 10


def test_a_tiny_source_still_holds_someone_out(cohort: Path) -> None:
    found = splits(cohort, test_fraction=0.001, validation_fraction=0)
    assert list(found.values()).count(TEST) == 1


def test_a_sources_only_patient_is_trained_on(cohort: Path) -> None:
    """Tested on, nobody could have taught what it is tested for."""
    for number in range(1, 10):
        shutil.rmtree(cohort / f"patient{number:03d}")
    for seed in range(20):
        assert list(splits(cohort, split_seed=seed, test_fraction=0.5).values()) == [TRAIN]


def rows_of(raw: Path) -> list[Row]:
    return finding.find(Path("data/raw"), listing.take(raw, raw.parent / "digests.sqlite"), ("acdc",))


def test_a_scan_that_does_not_fit_is_named_before_it_is_unpacked_and_the_rest_goes_on(cohort: Path) -> None:
    """128 MiB of zeros, 130 kB of them on disk; a worker has 100 MiB."""
    affine = nib.load(cohort / IMAGE).affine
    save(cohort / IMAGE, np.zeros((512, 512, 256), np.int16), affine)
    rows = examination.examine(rows_of(cohort), memory_gib=0.1)
    (refused,) = [row for row in rows if row.quarantined]
    assert refused.quarantined.startswith(f"data/raw/{IMAGE}: needs 0.71 GiB, above preprocess.memory_gib 0.1; raise")
    assert len(usable(rows)) == 9


def killed_at(part: str) -> Callable[[Row, File], Volume]:
    def read(row: Row, file: File) -> Volume:
        if part in file.path:
            os.kill(os.getpid(), signal.SIGKILL)  # what the system does for want of memory
        return examination_read(row, file)

    examination_read = examination._read
    return read


def test_a_scan_whose_reader_is_killed_is_named_and_the_rest_goes_on(
    cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "_read", killed_at("patient003"))
    rows = examination.examine(rows_of(cohort))
    (refused,) = [row for row in rows if row.quarantined]
    assert refused.quarantined.startswith(f"data/raw/{IMAGE}: its process was killed, though no other case ran beside")
    assert [row.case_id for row in rows] == [row.case_id for row in rows_of(cohort)]


def test_every_layout_of_the_phantoms_is_read_and_nothing_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phantom.write(Path("data/phantom"), 3, 16, 0)
    rows = examination.examine(finding.find_phantoms(Path("data/phantom")))
    assert [row.quarantined for row in rows] == [""] * 12
    assert {row.source for row in rows} == {"phantom-acdc", "phantom-brats", "phantom-kits"}
    assert {len(row.modalities) for row in rows if row.source == "phantom-brats"} == {2, 4}
    assert {row.orientation for row in rows if row.source == "phantom-kits"} == {"IPL"}


def test_phantoms_are_a_pure_function_of_their_seed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        phantom.write(tmp_path / folder, 1, 16, 5)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_empty_folder_holds_no_scans(tmp_path: Path) -> None:
    assert folder_check.check(tmp_path) == []


def test_check_reads_a_folder_and_writes_nothing(cohort: Path) -> None:
    truncate(cohort)
    before = sorted(cohort.rglob("*"))
    records = folder_check.check(cohort)
    assert len(records) == 10
    assert sum(bool(record["quarantined"]) for record in records) == 1
    assert sorted(cohort.rglob("*")) == before
