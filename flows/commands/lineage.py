"""Where a version comes from, made again, and proved elsewhere."""

from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, model_uri


def trace_version(
    version: Annotated[str | None, typer.Argument(help="a number, an alias, or models:/NAME/3")] = None,
    patient: Annotated[
        str | None, typer.Option(help="a pseudonym, or the id that the scans' layout or PACS knows")
    ] = None,
    json: Json = False,
) -> None:
    """What a version was made of; or, with --patient, every version, report and prediction the patient touched."""
    if (version is None) == (patient is None):
        raise typer.BadParameter("name a version, or a patient with --patient", param_hint="VERSION")
    enter_project(needs_mlflow=patient is not None)
    from flows import show, show_lineage
    from pipelines.release import lineage

    if patient is not None:
        (show.as_json if json else show_lineage.patient)(lineage.trace_patient(patient))
    else:
        assert version is not None
        (show.as_json if json else show_lineage.version)(lineage.trace(model_uri(version)))
