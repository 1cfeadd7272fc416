"""`medseg structures`: what labels can mean. Thin, as `flows/commands/medseg.py` is."""

from typing import Annotated, Any

import typer

from flows.commands.common import Json, enter_project, group

app = group("What labels can mean: the default vocabulary, and structures of your own.")


@app.command("ls")
def structures_ls(
    about: Annotated[str, typer.Argument(help="only those whose name or synonyms hold this")] = "", json: Json = False
) -> None:
    """Every structure with its id, codes, side and parts."""
    from pipelines.scans import own_structures

    _show(own_structures.records(about), json)


@app.command("add")
def structures_add(
    name: Annotated[str, typer.Argument(help="small letters, digits and _, as in bone_metastasis")],
    synonym: Annotated[list[str] | None, typer.Option(help="what data sets call it; may be repeated")] = None,
    code: Annotated[
        tuple[str, str] | None, typer.Option(metavar="CODE MEANING", help="what it is in SNOMED CT, if it has a code")
    ] = None,
    organ: Annotated[str | None, typer.Option("--in", help="the structure that a lesion lies in")] = None,
    side: Annotated[str | None, typer.Option(help="left or right of the patient")] = None,
    part: Annotated[list[str] | None, typer.Option(help="structure that it is the union of; may be repeated")] = None,
) -> None:
    """Declare a structure of your own in structures.yaml; finished results stay fresh."""
    enter_project()
    from pipelines.scans import own_structures

    declared = own_structures.declare(name, synonym or (), code, organ, side, part or ())
    print(f"{declared.name} has id {declared.id}, in structures.yaml")


@app.command("check")
def structures_check(json: Json = False) -> None:
    """Read structures.yaml and say what it declares, or what is wrong with it."""
    enter_project()
    from pipelines.scans import own_structures

    _show(own_structures.check(), json)


def _show(records: list[dict[str, Any]], as_json: bool) -> None:
    from flows import show, show_data

    if as_json:
        show.as_json({"structures": records})
    else:
        show_data.known_structures(records)
