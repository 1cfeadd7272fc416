"""Preprocessing killed at random moments ends as if undisturbed, to the byte (benchmarks.preprocess_drills)."""

from pathlib import Path

import pytest

from benchmarks.preprocess_drills import drill, prepare


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_ten_random_moments_the_result_is_the_undisturbed_ones(tmp_path: Path) -> None:
    lines = list(drill(prepare(tmp_path / "project"), count=10, seed=1))
    assert all(same for _, same in lines), "\n".join(line for line, _ in lines)
