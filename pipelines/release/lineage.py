"""Where a version comes from, and what became of a patient's scans: told by dossiers and the audit log alone.

    lineage.trace("models:/medsegformer/3")      commit, parameters, lock, manifest, every scan's sha256
    lineage.trace_patient("patient012")          every version, report and prediction with a scan of that patient

Neither needs data, DVC's cache or git. A version that was registered or traced here before needs no MLflow either.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipelines.release import audit, dossier, record, tracking
from pipelines.scans import key, manifest
from pipelines.scans.manifest import TEST, Row
from pipelines.scans.naming import Names, hashed
from pipelines.sources import layout_of
from pipelines.work import project
from pipelines.work.digests import sha256_of

QUARANTINED = "quarantined"  # the split of a scan that was not used
PAGES = (".html", ".json", ".csv")


def locate(model: str, below: str = dossier.LINEAGE) -> Path:
    """The dossier of `models:/NAME/VERSION` or `models:/NAME@ALIAS`, checked; see `dossier.find`."""
    name, _, number = model.removeprefix("models:/").partition("/")
    if known := dossier.known(name, number):
        return dossier.find(known, "", below)
    from pipelines.release import registry  # a second, which nobody waits for who needs no MLflow

    version = registry.find(model)
    record_sha256 = record.digest(version.record)
    folder = dossier.find(record_sha256, version.run_id, below)
    dossier.note(version.name, version.version, record_sha256)
    return folder


def trace(model: str) -> dict[str, Any]:
    """What the version was made of, by content. Raises ValueError, naming the file, if its dossier does not hold."""
    return told(locate(model))


def told(folder: Path) -> dict[str, Any]:
    """Of a dossier that was checked. `lock`: stage -> path -> hash, as DVC has it; `params_sha256`: of the file."""
    content, file = json.loads((folder / dossier.RECORD).read_text()), folder / dossier.MANIFEST
    scans, manifest_sha256 = manifest.with_digest(file)
    if manifest_sha256 != content["manifest_sha256"]:
        raise ValueError(f"{file} is not the manifest that the version was evaluated with; bring it back from a copy")
    return {
        **{name: content[name] for name in ("name", "weights_sha256", "weights_files", "identity", "test_set_sha256")},
        "record_sha256": record.digest(content),
        **json.loads((folder / dossier.ORIGIN).read_text()),
        "params_sha256": sha256_of(folder / dossier.PARAMS),
        "manifest_sha256": manifest_sha256,
        "lock": locked(folder / dossier.LOCK),
        "scans": [_scan(each) for each in scans],
    }


def _scan(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "case_id": row["case_id"],
        "patient": row["patient"],
        "source": row["source"],
        "split": QUARANTINED if row["quarantined"] else row["split"],
        "files": [{"role": file["role"], "sha256": file["sha256"]} for file in row["files"]],
    }


def locked(file: Path) -> dict[str, dict[str, str]]:
    """Of a dvc.lock: stage -> path of what it reads and writes -> hash. Empty if there is none."""
    stages = YAML(typ="safe", pure=True).load(file.read_text())["stages"] if file.is_file() else {}
    return {
        name: {each["path"]: each[each.get("hash", "md5")] for each in (*body.get("deps", ()), *body.get("outs", ()))}
        for name, body in stages.items()
    }


def trace_patient(patient: str) -> dict[str, Any]:
    """`patient`: a pseudonym, or the id that the scan's layout knows, which is looked up under the project's key and
    appears nowhere in the answer.

    Keys: `patients` (pseudonyms found), `versions`, `files` of the project that show or name one of the cases,
    `predictions` by the audit log, and `not_looked_at`: version -> why its dossier could not be asked.
    """
    dossiers, not_looked_at = _dossiers()
    rows = {folder: manifest.read(folder / dossier.MANIFEST) for folder in dossiers}
    here = project.root() / project.MANIFEST
    present = manifest.read(here) if here.is_file() else []
    every = [row for each in (*rows.values(), present) for row in each]
    names = _pseudonyms(patient, {row.source for row in every})
    own = [row for row in every if row.patient in names]
    touched = {folder: [row for row in each if row.patient in names] for folder, each in rows.items()}
    return {
        "patients": sorted({row.patient for row in own}),
        "versions": [_touched(folder, each, dossiers[folder]) for folder, each in touched.items() if each],
        "files": _files({row.case_id for row in own}),
        "predictions": list(_predictions({file.sha256 for row in own for file in row.images})),
        "not_looked_at": not_looked_at,
    }


def _dossiers() -> tuple[dict[Path, list[str]], dict[str, str]]:
    """Of all that is registered and all that lies here: folder -> versions with it; and version -> why it has none."""
    due: dict[str, list[str]] = {path.name: [] for path in dossier.kept()}
    runs, missing = dict[str, str](), dict[str, str]()
    for each in tracking.configure().MlflowClient().search_model_versions():
        if record_sha256 := each.tags.get("record_sha256"):
            due.setdefault(record_sha256, []).append(f"{each.name} {each.version}")
            runs[record_sha256] = each.tags.get("mlflow_run_id", "")
        else:
            missing[f"{each.name} {each.version}"] = "it was registered by something else"
    found: dict[Path, list[str]] = {}
    for record_sha256, versions in due.items():
        try:
            found[dossier.find(record_sha256, runs.get(record_sha256, ""), dossier.LINEAGE)] = versions
        except ValueError as error:
            missing |= dict.fromkeys(versions or [f"record {record_sha256[:12]}"], str(error))
    return found, missing


def _touched(folder: Path, rows: list[Row], versions: list[str]) -> dict[str, Any]:
    held_out = [row.case_id for row in rows if row.split == TEST and not row.quarantined]
    maps = [folder / dossier.EVALUATION / "predictions" / f"{case}.nii.gz" for case in held_out]
    return {
        "versions": sorted(versions),
        "record_sha256": folder.name,
        "cases": {row.case_id: QUARANTINED if row.quarantined else row.split for row in rows},
        "report": str(folder / dossier.EVALUATION / "index.html") if held_out else None,
        "predictions": [str(path) for path in maps if path.is_file()],
    }


def _pseudonyms(patient: str, sources: set[str]) -> set[str]:
    """What a patient may be called in manifests with scans of these sources."""
    try:
        pseudonyms = key.known()
    except ValueError:  # no key here: published data sets and pseudonyms need none
        return {patient, *(hashed(layout_of(source), patient) for source in sources)}
    names = Names(pseudonyms)
    found = {patient}
    for source in sources:
        layout, dataset = layout_of(source), source.removeprefix("phantom-").partition("-")[2]
        found |= {names.identifier(layout, own) for own in (patient, f"{dataset}/{patient}")}
    issuer, _, number = patient.rpartition("/")  # DICOM's PatientID, after ISSUER/ where one is named
    return found | {hashed("dicom", pseudonyms.name("patient", f"{issuer}\0{number}"))}


def _files(cases: set[str]) -> list[str]:
    """Below the project: case files and label maps by name, pages and tables that mention a case."""
    root = project.root()
    marks = [case.encode() for case in cases]
    found = []
    for folder in (project.CASES, Path("reports"), Path(".medseg/compare")):
        for path in sorted((root / folder).rglob("*")) if cases else ():
            if path.is_file() and (path.name.partition(".")[0] in cases or _mentions(path, marks)):
                found.append(path.relative_to(root).as_posix())
    return found


def _mentions(path: Path, marks: list[bytes]) -> bool:
    content = path.read_bytes() if path.suffix in PAGES else b""
    return any(mark in content for mark in marks)


def _predictions(inputs: set[str]) -> Iterator[dict[str, Any]]:
    for line in audit.read(("predict",)):
        if inputs & set(line.facts["inputs"]):
            yield {"time": line.time, **{name: line.facts[name] for name in ("record_sha256", "inputs", "outputs")}}
