"""A Prefect server on PostgreSQL, both real, both of which can go away and come back."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flows.server import QUIET

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Postgres:
    """Of Debian's package, as a user who is not root, as it wants to be."""

    def __init__(self, folder: Path) -> None:
        self._data, self._port = folder / "data", free_port()
        self._user = "postgres" if os.geteuid() == 0 else None
        if self._user:
            owner = pwd.getpwnam(self._user)
            os.chown(folder, owner.pw_uid, owner.pw_gid)
        self._call("initdb", "--auth=trust", "--username=medseg", "--no-sync", f"--pgdata={self._data}")
        self.start()
        self._call("createdb", "--host=127.0.0.1", f"--port={self._port}", "--username=medseg", "prefect")
        self.address = f"postgresql+asyncpg://medseg@127.0.0.1:{self._port}/prefect"

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Postgres"]:
        folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # pytest's own are closed to other users
        try:
            postgres = cls(folder)
            try:
                yield postgres
            finally:
                postgres.stop()
        finally:
            shutil.rmtree(folder)

    def start(self) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = f"--log={self._data.parent / 'log'}"
        self._call("pg_ctl", f"--pgdata={self._data}", "--wait", log, f"--options={options}", "start")

    def stop(self) -> None:
        """At once, connections or not."""
        self._call("pg_ctl", f"--pgdata={self._data}", "--wait", "--mode=immediate", "stop")

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [BINARIES[-1] / program, *arguments], check=True, user=self._user, cwd="/", stdout=subprocess.DEVNULL
        )


class PrefectServer:
    """As the shared installation has one: its own process, without a login, on that database."""

    def __init__(self, folder: Path, database: str) -> None:
        self._folder, self._port = folder, free_port()
        self.page = f"http://127.0.0.1:{self._port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT")},
            **QUIET,
            "PREFECT_HOME": str(folder),
            "PREFECT_API_DATABASE_CONNECTION_URL": database,
            "PREFECT_SERVER_UI_API_URL": f"{self.page}/api",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "3",
        }

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        with (self._folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 240
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.page}/api/health", timeout=5):
                return
            assert time.monotonic() < deadline, (self._folder / "log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
