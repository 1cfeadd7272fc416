"""`medseg data whereis PSEUDONYM`: the raw files behind a pseudonym, for someone who has them and the key.

A pseudonym is a keyed hash, so it is not turned back: every file's pseudonyms are made anew and compared. The answer
goes to the terminal and is written nowhere.
"""

from pathlib import Path

import pyarrow as pa

from pipelines import params
from pipelines.dicom import index
from pipelines.intake import claims, finding, listing
from pipelines.scans import channels, key
from pipelines.scans.naming import Names, hashed
from pipelines.sources import dicom
from pipelines.work import project

CASE = "dicom-"


def find(pseudonym: str) -> list[str]:
    """Paths below data/raw, sorted. `pseudonym`: as manifest, records, file names and messages show it: of a case, a
    patient, a file; of DICOM also of a series or study.

    Raises ValueError if nothing has it: another key, or a file that is no longer there.
    """
    raw, sources = project.root() / project.RAW, params.load(project.root() / "params.yaml").data.sources
    with_dicom = "dicom" in sources
    pseudonyms = key.load() if with_dicom else key.known()
    listed = listing.take(raw, project.state_folder() / "digests.sqlite")
    names = Names(pseudonyms)
    shown = claims.calling(listed, raw, sources, names)
    found = _of_layouts(
        channels.parted(pseudonym.removeprefix(f"{project.RAW}/"))[0], raw, listed, shown, names, sources
    )
    if with_dicom:
        found |= _of_dicom(pseudonym, raw, listed, pseudonyms)
    if not found:
        raise ValueError(f"no file below {project.RAW} has the pseudonym {pseudonym!r} under this key")
    return sorted(found)


def _of_layouts(
    wanted: str, raw: Path, listed: pa.Table, shown: dict[str, str], names: Names, sources: tuple[str, ...]
) -> set[str]:
    """Paths of the file, or of the cases or the patient, that the other layouts call so."""
    paths = {called: path for path, called in shown.items()}
    rows = finding.find(raw, listed, [name for name in sources if name != "dicom"], names)
    named = [row for row in rows if wanted in (row.case_id, row.patient)]
    files = {channels.parted(file.path)[0] for row in named for file in row.files}
    called = [Path(file).relative_to(raw).as_posix() for file in files]
    found = {paths.get(name, name) for name in called}
    return found | {path for name, path in paths.items() if wanted in (name, name.rpartition("/")[2])}


def _of_dicom(pseudonym: str, raw: Path, listed: pa.Table, pseudonyms: key.Pseudonyms) -> set[str]:
    wanted = {part for part in pseudonym.removeprefix("hidden/").removeprefix("refused/").split("-") if len(part) == 16}
    wanted |= _series_of_case(pseudonym)
    rows = {raw / row["path"]: row for row in listed.to_pylist()}
    readable = {path: row["sha256"] for path, row in rows.items() if not row["problem"]}
    entries = index.refresh(readable, pseudonyms, project.state_folder() / "dicom.sqlite", index.LIMITS)
    named = {path: path.relative_to(raw).as_posix() for path in rows}
    return {
        name
        for path, name in named.items()
        if pseudonyms.name("path", name) in wanted
        or (path in entries and {entries[path].patient, entries[path].study, entries[path].series} & wanted)
    }


def _series_of_case(case_id: str) -> set[str]:
    """The series of which the manifest's case was made."""
    folder = project.root() / project.DEIDENTIFIED
    if not case_id.startswith(CASE) or not folder.is_dir():
        return set()
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return {
        part
        for scan in dicom.find(files, folder, {})
        if case_id == f"{CASE}{hashed('dicom', scan.key)}"
        for name in scan.key.split("+")
        for part in name.split("-")
        if len(part) == 16
    }
