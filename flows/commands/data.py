"""`medseg data`: scans, from a hospital's folder to case files. Thin, as `flows/commands/medseg.py` is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.common import Json, enter_project, group, log_to_terminal

app = group("Scans: the manifest, a folder's contents, the plan, identity, public data.")

Folder = Annotated[Path, typer.Argument(exists=True, file_okay=False, resolve_path=True)]


@app.command("ls")
def data_ls(json: Json = False) -> None:
    """Every scan of the manifest."""
    enter_project()
    from pipelines.scans import manifest

    _show_scans(manifest.as_records(), json)


@app.command("check")
def data_check(folder: Folder, json: Json = False) -> None:
    """What a folder holds, what would be quarantined, and why. Writes nothing. Exit code 1 if nothing is usable."""
    from flows import show, show_data
    from pipelines.questions import folder_check

    rows, unread = folder_check.check(folder), folder_check.unread(folder)
    if json:
        show.as_json({"scans": rows, "unclaimed": unread.unclaimed, "packed": unread.packed})
    else:
        show_data.scans(rows)
        show_data.unclaimed(unread.unclaimed)
        show_data.packed(unread.packed)
    if all(row["quarantined"] for row in rows):
        raise typer.Exit(1)


@app.command("import")
def data_import(
    folder: Folder,
    profile: Annotated[
        str | None, typer.Option(help="to build on; own, unless another is made for these scans")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change what is proposed, as in data.labels.pairs={1: spleen}"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="write without asking")] = False,
    json: Json = False,
) -> None:
    """Link a folder of scans and write the parameters that read it: sources, structures, modalities, profile.

    Asks before; --json alone shows it and writes nothing.
    """
    enter_project()
    from flows import importing, show, show_data

    proposed = importing.outlook(folder, profile, changes or [])
    (show.as_json if json else show_data.proposal)(proposed)
    if json and not yes:
        return
    if not yes:
        importing.require_terminal()
        typer.confirm("Write this?", abort=True)
    kept = importing.write(folder, proposed["profile"], proposed["changes"])
    if not json:
        print("params.yaml is written; next: medseg run" + (f"; your own is kept in {kept}" if kept else ""))


@app.command("key")
def data_key(
    path: Annotated[Path, typer.Argument(metavar="NEWFILE", dir_okay=False, resolve_path=True)],
) -> None:
    """Make the secret key that patients' pseudonyms are made with, outside the project."""
    from pipelines.scans import key

    print(f"export {key.VARIABLE}={key.create(path)}")


@app.command("whereis")
def data_whereis(pseudonym: str, json: Json = False) -> None:
    """Which raw files a pseudonym stands for: of a case, patient or file; of DICOM also a study or series."""
    enter_project()
    from flows import show
    from pipelines.questions import whereis

    paths = whereis.find(pseudonym)
    if json:
        show.as_json({"files": paths})
    else:
        print("\n".join(paths))


@app.command("audit-phi")
def data_audit_phi(json: Json = False) -> None:
    """Search the project for what identifies a patient in the raw scans. Exit code 1 if any is found, or none known."""
    enter_project()
    from flows import show, show_data
    from pipelines.questions import phi

    result = phi.search()
    (show.as_json if json else show_data.identifying)(result)
    if not result["ok"]:
        raise typer.Exit(1)


@app.command("plan")
def data_plan(json: Json = False) -> None:
    """Target spacing, patch and normalisation of every source, each with its reason."""
    enter_project()
    from flows import show, show_data
    from pipelines.stages import plan

    (show.as_json if json else show_data.planned)(plan.read())


@app.command("modalities")
def data_modalities(json: Json = False) -> None:
    """What a channel can show: kind, unit and synonyms of every known name, those of modalities.yaml included."""
    from flows import show
    from pipelines.scans import modalities

    known = modalities.here().values()
    if json:
        show.as_json({"modalities": [each.to_json() for each in known]})
    else:
        for each in known:
            print(f"{each.name:16} {each.kind or '-':10} {each.unit:5} {', '.join(each.synonyms)}".rstrip())


@app.command("verify")
def data_verify(
    reread: Annotated[
        bool, typer.Option("--reread", help="read every byte, even of files that look untouched")
    ] = False,
    json: Json = False,
) -> None:
    """Check that every scan's files and case file still have their size and hash. Exit code 1 if one does not."""
    enter_project()
    log_to_terminal()
    from flows import show, show_data
    from pipelines.questions import verification

    found = verification.verify(reread)
    (show.as_json if json else show_data.problems)(found)
    if not found["ok"]:
        raise typer.Exit(1)


@app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="hippocampus")],
    to: Annotated[
        Path | None, typer.Option(file_okay=False, resolve_path=True, help="folder to unpack into; data/raw")
    ] = None,
) -> None:
    """Download a public data set."""
    enter_project()
    log_to_terminal()
    from pipelines.intake import public_data
    from pipelines.work import project

    print(public_data.fetch(name, to or project.root() / project.RAW))


def _show_scans(rows: list[dict[str, Any]], json: bool) -> None:
    from flows import show, show_data

    if json:
        show.as_json({"scans": rows})
    else:
        show_data.scans(rows)
