"""A project that has trained, held out and registered, small but whole: real files, bound by hash."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model import weights_file
from pipelines.evaluation import evaluation_folder
from pipelines.evaluation.score import Score
from pipelines.pages.evaluation.content import Viewed
from pipelines.params import profiles
from pipelines.release import record
from pipelines.scans import manifest, vocabulary
from pipelines.scans.manifest import TEST, TRAIN, File, Row
from pipelines.work import project
from pipelines.work.digests import sha256_of
from pipelines.work.writing import write_json
from tests.conftest import save
from tests.pipelines.serving.networks import write_weights

STRUCTURES = ("kidney", "spleen")


def make(root: Path, dice: float = 0.9, patients: int = 4, more: Sequence[Row] = ()) -> dict[str, Any]:
    """The record; the working folder is `root`. Patients p0, p1, ...; the even ones are held out. `more`: rows."""
    if not (root / "dvc.yaml").exists() or not (root / "dvc.yaml").read_text():
        (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text(profiles.compose("smoke"))
    rows = [*(row(root, number) for number in range(patients)), *more]
    manifest.write(root / project.MANIFEST, rows)
    shutil.rmtree(root / project.TRAINED, ignore_errors=True)
    write_weights(root / project.TRAINED)
    evaluate(root, rows, dice)
    content = record.make("m", root / project.TRAINED, root / project.EVALUATION)
    write_json(root / record.FILE, content)
    return content


def evaluate(root: Path, rows: list[Row], dice: float) -> None:
    """Scores that were never measured, in an evaluation as the stage writes it."""
    folder = root / project.EVALUATION
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "predictions").mkdir(parents=True)
    held_out = [row for row in rows if row.split == TEST]
    for row in held_out:
        shutil.copyfile(root / row.labels[0].path, folder / "predictions" / f"{row.case_id}.nii.gz")
    scores = [
        Score(
            row.case_id, row.patient, row.source, "CT", structure=name, status="scored", dice=dice - 0.001 * number,
            surface_dice=dice, hd95_mm=2.0, mean_surface_mm=0.5, volume_error_percent=1.0, reference_ml=10.0,
            predicted_ml=10.1, border_share=0.2, diagonal_mm=100.0, confidence=dice,
        )
        for number, row in enumerate(held_out)
        for name in STRUCTURES
    ]  # fmt: skip
    told = {
        "weights_sha256": weights_file.digest(root / project.TRAINED),
        "identity": weights_file.read_card(root / project.TRAINED).identity,
        "manifest_sha256": manifest.digest(root / project.MANIFEST),
        "test_set_sha256": manifest.test_set_sha256(root / project.MANIFEST),
        "conditions": {"overlap": 0.5, "precision": "float32", "code_sha256": "0" * 64, "flips": []},
        "left_out": {},
    }
    words = vocabulary.default()
    content = evaluation_folder.summarised(scores, words, told, None)
    evaluation_folder.write(folder, scores, content, words, evaluation_folder.facts_of(content), _none)


def _none(case_id: str) -> Viewed | None:
    return None


def row(root: Path, number: int) -> Row:
    label = np.zeros((8, 8, 8), np.uint8)
    label[2:4, 2:6, 2:6], label[4:6, 2:6, 2:6] = 1, 2
    scan = (label * 50 + np.random.default_rng(number).integers(1, 30, label.shape)).astype(np.int16)
    folder = Path(f"data/raw/case_{number:05d}")
    if not (root / folder).is_dir():
        save(root / folder / "imaging.nii.gz", scan)
        save(root / folder / "segmentation.nii.gz", label)
    names = {"CT": folder / "imaging.nii.gz", "label": folder / "segmentation.nii.gz"}
    files = [
        File(
            role,
            path.as_posix(),
            sha256_of(root / path),
            (root / path).stat().st_size,
            "kits" if role == "label" else "",
        )
        for role, path in names.items()
    ]
    return Row(
        f"kits-{number}", f"p{number}", "kits", TEST if number % 2 == 0 else TRAIN, ["CT"], files, list(STRUCTURES),
        [1.0, 1.0, 1.0], [8, 8, 8], "RAS",
    )  # fmt: skip
