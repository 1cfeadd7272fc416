"""A PostgreSQL of its own, on a socket; as the user `postgres` where we are root, which PostgreSQL refuses to be."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def postgres() -> Iterator[str]:
    """Its address, as SQLAlchemy has it."""
    if not PROGRAMS:
        pytest.skip("no PostgreSQL here: apt install postgresql")
    folder = Path(mkdtemp(prefix="pg-"))  # a path of a socket is 107 characters at most
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    data, control = folder / "data", [*as_user, str(PROGRAMS[-1] / "pg_ctl"), "-D", str(folder / "data")]
    options = f"-k {folder} -c listen_addresses= -c fsync=off"
    try:
        _run([*as_user, str(PROGRAMS[-1] / "initdb"), "-D", str(data), "-U", "medseg", "-A", "trust", "-N"], folder)
        _run([*control, "-w", "-t", "240", "-o", options, "-l", str(folder / "log"), "start"], folder)
        try:
            yield f"postgresql+psycopg2://medseg@/postgres?host={folder}"
        finally:
            _run([*control, "-w", "-m", "immediate", "stop"], folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
