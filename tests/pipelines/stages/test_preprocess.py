"""The stage on small real cohorts: only what is new is made, and the result is the same whatever breaks."""

import hashlib
import shutil
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from model.data import casefile
from pipelines.cases import case_folder, preparation
from pipelines.cases.forecast import case_bytes
from pipelines.params import profiles
from pipelines.scans import manifest
from pipelines.stages import deidentify, ingest, inventory, plan, preprocess
from pipelines.work import code, project, within_memory
from pipelines.work.memory import GIB
from pipelines.work.writing import replacing
from tests.conftest import save

SMOKE = profiles.compose("smoke")


@pytest.fixture
def small(cohort: Path) -> Path:
    """The cohort's project, ingested and planned."""
    ingested()
    return cohort.parents[1]


def ingested() -> None:
    state()
    ingest_again()
    plan.main()


def state(**changed: Any) -> None:
    """Write params.yaml: the smoke profile with some keys changed."""
    content = YAML(typ="safe").load(SMOKE)
    content["data"]["sources"] = ["acdc"]
    for key, value in changed.items():
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
    with Path("params.yaml").open("w") as file:
        YAML().dump(content, file)


def ingest_again() -> None:
    inventory.main()
    deidentify.main()
    ingest.main()


def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the stage; which cases it really made."""
    seen: list[str] = []
    inner = preprocess.make

    def counting(tasks: list[preprocess.DueCase], *rest: Any) -> Any:
        seen.extend(task.row.case_id for task in tasks)
        return inner(tasks, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(preprocess, "make", counting)
        preprocess.main()
    return seen


def content(folder: Path = project.CASES) -> dict[str, str]:
    """Every file below, hidden ones too -> digest of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_usable_scan_becomes_a_case_of_its_split(small: Path) -> None:
    preprocess.main()
    rows = manifest.read()
    for row in rows:
        case = casefile.read(project.CASES / row.split / f"{row.case_id}.safetensors")
        assert (case.record.case_id, case.record.split) == (row.case_id, row.split)
    assert len(content()) == len(rows) + 2


def test_nothing_new_means_nothing_made(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(made(monkeypatch)) == 10
    before = {path: path.stat().st_mtime_ns for path in project.CASES.rglob("*.safetensors")}
    assert made(monkeypatch) == []
    assert {path: path.stat().st_mtime_ns for path in project.CASES.rglob("*.safetensors")} == before


def test_one_new_scan_costs_one_scan_and_a_removed_one_leaves_no_file(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch)
    shutil.move(small / "data/raw/patient003", small / "aside")
    shutil.copytree(small / "aside", small / "data/raw/patient042", copy_function=renamed)
    scan = next((small / "data/raw/patient042").glob("*frame01.nii.gz"))
    save(scan, np.random.default_rng(42).integers(1, 99, (12, 12, 4)).astype(np.int16), np.diag([1.5, 1.5, 10, 1]))
    ingest_again()
    plan.main()
    rows = {row.case_id for row in manifest.read()}
    fresh = made(monkeypatch)
    assert len(fresh) == 1
    assert {path.stem for path in project.CASES.rglob("*.safetensors")} == rows
    assert fresh[0] in rows


def renamed(source: str, target: str) -> None:
    shutil.copy(source, target.replace("patient003", "patient042"))


@pytest.mark.parametrize(
    ("key", "value", "count"),
    [
        ("preprocess.spacing_mm", {"default": [1.0, 1.0, 1.0], "acdc": [10.0, 2.0, 2.0]}, 10),
        ("preprocess.spacing_mm", {"default": [3.0, 3.0, 3.0], "acdc": [10.0, 1.5, 1.5]}, 0),
        ("preprocess.ct_scale_hu", [-100.0, 300.0, 50.0, 60.0], 0),
        ("preprocess.memory_gib", 2.0, 0),
        ("preprocess.foreground_points", 7, 10),
        ("train.patch_size", {"default": [16, 16, 16]}, 0),
    ],
)
def test_a_changed_parameter_redoes_what_it_touches(
    small: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: Any, count: int
) -> None:
    made(monkeypatch)
    state(**{key: value})
    plan.main()
    assert len(made(monkeypatch)) == count


def test_a_changed_scan_is_made_again(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch)
    before = content()
    scan = small / "data/raw/patient005/patient005_frame01.nii.gz"
    save(scan, np.random.default_rng(7).integers(1, 99, (12, 12, 4)).astype(np.int16), np.diag([1.5, 1.5, 10, 1]))
    ingest_again()
    plan.main()
    (case_id,) = made(monkeypatch)
    differing = {name for name, digest in content().items() if before[name] != digest}
    assert {Path(name).stem for name in differing} <= {case_id, "index", "preprocessing"}


def test_a_case_file_that_vanished_was_cut_or_damaged_is_made_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch)
    before = content()
    lost, cut, damaged = sorted(project.CASES.rglob("*.safetensors"))[:3]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-1])
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assert sorted(made(monkeypatch)) == sorted([lost.stem, cut.stem, damaged.stem])
    assert content() == before


@pytest.mark.parametrize("step", ["write_index", "move", "remove"])
def test_a_run_that_dies_while_it_commits_ends_the_same_later(
    small: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    preprocess.main()
    expected = content()
    shutil.rmtree(project.CASES)

    rename, moved = Path.replace, []

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def die_at_the_fourth(path: Path, target: Path) -> Path:
        moved.append(target) if target.suffix == ".safetensors" else None
        return die() if len(moved) == 4 else rename(path, target)  # type: ignore[return-value]

    def die_at_the_index(path: Path) -> AbstractContextManager[Path]:
        return die() if path.name == "index.csv" else replacing(path)  # type: ignore[return-value]

    deaths = {"write_index": (case_folder, "replacing", die_at_the_index), "move": (Path, "replace", die_at_the_fourth)}
    with monkeypatch.context() as patched:
        patched.setattr(*deaths.get(step, (shutil, "rmtree", die)))
        with pytest.raises(KeyboardInterrupt):
            preprocess.main()
    for path in project.CASES.rglob("*.safetensors"):
        casefile.read(path)
    assert made(monkeypatch) == []
    assert content() == expected


def test_a_scan_that_breaks_after_ingest_is_left_out_and_the_rest_is_written(small: Path) -> None:
    state(**{"preprocess.max_left_out_fraction": 0.2})
    victim = manifest.read()[0]
    Path(victim.images[0].path).write_bytes(b"")
    preprocess.main()
    entries = {entry.case_id: entry for entry in case_folder.read_index(project.CASES)}
    assert [case_id for case_id, entry in entries.items() if entry.left_out] == [victim.case_id]
    assert len(list(project.CASES.rglob("*.safetensors"))) == 9


def test_above_the_bound_the_stage_stops_with_every_reason_and_what_was_there_stays(small: Path) -> None:
    preprocess.main()
    before = content()
    state(**{"preprocess.foreground_points": 9})
    for row in manifest.read()[:2]:
        Path(row.images[0].path).write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 of 10 cases are left out, above preprocess.max_left_out_fraction 0"):
        preprocess.main()
    assert {name: digest for name, digest in content().items() if ".unfinished" not in name} == before


def test_a_case_that_cannot_fit_is_named_with_need_bound_and_remedy_before_any_is_tried(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = manifest.read()
    rows[3] = replace(rows[3], shape=[2000, 512, 512])
    decided = preparation.load(project.PLAN)
    tasks = [preprocess.DueCase(row, str(place), decided, 5) for place, row in enumerate(rows)]
    where = within_memory.LocalExecutor(4 * GIB)
    entries = preprocess.make(tasks, project.CASES, where)
    assert entries[0].case_id == rows[3].case_id  # before the others
    assert "(2000 x 512 x 512 voxels of 10 x 1.5 x 1.5 mm" in entries[0].left_out
    assert "above preprocess.memory_gib 4; raise it" in entries[0].left_out
    assert sum(bool(entry.left_out) for entry in entries) == 1
    assert case_bytes(rows[3], (10.0, 1.5, 1.5)) > 4 * GIB


def test_a_case_counts_as_made_by_the_code_that_makes_it_and_not_by_what_only_names_things() -> None:
    counted = code.closure(*case_folder.MADE_BY, without=(*code.WITHOUT_INFLUENCE, *case_folder.COUNTED_APART))
    assert set(counted) == {
        "model.data.bricks", "model.data.casefile", "pipelines.cases.case_making", "pipelines.cases.preparation",
        "pipelines.cases.resampling", "pipelines.scans.byte_stream", "pipelines.scans.channels",
        "pipelines.scans.labels", "pipelines.scans.nifti", "pipelines.scans.volume", "pipelines.scans.volume_geometry",
    }  # fmt: skip


def test_cases_made_by_one_worker_and_by_several_are_the_same(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for count in ("1", "3"):
        monkeypatch.setenv("MEDSEG_WORKERS", count)
        shutil.rmtree(project.CASES, ignore_errors=True)
        preprocess.main()
        found.append(content())
    assert found[0] == found[1]
