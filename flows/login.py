"""The login of the servers that this project's commands start: `medseg:PASSWORD` in .medseg/login, mode 0600.

Prefect's page asks for all of it, MLflow's for user and password. Servers that run at the same time share it; the first
that starts while no other runs makes it anew: whoever listened on their port in between was sent a word that opens
nothing any more.
"""

import os
import secrets
from pathlib import Path

from pipelines.work import project
from pipelines.work.writing import replacing

USER = "medseg"


def file() -> Path:
    return project.state_folder() / "login"


def read() -> str:
    return file().read_text().strip()


def renew() -> None:
    """A file of its own, which nobody opened before, and readable by nobody else from its first moment."""
    with replacing(file()) as new, os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), "w") as opened:
        opened.write(f"{USER}:{secrets.token_urlsafe(24)}\n")
