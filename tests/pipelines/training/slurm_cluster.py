"""A real Slurm cluster of two nodes on this machine, started and ended by a test: munged, slurmctld, two slurmd.

Everything of it lies in one folder; programs find it by SLURM_CONF. Nodes are called n1 and n2; each has two cores and
lies in two partitions, of which `urgent` takes nodes away from `main`, with a grace.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel")
NODES = ("n1", "n2")
# `cred_expire`: so long a requeued job is held back; 120 s unless told. `SlurmdTimeout`: until a silent node is down.
CONFIGURATION = """
ClusterName=medseg
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={held_back_s}
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
KillWait=5
SchedulerParameters=sched_interval=5,bf_interval=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=60 MaxTime=INFINITE
PartitionName=urgent Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""


def missing() -> str:
    """What keeps a cluster from being started here; empty if nothing does."""
    absent = [name for name in PROGRAMS if not shutil.which(name, path=_path())]
    return f"{', '.join(absent)} not found: apt-get install slurm-wlm munge" if absent else ""


@dataclass
class SlurmCluster:
    """`environment`: what programs need to find it."""

    folder: Path
    held_back_s: int = 10
    environment: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        configuration = self.folder / "slurm.conf"
        configuration.write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                user=user,
                folder=self.folder,
                ports=free_ports(3),
                held_back_s=self.held_back_s,
            )
        )  # fmt: skip
        self.environment = {"SLURM_CONF": str(configuration), "PATH": _path()}
        self._start_munge()
        self.daemons["slurmctld"] = self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self._until_idle()

    def start_node(self, node: str) -> None:
        self.daemons[node] = self._daemon("slurmd", "-D", "-N", node)

    def lose_node(self, node: str) -> None:
        """Its daemon and all that runs on it, at once."""
        for pid in (*self.on_node(node), self.daemons[node].pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons[node].wait()

    def on_node(self, node: str) -> list[int]:
        """Processes of jobs' steps on it, and the steps' own daemons, which hold the node's spool folder open."""
        return [pid for pid, variables in _environments() if f"SLURMD_NODENAME={node}" in variables] + [
            pid for pid, line in _command_lines() if line.startswith("slurmstepd") and self._is_of(pid, node)
        ]

    def call(self, *command: str) -> str:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **self.environment}, timeout=60
        ).stdout

    def jobs(self) -> list[str]:
        """A line each: number, name, state."""
        return self.call("squeue", "--noheader", "--format", "%i %j %T").splitlines()

    def stop(self) -> None:
        with suppress(subprocess.SubprocessError, AssertionError):
            self.call("scancel", "--user", str(os.getuid()))
            _until(lambda: not self.jobs(), 20, "all jobs are gone")
        for name in (*NODES, "slurmctld", "munged"):
            if (daemon := self.daemons.get(name)) and daemon.poll() is None:
                daemon.terminate()
                with suppress(subprocess.TimeoutExpired):
                    daemon.wait(timeout=10)
                daemon.kill()
                daemon.wait()
        for node in NODES:
            for pid in self.on_node(node):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o600)
        places = [f"--{name}={folder / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self.daemons["munged"] = self._daemon(
            "munged", "--foreground", "--force", f"--key-file={folder / 'key'}", *places
        )
        _until(lambda: (folder / "socket").exists(), 20, "munged answers")

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "pipelines.work.tether", *command],  # a test that is killed leaves none behind
                cwd=REPOSITORY,
                env={**os.environ, **self.environment},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def _until_idle(self) -> None:
        def idle() -> bool:
            with suppress(subprocess.SubprocessError):
                return self.call("sinfo", "--noheader", "--partition", "main", "--format", "%t %D").split() == [
                    "idle",
                    "2",
                ]
            return False

        _until(idle, 60, "two nodes are idle")

    def _is_of(self, pid: int, node: str) -> bool:
        with suppress(OSError):
            spool = str(self.folder / f"spool-{node}")
            return any(
                str(path.readlink()).startswith(spool)
                for path in [Path(f"/proc/{pid}/cwd"), *Path(f"/proc/{pid}/fd").iterdir()]
            )
        return False


@contextmanager
def started(folder: Path, held_back_s: int = 10) -> Iterator[SlurmCluster]:
    cluster = SlurmCluster(folder, held_back_s)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _until(fact: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.1)


def _path() -> str:
    """Daemons lie in sbin."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _environments() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "environ").read_bytes().decode(errors="replace").split("\0")


def _command_lines() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
