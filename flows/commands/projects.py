"""`medseg init` and `medseg docs`. Thin, as `flows/commands/medseg.py` is."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json


def make_project(
    folder: Annotated[Path, typer.Argument(metavar="DIR", resolve_path=True, help="new, empty, or a project")],
    profile: Annotated[str | None, typer.Option(help="for params.yaml, where there is none yet; smoke")] = None,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="renew dvc.yaml where you did not change it")] = False,
) -> None:
    """Make a folder a project of your own. What is there already stays as it is."""
    os.environ["MEDSEG_ROOT"] = str(folder)  # the project from here on, wherever we are
    from flows import new_project, show

    show.project_made(folder, new_project.make(folder, profile, upgrade))


def list_documents(json: Json = False) -> None:
    """Where the documents lie, and what each is about."""
    from flows import show
    from pipelines.work import project

    files = sorted(project.DOCUMENTS.glob("*.md"))
    found = {str(file): file.read_text().partition("\n")[0].lstrip("# ") for file in files}
    if json:
        show.as_json(found)
    else:
        print("\n".join(f"{path}  {title}" for path, title in found.items()))
