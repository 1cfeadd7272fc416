"""A hang is told by every rank, also by one that only waited for the one that hung."""

from pathlib import Path

import pytest

from model.engine.watch import Watch


@pytest.mark.parametrize("hung", [True, False])
def test_a_rank_that_loses_one_that_hung_leaves_its_stack_too(tmp_path: Path, hung: bool) -> None:
    (tmp_path / "stacks-rank-0.txt").write_text("Timeout!" if hung else "")
    with pytest.raises(RuntimeError, match="lost"), Watch(tmp_path, 1).watching():
        raise RuntimeError("lost")
    assert ("RuntimeError: lost" in (tmp_path / "stacks-rank-1.txt").read_text()) == hung
