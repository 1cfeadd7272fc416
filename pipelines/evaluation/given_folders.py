"""`medseg evaluate`: the whole evaluation of two folders of anybody's label maps.

DIR/index.html ... as pipelines/evaluation/evaluation_folder.py has it, and
DIR/names.csv      which file is which case: it may name people, and is for its owner alone
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.evaluation import evaluation_folder, folders, telling, views
from pipelines.evaluation.folders import Evaluated
from pipelines.pages.evaluation.content import Viewed
from pipelines.scans.volume import read, same_grid
from pipelines.work.memory import free_bytes
from pipelines.work.writing import replacing

NAMES = "names.csv"


def evaluate_folders(
    predictions: Path,
    references: Path,
    target: Path,
    labels: Sequence[str] = (),
    table: Path | None = None,
    images: Path | None = None,
) -> dict[str, Any]:
    """What metrics.json says. See folders.measure_all for the arguments.

    Raises ValueError, before anything is written, if nothing can be measured or `target` holds something else.
    """
    if target.exists() and not (target / evaluation_folder.METRICS).is_file():
        raise ValueError(f"{target} exists and is no evaluation; name another folder with --to")
    found = folders.measure_all(predictions, references, labels, table, images, free_bytes())
    if not found.scores:
        raise ValueError(f"none of {len(found.left_out)} cases can be measured: {next(iter(found.left_out.values()))}")
    content = evaluation_folder.summarised(found.scores, found.labels.words, {"left_out": found.left_out}, None)
    facts = {"label maps": f"{content['cases']} of {content['cases'] + len(found.left_out)}"}
    with replacing(target) as folder:
        folder.mkdir(parents=True, mode=0o700)
        evaluation_folder.write(
            folder, found.scores, content, found.labels.words, facts, _draw(found),
            tolerance_from=telling.GIVEN_TOLERANCE_FROM,
        )  # fmt: skip
        with os.fdopen(os.open(folder / NAMES, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(folders.private_names(found.names))
    return content


def _draw(found: Evaluated) -> Callable[[str], Viewed | None]:
    return partial(_drawn, found)


def _drawn(found: Evaluated, case_id: str) -> Viewed:
    pair = found.pairs[case_id]
    reference, predicted, spacing_mm = folders.read_pair(pair, found.labels)
    layers = {"reference": reference, "prediction": predicted}
    image = read(pair.image) if pair.image else None
    if image and (difference := same_grid(read(pair.reference), image)):
        raise ValueError(f"the image's {difference} of the reference")
    kinds = {name: layer.astype("int16") for name, layer in layers.items()}
    return views.viewed(case_id, image.array if image else None, None, spacing_mm, kinds, found.scores)
