"""`medseg doctor`: what support asks first, each with its remedy. Without torch, in seconds.

A check that has nothing to look at here (no Slurm, no GPU, no server named) is well and says so.
"""

import fcntl
import os
import re
import resource
import shutil
import socket
import sqlite3
import stat
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path

import psutil

from flows import lock, postgres
from pipelines.work import environment, project

DISTRIBUTION = "medsegformer"
FREE_BYTES = 10 * 2**30  # a run of phantoms writes 0.1, a cohort's case files hundreds; below this all else fails, too
FREE_INODES = 100_000
SKEW_S = 5.0  # munge refuses at 300, TLS and tokens long before
DESCRIPTORS = 1024
SHARED_BYTES = 512 * 2**20  # /dev/shm: 64 MB in a container unless told, and loader processes then die by SIGBUS
POSTGRES = (14, 9)  # Prefect asks for it
ANSWER_S = 5


@dataclass
class DoctorCheck:
    """`found`: what is there; `remedy`: empty if all is well."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def checks() -> list[DoctorCheck]:
    """All of them, side by side: some wait for a server or another program. The project's is first: asking for locks
    closes its folder to others."""
    first = _asked(_project)
    with ThreadPoolExecutor(len(ALL)) as pool:
        return first + [check for found in pool.map(_asked, ALL) for check in found]


def _asked(examine: Callable[[], Iterator[DoctorCheck]]) -> list[DoctorCheck]:
    try:
        return list(examine())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        name = examine.__name__.strip("_").replace("_", " ")
        return [DoctorCheck(name, False, f"could not be asked: {error}", "see what it says; `--debug` shows more")]


def _project() -> Iterator[DoctorCheck]:
    root = project.find()
    if root is None:
        yield DoctorCheck("project", False, "none here", "change into one, or make one with `medseg init DIR`")
        return
    yield DoctorCheck("project", True, str(root))
    problems = [row["problem"] for row in environment.rows() if row["problem"]] + environment.unknown()
    yield DoctorCheck(
        "variables", not problems, "; ".join(problems) or "as they may be", "`medseg env`" if problems else ""
    )
    state = root / ".medseg"
    if state.is_dir():
        is_open = stat.S_IMODE(state.stat().st_mode) & 0o077
        remedy = f"chmod 700 {state}: it holds keys" if is_open else ""
        yield DoctorCheck("state folder", not is_open, f"{state}, mode {stat.S_IMODE(state.stat().st_mode):o}", remedy)


def _versions() -> Iterator[DoctorCheck]:
    """Every dependency within the range that is known to work: newer ones fail silently."""
    from packaging.requirements import Requirement

    wrong = []
    for text in metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(text)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found = "none"
        if found == "none" or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name} {found}, not {wanted.specifier}")
    remedy = "make the environment from a lock, docs/installation.md" if wrong else ""
    told = f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}, torch {metadata.version('torch')}"
    yield DoctorCheck("versions", not wrong, "; ".join(wrong) or told, remedy)


def _programs() -> Iterator[DoctorCheck]:
    missing = [name for name in ("git", "ssh-keygen") if not shutil.which(name)]
    remedy = "install them: DVC needs git, signatures need openssh-client" if missing else ""
    yield DoctorCheck("programs", not missing, f"no {', no '.join(missing)}" if missing else "git, ssh-keygen", remedy)


def _ports() -> Iterator[DoctorCheck]:
    """Whoever has one of `medseg ui`'s; it takes another then, which a bookmark does not know."""
    ours = bool(project.find() and lock.holder("ui"))
    taken = [port for port in (4200, 5000) if _listens(port)]
    told = f"{' and '.join(map(str, taken))} taken{' by `medseg ui`' if ours else ''}" if taken else "4200, 5000 free"
    yield DoctorCheck("ports", True, told, "" if ours or not taken else "`medseg ui` takes free ones and prints them")


def _disks() -> Iterator[DoctorCheck]:
    root = project.find() or Path.cwd()
    places = {"project": root, "temporary files": Path(tempfile.gettempdir()), "results": root / ".dvc/cache"}
    checkpoints = environment.read().checkpoints
    for name, path in (places | ({"checkpoints": checkpoints} if checkpoints else {})).items():
        if not path.is_dir():
            continue
        found = os.statvfs(path)
        free, inodes = found.f_bavail * found.f_frsize, found.f_favail
        bound = FREE_BYTES if name != "temporary files" else FREE_BYTES // 10
        few = found.f_files and inodes < FREE_INODES
        ok = free >= bound and not few and os.access(path, os.W_OK)
        told = f"{free / 2**30:.0f} GiB free, {100 - 100 * free // (found.f_blocks * found.f_frsize)} % used"
        remedy = f"free some: {bound / 2**30:.0f} GiB, {FREE_INODES} inodes; `dvc gc`, docs/operations.md"
        yield DoctorCheck(f"disk: {name}", ok, told, "" if ok else remedy)
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    remedy = "give the container more: --shm-size 16g, or MEDSEG_LOADERS=0" if shared < SHARED_BYTES else ""
    yield DoctorCheck("shared memory", not remedy, f"{shared / 2**20:.0f} MiB in /dev/shm", remedy)


def _clock() -> Iterator[DoctorCheck]:
    """Against the servers that are named: what they say in the header Date, to the second."""
    skews = {}
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        address = os.environ.get(name, "")
        if address.startswith("http") and (skew := _skew(address)) is not None:
            skews[name] = skew
    wrong = {name: skew for name, skew in skews.items() if abs(skew) > SKEW_S}
    told = ", ".join(f"{skew:+.0f} s against {name}" for name, skew in skews.items()) or "no server to compare with"
    yield DoctorCheck("clock", not wrong, told, "have both machines' clocks set by NTP (chrony)" if wrong else "")


def _skew(address: str) -> float | None:
    try:
        with urllib.request.urlopen(f"{address.removesuffix('/')}/health", timeout=ANSWER_S) as answer:
            said = answer.headers["Date"]
    except OSError:
        return None
    return time.time() - parsedate_to_datetime(said).timestamp() - 0.5 if said else None


def _slurm() -> Iterator[DoctorCheck]:
    if not shutil.which("sbatch"):
        yield DoctorCheck("slurm", True, "none here")
        return
    remedies = {
        "munge": ("munge -n | unmunge > /dev/null", "start munged; the same /etc/munge/munge.key on all machines"),
        "slurm": ("scontrol ping | grep -q UP", "start slurmctld, or correct slurm.conf: `scontrol ping` says more"),
    }
    for name, (command, remedy) in remedies.items():
        ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20, check=False)
        ok = ended.returncode == 0
        told = "answers" if ok else (ended.stderr.strip().splitlines() or ["does not answer"])[-1]
        yield DoctorCheck(name, ok, told, "" if ok else remedy)


def _gpu() -> Iterator[DoctorCheck]:
    if not shutil.which("nvidia-smi"):
        has_device = bool(list(Path("/dev").glob("nvidia[0-9]*")))
        yield DoctorCheck(
            "gpu", not has_device, "none: the CPU", "install the driver's nvidia-smi" if has_device else ""
        )
        return
    query = "index,name,driver_version,memory.total,memory.used,ecc.errors.uncorrected.volatile.total"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    if ended.returncode:
        yield DoctorCheck(
            "gpu", False, (ended.stdout or ended.stderr).strip()[:200], "the driver does not work: reload it"
        )
        return
    rows = [[cell.strip() for cell in line.split(",")] for line in ended.stdout.splitlines() if line.strip()]
    faulty = [row[0] for row in rows if row[5].isdigit() and int(row[5])]
    told = f"{len(rows)} x {rows[0][1]}, driver {rows[0][2]}" if rows else "none"
    yield DoctorCheck(
        "gpu", not faulty, told, f"uncorrected memory errors on {', '.join(faulty)}: reset" if faulty else ""
    )
    for_cpu = "+cpu" in metadata.version("torch")
    remedy = "make the environment from requirements-gpu.lock" if rows and for_cpu else ""
    yield DoctorCheck("torch build", not remedy, metadata.version("torch"), remedy)


def _databases() -> Iterator[DoctorCheck]:
    root = project.find()
    held = {"mlflow": "the registry", "prefect/prefect": "runs", "serve/jobs": "jobs"}
    for name, what in held.items():
        path = root / f".medseg/{name}.db" if root else Path()
        if path.is_file():
            fault = _fault(path)
            remedy = "docs/operations.md, back up and restore" if fault else ""
            yield DoctorCheck(
                f"database: {what}", not fault, fault or f"whole, {path.stat().st_size / 1e6:.1f} MB", remedy
            )
    for name, uri in postgres.named().items():
        said = postgres.version(uri)
        numbers = tuple(int(part) for part in re.findall(r"\d+", said)[:2])
        remedy = "" if numbers >= POSTGRES else "PostgreSQL 14.9 or newer"
        yield DoctorCheck(f"database: {name}", not remedy, f"PostgreSQL {said.split()[0]}", remedy)


def _servers() -> Iterator[DoctorCheck]:
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        address = os.environ.get(name, "")
        if address.startswith("http"):
            fault = _answers(f"{address.removesuffix('/')}/health")
            remedy = f"start it, or correct {name}; it is named in this shell" if fault else ""
            yield DoctorCheck(f"server: {name}", not fault, fault or "answers", remedy)


def _limits() -> Iterator[DoctorCheck]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"ulimit -n {4 * DESCRIPTORS}, in /etc/security/limits.d" if soft < DESCRIPTORS else ""
    yield DoctorCheck("file descriptors", not remedy, f"{soft}, at most {hard}", remedy)


def _lock() -> Iterator[DoctorCheck]:
    root = project.find()
    if root is None:
        return
    said = lock.holder()
    alive = said is None or psutil.pid_exists(said.get("pid", 0))
    told = "free" if said is None else f"held: {said.get('doing', 'run')}, process {said.get('pid', 'unknown')}"
    remedy = "" if alive else "its process runs on another machine, or hangs in a disk: fuser .medseg/lock"
    yield DoctorCheck("lock", alive, told, remedy)
    with tempfile.NamedTemporaryFile(dir=root / ".medseg") as first, Path(first.name).open() as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        holds = not _flocked(second.fileno())
    remedy = "" if holds else "mount that disk with locks (NFS: without nolock), or two runs will meet"
    yield DoctorCheck("locks hold", holds, "yes" if holds else "no: a second lock on a locked file was given", remedy)


def _flocked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _listens(port: int) -> bool:
    with closing(socket.socket()) as asking:
        asking.settimeout(0.5)
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _answers(address: str) -> str:
    """Empty if it does, else why not."""
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_S):
            return ""
    except OSError as error:
        return str(getattr(error, "reason", error))


def _fault(path: Path) -> str:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=ANSWER_S)) as database:
            told = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)
    return "" if told == "ok" else told


ALL: tuple[Callable[[], Iterator[DoctorCheck]], ...] = (
    _versions, _programs, _ports, _disks, _clock, _slurm, _gpu, _databases, _servers, _limits, _lock,
)  # fmt: skip
