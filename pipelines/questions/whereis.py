"""`medseg data whereis PSEUDONYM`: the raw files behind a pseudonym, for someone who holds the key.

A pseudonym is a keyed hash, so it is not turned back: every file's pseudonyms are made anew and compared. The answer
goes to the terminal and is written nowhere.
"""

from pipelines.dicom import index
from pipelines.intake import listing
from pipelines.scans import key, manifest
from pipelines.sources import dicom
from pipelines.work import project

CASE = "dicom-"


def find(pseudonym: str) -> list[str]:
    """Paths below data/raw, sorted. `pseudonym`: as manifest, records, file names and messages show it.

    Raises ValueError if nothing has it: another key, or a file that is no longer there.
    """
    pseudonyms, raw = key.load(), project.root() / project.RAW
    wanted = {part for part in pseudonym.removeprefix("hidden/").removeprefix("refused/").split("-") if len(part) == 16}
    wanted |= _series_of_case(pseudonym)
    listed = {
        raw / row["path"]: row for row in listing.take(raw, project.state_folder() / "digests.sqlite").to_pylist()
    }
    readable = {path: row["sha256"] for path, row in listed.items() if not row["problem"]}
    entries = index.refresh(readable, pseudonyms, project.state_folder() / "dicom.sqlite", index.LIMITS)
    found = [
        path
        for path in listed
        if pseudonyms.name("path", path.relative_to(raw).as_posix()) in wanted
        or (path in entries and {entries[path].patient, entries[path].study, entries[path].series} & wanted)
    ]
    if not found:
        raise ValueError(f"no file below {project.RAW} has the pseudonym {pseudonym!r} under this key")
    return sorted(path.relative_to(raw).as_posix() for path in found)


def _series_of_case(case_id: str) -> set[str]:
    """The series of which the manifest's case was made."""
    folder = project.root() / project.DEIDENTIFIED
    if not case_id.startswith(CASE) or not folder.is_dir():
        return set()
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {
        part
        for scan in dicom.find(files, folder)
        if case_id == f"{CASE}{manifest.pseudonym('dicom', scan.key)}"
        for name in scan.key.split("+")
        for part in name.split("-")
        if len(part) == 16
    }
