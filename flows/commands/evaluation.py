"""How good: anybody's label maps against references, and two versions against each other."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json, Version, enter_project, log_to_terminal, model_uri

Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, resolve_path=True)]


def evaluate_folders(
    predictions: Folder,
    references: Folder,
    to: Annotated[Path, typer.Option(resolve_path=True, help="folder of the report")] = Path("evaluation"),
    labels: Annotated[
        list[str] | None, typer.Option(metavar="VALUE=NAME", help="what values mean: 1=kidney,2=kidney_tumour")
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="CSV: case (file name), and patient, source, site, scanner, modality"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="scans by the same names, for the report's pictures"),
    ] = None,
    json: Json = False,
) -> None:
    """Measure label maps (NIfTI) against references of the same names: nnU-Net's, TotalSegmentator's, anybody's.

    Without --labels, a dataset.json in either folder says what values mean. Ends with 1 if any case could not be
    measured: it is listed with its reason, and nothing is dropped silently.
    """
    log_to_terminal()
    from flows import show, show_evaluation
    from pipelines.evaluation import given_folders

    content = given_folders.evaluate_folders(predictions, references, to, labels or [], cases, images)
    (show.as_json if json else show_evaluation.figures)(content)
    if not json:
        print(f"Report: {to / 'index.html'}")
    if left_out := content["left_out"]:
        case, reason = next(iter(left_out.items()))
        raise ValueError(f"{len(left_out)} cases could not be measured; names.csv says which files: {case}: {reason}")


def compare_versions(
    first: Version,
    other: Version,
    to: Annotated[Path | None, typer.Option(resolve_path=True, help="folder; reports/compare/ unless told")] = None,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="accept other code than a version was evaluated with")
    ] = False,
    json: Json = False,
) -> None:
    """Two registered versions on the same held-out scans: paired differences, and where they differ."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import show, show_evaluation
    from pipelines.serving import comparing

    content = comparing.compare(model_uri(first), model_uri(other), to, other_code)
    (show.as_json if json else show_evaluation.differences)(content)


def reevaluate_version(
    model: Annotated[str | None, typer.Option(help="a version; the champion unless told")] = None, json: Json = False
) -> None:
    """A version on held-out scans of patients that came after it. `medseg schedule on` does it every week."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from flows import lock, show, show_evaluation
    from pipelines.serving import reevaluating

    with lock.held(doing="reevaluate"):
        content = reevaluating.reevaluate(model_uri(model or "champion"))
    (show.as_json if json else show_evaluation.again)(content)
