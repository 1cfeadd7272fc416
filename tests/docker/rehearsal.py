"""The services of docker/compose.yaml without a container engine: its commands, variables and secrets, as processes.

PostgreSQL and Redis are Debian's, the store is moto's S3. What is replaced is where they are reached, and nothing else.
"""

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
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import REPOSITORY

DOCKER = REPOSITORY / "docker"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
MISSING = [
    name for name, there in (("PostgreSQL", BINARIES), ("redis-server", shutil.which("redis-server"))) if not there
]


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return content


class Rehearsal:
    """`folder`: for secrets, data and logs; open to the user postgres."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.secrets = folder / "secrets"
        self.services: subprocess.Popen[bytes]
        self._services = compose()["services"]
        self.ports = {name: _free() for name in ("postgres", "redis", "store", "prefect", "mlflow")}
        made = {**os.environ, "SECRETS": str(self.secrets)}
        subprocess.run([DOCKER / "make-secrets"], env=made, check=True, stdout=subprocess.DEVNULL)
        self._user = "postgres" if os.geteuid() == 0 else None
        self._begin_postgres()
        password = self.secret("redis_password")
        self._start("redis", ["redis-server", "--port", str(self.ports["redis"]), "--requirepass", password], {})
        self.until_answers(
            "store", "/", self._start("store", [_tool("moto_server"), "-p", str(self.ports["store"])], {})
        )

    @classmethod
    @contextmanager
    def begun(cls) -> Iterator["Rehearsal"]:
        folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
        folder.chmod(0o755)
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield cls(folder, stack)

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    def run(self, name: str) -> None:
        """A service that ends, as `buckets`."""
        subprocess.run(self._command(name), env=self._environment(name), cwd=self.folder, check=True)

    def start(self, name: str, answers: str = "") -> "subprocess.Popen[bytes]":
        """A service that stays. `answers`: the path of its health."""
        process = self._start(name, self._command(name), self._environment(name))
        if answers:
            self.until_answers(name, answers, process)
        return process

    def script(self, *command: str, **environment: str) -> str:
        """One of ours that speaks to PostgreSQL as its superuser."""
        said = {**self.superuser(), "PGPASSWORD_FILE": str(self.secrets / "postgres_password"), **environment}
        ended = subprocess.run(
            [DOCKER / command[0], *command[1:]], env=said, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def sql(self, database: str, statement: str) -> str:
        said = {**self.superuser(), "PGPASSWORD": self.secret("postgres_password")}
        command = [str(BINARIES[-1] / "psql"), "--dbname", database, "--tuples-only", "--command", statement]
        return subprocess.run(command, env=said, capture_output=True, text=True, check=True).stdout

    def superuser(self) -> dict[str, str]:
        reached = {"PGHOST": "127.0.0.1", "PGPORT": str(self.ports["postgres"]), "PGUSER": "postgres"}
        path = os.pathsep.join([str(BINARIES[-1]), os.environ["PATH"]])
        return {**os.environ, "PATH": path, **reached, "SECRETS": str(self.secrets), "POSTGRES_USER": "postgres"}

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def _begin_postgres(self) -> None:
        data = self.folder / "postgres"
        data.mkdir()
        if self._user:
            shutil.chown(data, self._user, pwd.getpwnam(self._user).pw_gid)
            self.secrets.chmod(0o755)  # in a container each gets its own
        options = (
            f"-p {self.ports['postgres']} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        )
        self._postgres(
            "initdb", "--auth=scram-sha-256", "--username=postgres", f"--pwfile={self.secrets / 'postgres_password'}",
            "--no-sync", f"--pgdata={data / 'data'}",
        )  # fmt: skip
        self._postgres(
            "pg_ctl", f"--pgdata={data / 'data'}", "--wait", f"--log={data / 'log'}", f"--options={options}", "start"
        )
        self._stack.callback(self._postgres, "pg_ctl", f"--pgdata={data / 'data'}", "--mode=immediate", "stop")
        self.script("databases.sh", PGPASSWORD=self.secret("postgres_password"))

    def _postgres(self, program: str, *arguments: str) -> None:
        command = [BINARIES[-1] / program, *arguments]
        subprocess.run(command, check=True, user=self._user, cwd="/", stdout=subprocess.DEVNULL)

    def _command(self, name: str) -> list[str]:
        found = [self._here(part) for part in self._services[name]["command"]]
        found[0] = sys.executable if found[0] == "python" else _tool(found[0])
        if name == "prefect":
            found += ["--port", str(self.ports["prefect"])]
        return [str(DOCKER / "with-secrets"), *found]

    def _environment(self, name: str) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW", "MEDSEG"))}
        said = {key: self._here(str(value)) for key, value in self._services[name].get("environment", {}).items()}
        ports = {"PREFECT_SERVER_DATABASE_PORT": str(self.ports["postgres"]), "PGPORT": str(self.ports["postgres"])}
        said |= {"PREFECT_REDIS_MESSAGING_PORT": str(self.ports["redis"])} | ports
        quiet = {"DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}  # as the images say
        return {**ours, **quiet, "SECRETS": str(self.secrets), **said}

    def _here(self, text: str) -> str:
        """What a container calls the others, and its files, by the names they have here."""
        if text == "/run/secrets/docket_url":
            place = self.secrets / "docket_url.here"
            place.write_text(self.secret("docket_url").replace("redis:6379", f"127.0.0.1:{self.ports['redis']}"))
            return str(place)
        if text == "/etc/mlflow/basic_auth.ini":
            place = self.folder / "basic_auth.ini"
            place.write_text((DOCKER / "basic_auth.ini").read_text().replace("@postgres/", "@127.0.0.1/"))
            return str(place)
        changes = {
            "/tmp/": f"{self.folder}/tmp-",
            "/run/secrets/": f"{self.secrets}/",
            "/buckets.py": str(DOCKER / "buckets.py"),
            "@postgres/": "@127.0.0.1/",
            "http://store:8333": self.address("store"),
            "mlflow:5000,": f"127.0.0.1:{self.ports['mlflow']},",
            "--port=5000": f"--port={self.ports['mlflow']}",
            "${SITE_HOST:-localhost}": "localhost",
            "0.0.0.0": "127.0.0.1",
        }
        for there, here in changes.items():
            text = text.replace(there, here)
        return "127.0.0.1" if text in ("postgres", "redis") else text

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment or None, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self._stack.callback(_end, process)
        return process

    def until_answers(self, name: str, path: str, process: "subprocess.Popen[bytes]", timeout_s: float = 240) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(self.address(name) + path, timeout=5):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError(f"{name} does not answer: {self.log(name)[-3000:]}")


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _free() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    for signum, patience_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, signum)
            process.wait(patience_s)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
