"""`medseg export`: a version for others' programs. Thin, as `flows/commands/medseg.py` is."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import enter_project, log_to_terminal


def export_version(
    version: Annotated[str, typer.Argument(help="its number, or models:/NAME@ALIAS")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", resolve_path=True, help="is made; must not be there yet")],
    to: Annotated[str, typer.Option(help="monai: a bundle; onnx: with a runner that needs no torch")],
    source: Annotated[
        str | None, typer.Option(help="a MONAI bundle is of one training source; which, if there are several")
    ] = None,
    other_code: Annotated[
        bool, typer.Option("--other-code", help="accept other code than the version was evaluated with")
    ] = False,
) -> None:
    """Write a version as a MONAI bundle, or as ONNX with a runner that needs no torch."""
    enter_project(needs_mlflow=True)
    log_to_terminal()
    from pipelines import params
    from pipelines.serving.exporting import export

    model = f"models:/{params.load().register_.name}/{version}" if version.isdigit() else version
    export(model, to, folder, source, other_code)
    print(folder)
