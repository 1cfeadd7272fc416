"""Where a version comes from, made again, and proved elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json, Version, enter_project, log_to_terminal, model_uri


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


def bundle_version(
    version: Version,
    to: Annotated[Path | None, typer.Option(resolve_path=True, help="file; NAME-VERSION.zip here unless told")] = None,
    key: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, resolve_path=True, help="an author's private key: signs the whole"),
    ] = None,
) -> None:
    """One zip that proves the version to anybody: `python3 verify_bundle.py BUNDLE.zip`, which lies inside."""
    here = Path.cwd()
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from pipelines.release import bundle, card, dossier, issuing, record, registry

    model = registry.find(model_uri(version))
    issuing.issue(model)
    record_sha256 = record.digest(model.record)
    kept = dossier.find(record_sha256, model.run_id)
    target = to or here / f"{model.name}-{model.version}.zip"
    print(bundle.write(kept, registry.ledger_here(model.record["name"]), card.place(record_sha256), target, key))


def reproduce_version(
    version: Version,
    to: Annotated[Path, typer.Option(resolve_path=True, help="a new folder outside the project, which stays")],
    json: Json = False,
) -> None:
    """Make a version again from its commit, parameters and scans, and compare; ends with 1 if it differs."""
    enter_project()
    log_to_terminal()
    from flows import reproduction, show, show_lineage

    found = reproduction.reproduce(model_uri(version), to, lambda line: print(line, file=sys.stderr))
    (show.as_json if json else show_lineage.reproduced)(found)
    if found["verdict"] == reproduction.DIFFERS:
        raise typer.Exit(1)
