"""What the commands about scans, labels and identity print for people."""

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from flows.show import in_long_lines, table, terminal
from pipelines.work.wording import counted

SHOWN = 10  # of files that are passed over


def scans(rows: list[dict[str, Any]]) -> None:
    """One line a scan, with its notes, quarantined ones with their reason; then the count."""
    from pipelines.scans.manifest import SET_ASIDE

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("case", "source", "split", "quarantined", "notes"):
        table.add_column(name, overflow="fold")  # never cut: a path ends with the file's name
    for row in rows:
        cells = (row["case_id"], row["source"], row["split"], row["quarantined"] or "", "; ".join(row["notes"]))
        table.add_row(*map(Text, cells))  # as text: names may look like markup
    console = terminal()
    console.print(table) if console.is_terminal else in_long_lines(table)
    aside = sum((row["quarantined"] or "").startswith(SET_ASIDE) for row in rows)
    refused = sum(bool(row["quarantined"]) for row in rows) - aside
    noted = sum(bool(row["notes"]) and not row["quarantined"] for row in rows)
    told = f"{refused} quarantined, {f'{aside} set aside, ' if aside else ''}{noted} with notes"
    console.print(f"{counted(len(rows), 'scan')}, {told}")


def known_structures(records: list[dict[str, Any]]) -> None:
    """One line a structure, own ones marked; then the count."""
    table = Table("id", "name", "side", "what it is (SNOMED CT)", "parts or synonyms", box=box.SIMPLE_HEAD)
    for each in records:
        codes = [codes[-1] for name, codes in each["codes"].items() if name != "category"]
        also = f"= {' + '.join(each['parts'])}" if each["parts"] else ", ".join(each["synonyms"][:4])
        name = f"{each['name']} (own)" if each["own"] else each["name"]
        table.add_row(*map(Text, (str(each["id"]), name, each["laterality"], ", ".join(codes), also)))
    console = terminal()
    console.print(table) if console.is_terminal else in_long_lines(table)
    console.print(f"{len(records)} structures, {sum(each['own'] for each in records)} of them this project's own")


def unclaimed(paths: list[str]) -> None:
    """How many NIfTI files no layout claims, the first of them, and what it comes nearest to."""
    from pipelines.sources.likeness import nearest_layout
    from pipelines.work import project

    if paths:
        layout, called = nearest_layout(paths[0])
        print(f"{len(paths)} NIfTI files are in no layout that is read; the first: {paths[0]}")
        print(f"nearest layout: {layout} ({called}); {project.DOCUMENTS}/data.md has all of them")


def packed(paths: list[str]) -> None:
    """How many archives, compressed files and files of other formats are passed over, and the first of them."""
    if paths:
        print(f"{len(paths)} packed files, or scans in a format that is not read; unpack or convert them:")
        print("\n".join(f"  {path}" for path in paths[:SHOWN]))
        if len(paths) > SHOWN:
            print(f"  and {len(paths) - SHOWN} more")


def proposal(content: dict[str, Any]) -> None:
    """A line a source: what it holds and what was guessed; then what would be written, and what is still to be said."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("source", "scans", "labelled", "show", "structures", "guessed: check these"):
        table.add_column(name, overflow="fold")
    for row in content["sources"]:
        guessed = content["guessed"].get(row["source"], {})
        cells = (
            row["source"], str(row["scans"]), str(row["labelled"]), ", ".join(row["modalities"]),
            ", ".join(row["structures"]), "\n".join(f"{name}: {meant}" for name, meant in guessed.items()),
        )  # fmt: skip
        table.add_row(*map(Text, cells))
    console = terminal()
    console.print(table) if console.is_terminal else in_long_lines(table)
    unclaimed(content["unclaimed"])
    if content["dicom"]:
        print(f"{content['dicom']} DICOM files are not among these; docs/deidentification.md says how to read them")
    console.print(f"data/raw will be a link to {content['folder']}", soft_wrap=True)
    console.print(f"params.yaml will be profile {content['profile']} with", soft_wrap=True)
    for change in content["changes"]:
        console.print(f"  {change}", soft_wrap=True)
    for row in content["sources"]:
        for remark in row["open"]:
            console.print(f"{row['source']}: its scans are quarantined until you say {remark}", soft_wrap=True)


def planned(content: dict[str, Any]) -> None:
    """One line a decision; values that params.yaml states have a star."""
    table = Table("source", "decides", "value", "because", box=box.SIMPLE_HEAD)
    for source, entries in content["decisions"].items():
        for name, entry in entries.items():
            table.add_row(source, name, _decided(entry), entry["reason"])
    table.add_row("all", "ct_scale_hu", _decided(content["ct_scale_hu"]), content["ct_scale_hu"]["reason"])
    terminal().print(table)


def _decided(entry: dict[str, Any]) -> str:
    value = entry["value"]
    if isinstance(value, dict):
        value = list(value.values())
    shown = " x ".join(f"{item:g}" for item in value) if isinstance(value, list) else str(value)
    return f"{shown}{' *' if entry['stated'] else ''}"


def problems(found: dict[str, Any]) -> None:
    """Every problem on its line; then what was looked at."""
    console = terminal()
    for entry in found["problems"]:
        console.print(f"{entry['case_id']} {entry['problem']}", soft_wrap=True)
    for case_id, reason in found["left_out"].items():
        console.print(f"{case_id} was left out: {reason}", soft_wrap=True)
    console.print(
        f"{found['scans']} scans ({found['quarantined']} quarantined), {found['files']} files, {found['cases']} case "
        f"files: {len(found['problems'])} problems",
        highlight=False,
    )


def identifying(result: dict[str, Any]) -> None:
    """The audit's verdict, each file with the kinds of value found in it, and what the search did not cover."""
    table(
        {
            "DICOM files read": result["dicom_files"],
            "spellings searched for": result["values"],
            "values left out by the rules": result["left_out"],
            "files searched": f"{result['files']}, {result['bytes'] / 1e6:.1f} MB",
        }
    )
    for entry in result["found"]:
        where = "its name" if entry["in_name"] else "its content"
        print(f"FOUND in {entry['file']} ({where}): {', '.join(entry['kinds'])}")
    if result["unread"]:
        print(f"{result['unread']} raw files could not be read; what they hold was not searched for")
    for place in result["not_covered"]:
        print(f"not searched: {place}")
    if not result["values"]:
        print("nothing to search for: no DICOM header or name of a raw file tells of a patient, so this proves nothing")
    elif result["ok"]:
        print("nothing identifying found")
    else:
        print(f"{len(result['found'])} files hold what identifies a patient")
