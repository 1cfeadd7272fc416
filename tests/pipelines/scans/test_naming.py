"""What is exported names nobody, in any layout: ids under a key, files under pseudonyms; the way back stays here."""

import hashlib
import json
import shutil
import stat
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from pipelines.intake import raw_folder
from pipelines.params import profiles
from pipelines.questions import verification, whereis
from pipelines.scans import key, manifest, scan_files
from pipelines.scans.key import Pseudonyms
from pipelines.scans.manifest import Row
from pipelines.scans.naming import Names, published
from pipelines.scans.volume import VolumeError
from pipelines.sources import layout_of, readers
from pipelines.stages import deidentify, ingest, inventory
from tests.conftest import save

PEOPLE = ("BRZEZINSKI", "ROSENQVIST", "HOFFMANNSTHAL", "ABERNATHY", "DELACROIX", "MONTGOMERY", "VANDERBILT", "SCHMIDT")
SMOKE = profiles.compose("smoke")
LABEL = np.zeros((12, 13, 14), np.uint8)
LABEL[3:9, 3:9, 3:9] = 1


def image(path: Path, seed: int) -> None:
    save(path, np.random.default_rng(seed).integers(-900, 900, LABEL.shape).astype(np.int16))


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose raw files and folders are called after patients, sound ones and one of every kind of fault."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(key.VARIABLE, raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    content = YAML(typ="safe").load(SMOKE)
    content["data"]["sources"] = list(readers())
    content["data"]["labels"] = {"pairs": {"1": "liver"}, "msd": {"thing": "prostate"}}
    content["data"]["modality"] = {"pairs": "CT"}
    content["ingest"].update(max_quarantined_fraction=1.0, contact_sheet_cases=2)
    with Path("params.yaml").open("w") as file:
        YAML().dump(content, file)
    raw = tmp_path / "data/raw"
    nnunet = raw / "Dataset042_DELACROIX"
    for number, name in enumerate(("BRZEZINSKI_STANISLAW_0000", "BRZEZINSKI_JAN", "SCHMIDT_0004")):
        image(nnunet / f"imagesTr/{name}.nii.gz", number)
    save(nnunet / "labelsTr/BRZEZINSKI_STANISLAW.nii.gz", LABEL)
    save(nnunet / "labelsTr/SCHMIDT_ANNA.nii.gz", LABEL)
    index = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (nnunet / "dataset.json").write_text(json.dumps(index))
    bids = raw / "ROSENQVIST/sub-ROSENQVIST/anat/sub-ROSENQVIST"
    image(Path(f"{bids}_T1w.nii.gz"), 3)
    save(Path(f"{bids}_label-SCHMIDT_mask.nii.gz"), LABEL)
    image(raw / "HOFFMANNSTHAL/case_00001/imaging.nii.gz", 4)
    save(raw / "HOFFMANNSTHAL/case_00001/segmentation.nii.gz", np.pad(LABEL, 1))
    save(raw / "case_71234/segmentation.nii.gz", LABEL)
    save(raw / "ABERNATHY/ABERNATHY_seg.nii.gz", LABEL)
    for number in range(7, 12):  # enough to train on and to hold out
        frame = np.random.default_rng(number).integers(1, 50, LABEL.shape) + 100 * LABEL
        save(raw / f"patient{number:03d}/patient{number:03d}_frame01.nii.gz", frame.astype(np.int16))
        save(raw / f"patient{number:03d}/patient{number:03d}_frame01_gt.nii.gz", LABEL)
    plain_folders(raw)
    (raw / "MONTGOMERY").mkdir()
    (raw / "MONTGOMERY/dataset.json").write_text('{"name": "VANDERBILT", "modality": {"0": "CT"}, "training": 5}')
    (raw / "MONTGOMERY/letter.txt").write_text("about VANDERBILT")
    (raw / "MONTGOMERY/VANDERBILT.nii.gz").symlink_to("/nowhere/else")
    return tmp_path


def plain_folders(raw: Path) -> None:
    """Masks, a pair of folders, a 4-D file of two channels."""
    image(raw / "BRZEZINSKI MASKS/ROSENQVIST/ct.nii.gz", 21)
    save(raw / "BRZEZINSKI MASKS/ROSENQVIST/segmentations/liver.nii.gz", LABEL)
    image(raw / "VANDERBILT PAIRS/images/DELACROIX.nii.gz", 22)
    save(raw / "VANDERBILT PAIRS/labels/DELACROIX.nii.gz", LABEL)
    task = raw / "HOFFMANNSTHAL 4-D"
    channels = np.random.default_rng(23).integers(1, 900, (*LABEL.shape, 2)).astype(np.int16)
    save(task / "imagesTr/ABERNATHY_7.nii.gz", channels)
    save(task / "labelsTr/ABERNATHY_7.nii.gz", LABEL)
    index = {"name": "MONTGOMERY", "modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "1": "thing"}}
    training = [{"image": "imagesTr/ABERNATHY_7.nii.gz", "label": "labelsTr/ABERNATHY_7.nii.gz"}]
    (task / "dataset.json").write_text(json.dumps({**index, "training": training}))


def ingested() -> list[Row]:
    inventory.main()
    deidentify.main()
    ingest.main()
    return manifest.read()


def exported(project: Path) -> Iterator[str]:
    """What DVC pushes, with Parquet spelled out."""
    for path in (project / "data").rglob("*"):
        if path.is_file() and not path.is_relative_to(project / "data/raw"):
            yield (
                str(pq.read_table(path).to_pylist())
                if path.suffix == ".parquet"
                else path.read_bytes().decode("latin-1")
            )
    for path in (project / "reports").rglob("*.html"):
        yield path.read_text()


def test_no_name_of_a_file_or_folder_is_exported_or_told_in_any_layout(
    hospital: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    rows = ingested()
    told = "\n".join([*exported(hospital), caplog.text]).upper()
    assert not [name for name in (*PEOPLE, "71234", "STANISLAW", "/NOWHERE") if name in told]
    layouts = {"nnunet", "bids", "kits", "acdc", "brats", "unread", "totalsegmentator", "pairs", "msd"}
    assert {layout_of(row.source) for row in rows} >= layouts
    read = [row for row in rows if layout_of(row.source) in ("totalsegmentator", "pairs", "msd") and row.files]
    assert [row.quarantined for row in read] == [""] * 3
    assert sum(bool(row.quarantined) for row in rows) >= 8
    assert "patient007/patient007_frame01.nii.gz" in told.lower()  # a published set's own number


def test_a_list_of_names_identifies_nobody(hospital: Path) -> None:
    told = "\n".join(str(row) for row in ingested())
    guesses = [f"{prefix}{name}" for prefix, name in product(("", "sub-", "DELACROIX/", "ROSENQVIST/sub-"), PEOPLE)]
    guesses += ["Dataset042_DELACROIX/BRZEZINSKI_STANISLAW", "case_71234"]
    for source, guess in product(("nnunet", "bids", "kits", "brats"), guesses):
        assert hashlib.sha256(f"{source}/{guess}".encode()).hexdigest()[:12] not in told
    other = Names(Pseudonyms(b"1" * 32))
    assert other.identifier("kits", "case_71234") not in told


def test_every_case_is_found_again_by_who_has_the_scans(hospital: Path) -> None:
    for row in ingested():
        if not row.files:  # an index that cannot be read: the reason names it
            assert whereis.find(row.quarantined.partition(":")[0]) == ["MONTGOMERY/dataset.json"]
            continue
        if row.source == "unread":
            assert whereis.find(row.case_id) == whereis.find(row.files[0].path) == ["MONTGOMERY/VANDERBILT.nii.gz"]
            continue
        raw = [str(scan_files.where(file.path).relative_to("data/raw")) for file in row.files]
        assert set(raw) <= set(whereis.find(row.case_id))
        assert whereis.find(row.files[0].path) == [raw[0]]
    with pytest.raises(ValueError, match="no file below"):
        whereis.find("kits-0123456789abcdef")


def test_the_own_key_and_the_way_back_are_readable_by_their_owner_alone(hospital: Path) -> None:
    ingested()
    for name in ("key", "raw-files.json"):
        assert stat.S_IMODE((hospital / ".medseg" / name).stat().st_mode) == 0o600
    before = (hospital / "data/inventory.parquet").read_bytes(), (hospital / "data/manifest.parquet").read_bytes()
    ingested()
    assert before == (
        (hospital / "data/inventory.parquet").read_bytes(),
        (hospital / "data/manifest.parquet").read_bytes(),
    )


def test_published_data_need_no_key_to_be_called_the_same_anywhere(cohort: Path, tmp_path: Path) -> None:
    assert published("Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz")
    assert not published("SCHMIDT/case_00001/imaging.nii.gz")
    one, two = (Names(Pseudonyms(bytes([n]) * 32)) for n in (1, 2))
    for source, own in {"msd": "hippocampus/hippocampus_001", "acdc": "patient101_frame12", "kits": "case_00588",
                        "brats": "BraTS20_Training_001"}.items():  # fmt: skip
        assert one.identifier(source, own) == two.identifier(source, own)
    assert not one.keyed
    for source, own in {"kits": "case_12345", "nnunet": "D/case_00001", "bids": "sub-01", "brats": "Schmidt"}.items():
        assert one.identifier(source, own) != two.identifier(source, own)


def test_a_clone_without_the_raw_scans_or_the_key_is_told_so_and_nothing_is_made_anew(
    hospital: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, lists = ingested(), (hospital / "data/inventory.parquet").read_bytes()
    clone = hospital / "clone"
    shutil.copytree(hospital / "data", clone / "data", ignore=shutil.ignore_patterns("raw"))
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(hospital / name, clone)
    monkeypatch.chdir(clone)
    with pytest.raises(
        ValueError, match=r"data/raw is missing or empty, and .* link them with `medseg run --data DIR`"
    ):
        inventory.main()
    with pytest.raises(VolumeError, match="not known on this machine"):
        scan_files.read(*next((row, file) for row in rows for file in row.files if "/layout/" in file.path))
    (clone / "data/raw").symlink_to(hospital / "data/raw")
    with pytest.raises(ValueError, match="made with another key than this clone's own"):
        inventory.main()
    assert raw_folder.changed()
    shutil.copy(hospital / ".medseg/key", clone / ".medseg/key")
    inventory.main()
    assert (clone / "data/inventory.parquet").read_bytes() == lists
    assert verification.verify()["files"] > 0


@pytest.mark.parametrize("role", ["CINE", "label"])
def test_a_file_that_changed_since_it_was_listed_is_refused_by_its_case(cohort: Path, role: str) -> None:
    state = YAML(typ="safe").load(SMOKE)
    state["data"]["sources"] = ["acdc"]
    with Path("params.yaml").open("w") as file:
        YAML().dump(state, file)
    row = manifest.usable(ingested())[0]
    file = next(file for file in row.files if file.role == role)
    path = scan_files.where(file.path)
    assert scan_files.read(row, file).array.shape == tuple(row.shape)
    content = path.read_bytes()
    for changed in (content[:9] + bytes([content[9] ^ 1]) + content[10:], content + b"\0"):  # a gzip's operating system
        path.write_bytes(changed)
        with pytest.raises(VolumeError, match=f"{row.case_id}: its {role} file changed since") as told:
            scan_files.read(row, file)
        assert path.name not in str(told.value)
    path.unlink()
    with pytest.raises(VolumeError, match=f"{row.case_id}: its {role} file cannot be read"):
        scan_files.read(row, file)
