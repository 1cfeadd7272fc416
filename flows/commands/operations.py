"""What whoever runs an installation needs: doctor, backup and restore, metrics. Thin, as `flows/commands/medseg.py`."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import Json, enter_project, log_to_terminal


def examine(json: Json = False) -> None:
    """What support asks first: versions, ports, disks, clock, GPU, databases, locks; each with its remedy."""
    from flows import doctor as examination
    from flows import show, show_operations

    found = examination.checks()
    (show.as_json if json else show_operations.checks)({"checks": [asdict(check) for check in found]})
    if wrong := [check.name for check in found if not check.ok]:
        raise ValueError(f"{', '.join(wrong)}: see the remedies above")


def make_copy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", resolve_path=True, help="on another disk; may have copies")],
    results: Annotated[
        bool, typer.Option("--results/--without-results", help="DVC's cache; not needed where `dvc push` keeps it")
    ] = True,
    json: Json = False,
) -> None:
    """Copy all that this project is, less its raw scans, into a new folder in DIR; what is as before takes no space."""
    enter_project()
    log_to_terminal()
    from flows import backup, show, show_operations

    kept = backup.back_up(folder, results)
    (show.as_json if json else show_operations.kept)(asdict(kept))


def take_copy(
    folder: Annotated[Path, typer.Argument(metavar="DIR", resolve_path=True, exists=True, help="as given to backup")],
    into: Annotated[Path | None, typer.Option(resolve_path=True, help="a new folder that becomes the project")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="also where there is a registry; the present state is kept beside")
    ] = False,
) -> None:
    """Make this project what a copy holds: the newest in DIR, or DIR itself. Every byte is checked first."""
    if into:
        into.mkdir(parents=True, exist_ok=True)
        os.environ["MEDSEG_ROOT"] = str(into)
    enter_project()
    log_to_terminal()
    from flows import backup

    copy, aside = backup.restore(folder, overwrite)
    print(f"restored from {copy}" + (f"; the former state is in {aside}" if aside else ""))


def show_metrics(
    serve: Annotated[int | None, typer.Option(metavar="PORT", help="answer Prometheus there, until ended")] = None,
    host: Annotated[str, typer.Option(help="with --serve: which interface; there is no login")] = "127.0.0.1",
) -> None:
    """Figures for Prometheus: runs, disks, GPUs, newest scan, costs. docker/watching has rules and a page for them."""
    enter_project()
    from flows import metrics as figures

    if serve:
        figures.serve(host, serve)
    else:
        print(figures.text(), end="")
