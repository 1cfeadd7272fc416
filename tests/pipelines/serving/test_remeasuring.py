"""A dossier that holds, and everything that was changed in one, found by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from model import weights_file
from pipelines.evaluation import tables
from pipelines.release import plan, run_identity, store
from pipelines.scans import manifest
from pipelines.scans.manifest import Row
from pipelines.serving import remeasuring
from pipelines.serving.remeasuring import remeasure
from pipelines.stages import evaluate
from pipelines.work import project
from pipelines.work.digests import sha256_of
from tests.conftest import REPOSITORY
from tests.pipelines.stages.test_held_out import HIPPOCAMPUS, held_out  # noqa: F401


@pytest.fixture
def dossier(held_out: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """Of the five cases, evaluated."""
    monkeypatch.setenv("MEDSEG_WORKERS", "1")  # one is started faster than two
    Path("release").mkdir()
    shutil.copy(REPOSITORY / plan.FILE, plan.FILE)
    evaluate.main()
    return kept(tmp_path / "dossier")


def kept(folder: Path) -> Path:
    sha256 = weights_file.digest(project.TRAINED)
    store.keep(project.TRAINED, sha256)
    shutil.copytree(project.EVALUATION, folder / "evaluation")
    (folder / "lineage").mkdir()
    shutil.copy(project.MANIFEST, folder / "lineage")
    (folder / "lineage/origin.json").write_text(json.dumps(run_identity.origin()))
    metrics = json.loads((folder / "evaluation/metrics.json").read_text())
    record = {
        "weights_sha256": sha256, "conditions": metrics["conditions"], "structures": HIPPOCAMPUS,
        "test_set_sha256": manifest.test_set_sha256(), "identity": {},
    }  # fmt: skip
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_what_was_evaluated_here_holds_and_its_costs_are_told(dossier: Path) -> None:
    found = remeasuring.anew(dossier)
    assert found.faults == ()
    assert found.seconds_per_case is not None
    assert found.memory_bytes is not None
    assert found.seconds_per_case > 0
    assert found.memory_bytes > 1 << 20
    for before, after in (("most: 600.0", "most: 0.0001"), ("most: 32.0", "most: 0.001")):
        plan.FILE.write_text(plan.FILE.read_text().replace(before, after))
    slow, large = remeasuring._above_plan(found)
    assert "seconds here, and the plan allows 0.0001" in slow
    assert "GiB of memory here, and the plan allows 0.001" in large


def test_an_edited_table_is_found_by_case_structure_and_column(dossier: Path) -> None:
    folder = dossier / "evaluation"
    scores = tables.read(folder / tables.PARQUET)
    tables.write(folder, [replace(scores[0], dice=0.99), *scores[1:]])
    (fault,) = remeasure(dossier, 0)
    assert fault.startswith("msd-0: hippocampus_anterior: dice was 0.99, measured anew it is 0.")
    tables.write(folder, [replace(score, patient=score.case_id) for score in scores])  # more patients than there were
    assert "msd-3: hippocampus_anterior: patient was msd-3, measured anew it is 3" in remeasure(dossier, 0)


def test_labels_that_were_others_while_the_stage_ran_are_found(held_out: list[Row], tmp_path: Path) -> None:  # noqa: F811
    """The model's own output in place of the labels, then the labels again: Dice 1.000."""
    Path("release").mkdir()
    shutil.copy(REPOSITORY / plan.FILE, plan.FILE)
    evaluate.main()
    true, before = {row.case_id: Path(row.labels[0].path) for row in held_out}, {}
    for case_id, path in true.items():
        before[case_id] = path.read_bytes()
        shutil.copy(project.EVALUATION / f"predictions/{case_id}.nii.gz", path)
    honest = project.MANIFEST.read_bytes()
    manifest.write(project.MANIFEST, [replace(row, files=[row.files[0], _as_it_is(row)]) for row in held_out])
    evaluate.main()
    for case_id, path in true.items():
        path.write_bytes(before[case_id])
    project.MANIFEST.write_bytes(honest)
    assert json.loads((project.EVALUATION / "metrics.json").read_text())["mean_dice"] > 0.99
    faults = remeasure(kept(tmp_path / "dossier"), 0)
    assert len(faults) == 5
    assert all("measured anew it is" in fault for fault in faults)


def _as_it_is(row: Row) -> manifest.File:
    path = Path(row.labels[0].path)
    return replace(row.labels[0], sha256=sha256_of(path), bytes=path.stat().st_size)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("which", [0, 1], ids=["scan", "label"])
def test_a_flipped_byte_of_a_held_out_file_is_found_by_case(dossier: Path, which: int, held_out: list[Row]) -> None:  # noqa: F811
    flip_a_byte(Path(held_out[2].files[which].path))
    (fault,) = remeasure(dossier, 0)
    role = held_out[2].files[which].role
    assert fault.startswith(f"msd-2: its {role} file changed since it was listed")


def test_a_case_that_vanished_or_was_added_is_found(dossier: Path) -> None:
    table = dossier / "evaluation" / tables.PARQUET
    scores = tables.read(table)
    tables.write(table.parent, [score for score in scores if score.case_id != "msd-1"])
    assert remeasure(dossier, 0) == [
        "msd-1 was held out, and neither measured nor left out with a reason; evaluate again"
    ]
    rows = manifest.read(dossier / "lineage/manifest.parquet")
    manifest.write(
        dossier / "lineage/manifest.parquet", [replace(r, split="train") if r.patient == "4" else r for r in rows]
    )
    faults = remeasure(dossier, 0)
    assert "msd-4 was measured, and the manifest holds out no such scan; evaluate again" in faults
    assert faults[-1].endswith("the manifest holds out another one")


def test_label_maps_that_are_not_the_networks_are_found(dossier: Path) -> None:
    """All are the references: figures and label maps agree, and the weights made neither."""
    rewrite(dossier, lambda _, reference: reference)
    assert all("measured anew" in fault for fault in remeasure(dossier, 0))
    faults = [fault for fault in remeasure(dossier) if "segmented anew" in fault]
    assert len(faults) == 2
    assert "of its segmented voxels are as in the stored label map" in faults[0]


def rewrite(dossier: Path, change: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    for row in manifest.read(dossier / "lineage/manifest.parquet"):
        path = dossier / f"evaluation/predictions/{row.case_id}.nii.gz"
        found, reference = nib.load(path), nib.load(row.labels[0].path)
        kept_ids = np.asarray(found.dataobj)
        nib.save(
            nib.Nifti1Image(change(kept_ids, np.asarray(reference.dataobj).astype(kept_ids.dtype)), found.affine), path
        )


def test_a_record_that_keeps_quiet_of_a_structure_and_other_weights_are_found(dossier: Path) -> None:
    record = dossier / "record.json"
    honest = record.read_text()
    record.write_text(json.dumps({**json.loads(honest), "structures": HIPPOCAMPUS[:1]}))
    (fault,) = remeasure(dossier)
    assert fault == (
        "the record names hippocampus_anterior; the weights tell hippocampus_anterior, hippocampus_posterior apart"
    )
    record.write_text(honest)
    path = next(store.place(weights_file.digest(project.TRAINED)).glob("*.safetensors"))
    path.chmod(0o644)
    flip_a_byte(path)
    (fault,) = remeasure(dossier)
    assert fault.startswith("segmenting anew: ")
    assert "is not the registered" in fault


def test_the_draw_depends_on_what_was_evaluated() -> None:
    cases = [f"case-{number}" for number in range(40)]
    draws = {tuple(remeasuring._drawn({"weights_sha256": str(n)}, cases, 2)) for n in range(20)}
    assert len(draws) > 15
    assert remeasuring._drawn({"weights_sha256": "1"}, cases, 2) == remeasuring._drawn(
        {"weights_sha256": "1"}, cases, 2
    )


def test_on_another_processor_a_voxel_in_a_hundred_may_differ(dossier: Path) -> None:
    """The stored label maps differ in one voxel from what the weights say; the small boxes have some 4,000."""
    rewrite(
        dossier, lambda kept_ids, _: np.where(np.arange(kept_ids.size).reshape(kept_ids.shape) == 4210, 3, kept_ids)
    )
    here = [fault for fault in remeasure(dossier, 5) if "segmented anew" in fault]
    origin = dossier / "lineage/origin.json"
    origin.write_text(json.dumps({**json.loads(origin.read_text()), "processor": "another"}))
    elsewhere = [fault for fault in remeasure(dossier, 5) if "segmented anew" in fault]
    assert (len(here), len(elsewhere)) == (5, 0)
