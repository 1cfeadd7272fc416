"""Any number of case files: few are mapped, little is in memory, and what is pickled names them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data import casefile
from model.data.casefile import MAPPED, Case, open_cases
from model.data.dataset import SampleStream, loader
from tests.conftest import REPOSITORY
from tests.model.engine.test_trainer import CASES, STREAM, same

POINTS = 10_000  # in the foreground of a case, as of two structures by default

TRAIN = """
import resource, sys
from dataclasses import replace
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
from model.data.casefile import open_cases
from model.engine.trainer import fit
from tests.model.engine.test_trainer import FIT, ALONE, run_of

folder = Path(sys.argv[1])
cases = open_cases(folder / "cases", "train")
for case in cases:
    case.label[0, 0, 0]  # each has been mapped
run = run_of(folder / "run", replace(FIT, steps=2, validate_every=2), cases, cases[:1])
print(len(cases), fit(replace(run, ranks=replace(ALONE, loader_workers=1))).step)
"""


def many(folder: Path, count: int) -> Path:
    """`count` names of one small case file."""
    folder.mkdir()
    foreground = np.resize(CASES[0].foreground, (POINTS, 4))
    casefile.write(folder / "0.safetensors", replace(CASES[0], foreground=foreground))
    for number in range(1, count):
        os.link(folder / "0.safetensors", folder / f"{number}.safetensors")
    return folder


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_2000_case_files_train_with_1024_descriptors(tmp_path: Path) -> None:
    many(tmp_path / "cases", 2000)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.returncode) == (["2000", "2"], 0), done.stderr[-2000:]


def test_opening_reads_headers_only_and_keeps_no_descriptor(tmp_path: Path) -> None:
    folder = many(tmp_path / "cases", 300)
    before = descriptors()
    tracemalloc.start()
    cases = open_cases(folder, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cases) == 300
    assert peak / 300 < 16_000 < POINTS * 16  # the foreground alone
    assert descriptors() == before


def test_few_files_stay_mapped_however_many_are_read(tmp_path: Path) -> None:
    cases = open_cases(many(tmp_path / "cases", 3 * MAPPED), "train")
    before = descriptors()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: case.label[...].sum() + case.foreground[:, 0].sum(), cases * 2))
    assert len(set(found)) == 1
    assert descriptors() - before <= MAPPED + 4


def test_what_was_read_outlives_the_map(tmp_path: Path) -> None:
    cases = open_cases(many(tmp_path / "cases", MAPPED + 2), "train")
    kept = [(case.image[...], case.foreground[:]) for case in cases]
    for image, foreground in kept:
        assert np.array_equal(image, cases[0].image)
        assert np.array_equal(foreground[: len(CASES[0].foreground)], CASES[0].foreground)


def test_a_stream_pickles_as_records_and_paths(tmp_path: Path) -> None:
    stream = SampleStream(open_cases(many(tmp_path / "cases", 300), "train"), STREAM)
    assert stream[0].cases
    before = pickle.dumps(stream)
    for index in range(50):
        stream[index]
    assert len(pickle.dumps(stream)) == len(before) < 300 * 1000
    assert same(pickle.loads(before)[3], stream[3])


@pytest.fixture(params=["spawn", "forkserver"])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(usual, force=True)


def test_loaders_start_in_every_way(tmp_path: Path, start_method: str) -> None:
    stream = SampleStream(open_cases(many(tmp_path / "cases", 4), "train"), STREAM)
    for one, other in zip(loader(stream, range(3), 0), loader(stream, range(3), 1), strict=True):
        assert same(one, other)


@pytest.fixture
def opened(tmp_path: Path) -> tuple[Path, Case]:
    path = many(tmp_path / "cases", 1) / "0.safetensors"
    case = casefile.read(path)
    case.label[0, 0, 0]
    return path, case


def test_a_file_that_vanishes_in_use_is_named(opened: tuple[Path, Case]) -> None:
    path, case = opened
    path.unlink()
    with pytest.raises(ValueError, match=rf"{path} was removed while it was in use; rerun preprocess"):
        case.image[0]


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_file_that_changes_in_use_is_named(opened: tuple[Path, Case], damage: str) -> None:
    """A map of a file that was cut would end the process without a word."""
    path, case = opened
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] if damage == "cut" else whole[::-1])
    with pytest.raises(ValueError, match=rf"{path} was changed while it was in use; start again"):
        case.image[0]
