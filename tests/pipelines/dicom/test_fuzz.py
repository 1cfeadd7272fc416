"""2,000 mutated headers under a limit on time and memory: every one ends as an entry, none takes the process down.

Mutated are the headers of a classic CT, an enhanced MR, an RTSTRUCT and a big-endian image: bytes flipped, runs
overwritten, cut out, doubled or swapped, lengths set to extremes. Each file then also goes the whole way as a series.
"""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from pipelines.dicom import index, sandbox
from pipelines.dicom.convert import Conversion, SeriesRecord, SeriesSettings, convert
from pipelines.dicom.profile import ProfileOptions
from tests.pipelines.dicom import dicom_files as files
from tests.pipelines.dicom.test_series import KEY

SETTINGS = SeriesSettings(ProfileOptions(), min_slices=1, max_unevenness=0.1, deface=False)
KINDS = {index.IMAGE, index.SEGMENTATION, index.STRUCTURES, index.OTHER, index.REFUSED, index.FOREIGN}


def seeds(folder: Path) -> list[bytes]:
    classic = files.series(folder / "s", files.voxels(1, 8, 8))[0]
    files.enhanced(folder / "e.dcm", files.voxels(3, 8, 8))
    files.structure_set(folder / "r.dcm", files.image(), {"kidney": [np.full((4, 3), 30.0)]})
    return [path.read_bytes() for path in (classic, folder / "e.dcm", folder / "r.dcm")]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to six changes in the header; the preamble stays, or most mutants would be refused at the door."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(128, len(data) - 8)
        length = rng.choice((1, 1, 2, 4, rng.randint(1, 40)))
        change = rng.randrange(7)
        if change == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + length] = rng.randbytes(length)
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = data[at : at + length]
        elif change == 4:
            data[at : at + length] = data[at : at + length][::-1]
        elif change == 5:
            data[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f", b"\0\0\0\0", b"nan "))
        else:
            vr = rng.choice((b"SQ", b"UN", b"DS", b"UI", b"OW", b"IS", b"AT", b"FD", b"PN"))
            at = max(data.rfind(b"US", 128, at), data.rfind(b"DS", 128, at), 128)
            data[at : at + 2] = vr
    return bytes(data)


def both_ways(paths: list[Path], folder: Path) -> list[tuple[index.DicomFile, SeriesRecord]]:
    """As the stage meets a file: its entry, and as a series of this one file."""
    job = partial(Conversion, labels=(), beside=(), folder=folder, settings=SETTINGS, pseudonyms=KEY)
    return [
        (index.entry(path, KEY), convert(job(files=(path,), called=(path.stem,), name=path.stem))) for path in paths
    ]


def fuzz(folder: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    originals = seeds(folder)
    paths = []
    for number in range(count):
        path = folder / f"{number:05d}.dcm"
        path.write_bytes(mutated(rng.choice(originals), rng))
        paths.append(path)
    chunks = [paths[start : start + 25] for start in range(0, count, 25)]
    limits = sandbox.Limits(seconds=300, memory_gib=1)  # of a chunk that takes about 1: a hang ends, nothing else
    start = time.monotonic()
    found = list(sandbox.each(partial(both_ways, folder=folder / "out"), chunks, limits, "fuzz"))
    stopped = [each for each in found if isinstance(each, sandbox.Refused)]
    results = [result for each in found if not isinstance(each, sandbox.Refused) for result in each]
    print(f"\n{count} mutants in {time.monotonic() - start:.0f} s; {len(stopped)} chunks stopped: {stopped}")
    assert not stopped
    assert len(results) == count
    for entry, record in results:
        assert entry.kind in KINDS
        assert (entry.kind != index.REFUSED) or entry.reason
        reasons = [record.quarantined, record.set_aside, *(volume.quarantined for volume in record.volumes)]
        usable = [volume for volume in record.volumes if volume.image]
        assert usable or any(reasons), "neither used nor refused"
        assert "uillfeather" not in " ".join(reasons)
    refused = sum(entry.kind == index.REFUSED or bool(record.quarantined) for entry, record in results)
    assert 0.02 * count < refused < count  # the mutations bite, and do not all end at the door


def test_120_mutated_headers_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 120, seed=1)


@pytest.mark.slow
def test_2000_mutated_headers_are_read_or_refused(tmp_path: Path) -> None:
    fuzz(tmp_path, 2000, seed=2)


def hangs(_: int) -> None:
    while True:
        pass


def waits(_: int) -> int:
    time.sleep(2)
    return 7


def eats(_: int) -> int:
    return len(bytearray(3 << 30))


def crashes(_: int) -> None:
    import ctypes

    ctypes.string_at(0)


def raises(number: int) -> float:
    return 1 / number


@pytest.mark.parametrize(
    ("work", "seconds", "reason"),
    [
        (hangs, 1, "took longer than 1 s"), (eats, 60, "needs more than 1 GiB"),
        (crashes, 60, "crashed its reader (signal 11)"), (raises, 60, "failed its reader (ZeroDivisionError)"),
    ],
)  # fmt: skip
def test_a_limit_ends_one_child_and_the_others_go_on(work: Callable[[int], None], seconds: float, reason: str) -> None:
    (refused,) = sandbox.each(work, [0], sandbox.Limits(seconds, 1), "x")
    assert refused == sandbox.Refused(reason)
    assert list(sandbox.each(abs, [-1, -2, -3], sandbox.Limits(30, 1), "x")) == [1, 2, 3]


def test_a_busy_machine_is_no_reason_to_refuse() -> None:
    assert list(sandbox.each(waits, [0], sandbox.Limits(1, 1), "x")) == [7]
    assert list(sandbox.each(waits, [0], sandbox.Limits(1, 1, 0.5), "x")) == [sandbox.Refused("took longer than 0.5 s")]
