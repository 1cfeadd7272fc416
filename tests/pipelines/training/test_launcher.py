"""What the launcher makes of its ranks' ends, and how ranks get the memory settings that a process reads only once."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed import run as torchrun

from model.certificate.document import Launch
from model.engine.watch import PREEMPTED
from pipelines import params
from pipelines.params import profiles
from pipelines.training import certificates
from pipelines.training import launcher as launcher_module
from pipelines.training.allocators import SETTINGS
from pipelines.training.launcher import Launcher
from pipelines.training.meeting import Start
from pipelines.training.nodes import Nodes
from pipelines.training.rank import PEER_LOST, LearningStage
from pipelines.work import preemption
from tests.conftest import REPOSITORY

ALONE = Nodes()


def launcher(folder: Path, machines: Nodes = ALONE) -> Launcher:
    folder.mkdir()
    for rank in range(2):
        (folder / f"stacks-rank-{rank}.txt").touch()
    return Launcher("train", 2, machines, folder)


def test_a_hang_of_all_ranks_is_no_refusal_although_all_end_with_code_1(tmp_path: Path) -> None:
    hung = launcher(tmp_path / "run")
    with pytest.raises(SystemExit, match="1"):
        hung._reason({0: 1, 1: 1})
    for rank in range(2):
        (tmp_path / "run" / f"stacks-rank-{rank}.txt").write_text(f"Timeout! of {rank}")
    told = hung._reason({0: 1, 1: 1})
    assert told.startswith(f"no step for too long; every rank's stack lies in {tmp_path}/hung/run-")
    assert told.endswith(": stacks-rank-0.txt, stacks-rank-1.txt")
    assert [file.read_text() for file in sorted(tmp_path.glob("hung/*/*"))] == ["Timeout! of 0", "Timeout! of 1"]
    assert not list((tmp_path / "run").iterdir())  # so that the next attempt's are its own


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        ({0: -signal.SIGKILL, 1: PEER_LOST}, "rank 0 was ended by SIGKILL"),
        ({1: PEER_LOST}, "a rank lost the others"),
        ({0: 1, 1: PEER_LOST}, 1),
        ({0: PREEMPTED, 1: -signal.SIGTERM}, PREEMPTED),
    ],
)
def test_what_ended_the_ranks_decides_what_follows(tmp_path: Path, codes: dict[int, int], reason: str | int) -> None:
    ended = launcher(tmp_path / "run")
    if isinstance(reason, str):
        assert ended._reason(codes) == reason
    else:
        with pytest.raises(SystemExit, match=str(reason)):
            ended._reason(codes)


def test_a_stop_by_another_machine_is_asked_about_at_the_meeting(tmp_path: Path) -> None:
    ended = launcher(tmp_path / "run", Nodes(2, 1, "host:1"))
    assert ended._reason({2: PREEMPTED, 3: PREEMPTED}) == "the ranks were asked to stop by another machine"


def test_torchrun_of_many_machines_meets_at_machine_0_and_at_this_attempt_s_port(tmp_path: Path) -> None:
    third = launcher(tmp_path / "run", Nodes(4, 2, "gpu-01:29500"))
    read = torchrun.parse_args(third._arguments(Start(5, 41234)))
    assert (read.nnodes, read.node_rank, read.nproc_per_node) == ("4", 2, "2")
    assert (read.master_addr, read.master_port, read.rdzv_id) == ("gpu-01", 41234, "run-5")
    assert not read.standalone


def test_torchrun_of_one_machine_meets_nobody(tmp_path: Path) -> None:
    assert torchrun.parse_args(launcher(tmp_path / "run")._arguments(None)).standalone


def test_a_certificate_is_asked_for_the_ranks_of_all_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the second of two machines; `smoke` has two patches a step."""
    settings, asked = profiles.settings("smoke"), list[Launch]()
    for name, value in (("NODES", "2"), ("NODE_RANK", "1"), ("RENDEZVOUS", "host:29500"), ("RANKS", "1")):
        monkeypatch.setenv(f"MEDSEG_{name}", value)
    monkeypatch.setattr(params, "load", lambda: settings)
    monkeypatch.setattr(certificates, "require", asked.append)
    monkeypatch.setattr(preemption, "forget", lambda: None)
    monkeypatch.setattr(launcher_module, "run_folder", lambda *_: tmp_path)
    monkeypatch.setattr(Launcher, "see_through", lambda _: None)
    launcher_module.main(LearningStage("train", None, None))  # type: ignore[arg-type]
    assert [(each.ranks, each.group) for each in asked] == [(2, 1)]


RANK = """
import json, os, sys
from pathlib import Path
from pipelines.training import launcher

launcher.as_rank = lambda *_: print(json.dumps([os.getpid(), sys.argv[1:], Path("/proc/self/environ").read_text()]))
launcher.params.load = lambda: None
launcher.main(None)
"""


def test_a_rank_that_others_started_begins_anew_with_the_memory_settings(tmp_path: Path) -> None:
    """`/proc/self/environ` is what a process was started with, which is all that glibc looks at."""
    program = tmp_path / "rank.py"
    program.write_text(RANK)
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    process = subprocess.Popen(
        [sys.executable, str(program), "train", "--debug"], stdout=subprocess.PIPE, text=True,
        env={**plain, "RANK": "0", "MALLOC_TOP_PAD_": "65536", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    pid, arguments, started_with = json.loads(process.communicate(timeout=120)[0])
    assert (pid, arguments) == (process.pid, ["train", "--debug"])
    found = dict(line.split("=", 1) for line in started_with.split("\0") if line)
    assert {name: found.get(name) for name in SETTINGS} == {**SETTINGS, "MALLOC_TOP_PAD_": "65536"}
