"""A real MLflow server that can be killed and come back."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

ADMIN = ("admin", "password of the administrator")


class Server:
    """`mlflow server` on a port of its own, which can be killed and come back. `accounts`: with basic-auth, where ADMIN
    may do all, and everybody else read."""

    def __init__(self, folder: Path, accounts: bool = False) -> None:
        self.accounts = accounts
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.address = folder, f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self.accounts:
            command += ["--app-name", "basic-auth"]
            settings = {"default_permission": "READ", "database_uri": f"sqlite:///{self.folder / 'accounts.db'}"}
            settings |= dict(zip(("admin_username", "admin_password"), ADMIN, strict=True))
            told = "\n".join(f"{name} = {value}" for name, value in settings.items())
            (self.folder / "accounts.ini").write_text(f"[mlflow]\n{told}\n")
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(self.folder / "accounts.ini")
            environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of this test"
        with (self.folder / "log").open("w") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5):
                return
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
