"""PostgreSQL databases of this project, by its own programs: dump, restore, ask for the version.

Only those that a variable of the environment names; a server's own databases are the server's to keep.
"""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote, urlsplit

VARIABLES = {
    "prefect": ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"),
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI"),
}
TIMEOUT_S = 3600


def named() -> dict[str, str]:
    """What for -> its address, of those that are PostgreSQL databases."""
    found = {
        name: next((os.environ[each] for each in variables if os.environ.get(each)), "")
        for name, variables in VARIABLES.items()
    }
    return {name: uri for name, uri in found.items() if uri.startswith("postgresql")}


def dump(uri: str, file: Path) -> None:
    """The whole database, in PostgreSQL's own format."""
    _run(uri, "pg_dump", "--format", "custom", "--no-owner", "--no-privileges", "--file", str(file))


def restore(uri: str, file: Path) -> None:
    """The database becomes what was dumped: what it holds now is dropped, in one transaction."""
    _run(
        uri, "pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction",
        "--dbname", _database(uri), str(file),
    )  # fmt: skip


def version(uri: str) -> str:
    return _run(uri, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", "SHOW server_version").strip()


def _database(uri: str) -> str:
    return urlsplit(uri).path.lstrip("/")


def _run(uri: str, program: str, *arguments: str) -> str:
    """Address and password go by the environment: others see command lines."""
    if not shutil.which(program):
        raise ValueError(f"{program} is not installed; it is in Debian's package postgresql-client")
    parts = urlsplit(uri)
    said = {
        "PGHOST": parts.hostname,
        "PGPORT": parts.port and str(parts.port),
        "PGUSER": parts.username and unquote(parts.username),
        "PGPASSWORD": parts.password and unquote(parts.password),
        "PGDATABASE": _database(uri),
        "PGCONNECT_TIMEOUT": "10",
    }
    ended = subprocess.run(
        [program, *arguments],
        env={**os.environ, **{name: value for name, value in said.items() if value}},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
        raise ValueError(f"{program} of {_database(uri)} at {parts.hostname or 'localhost'}: {lines[-1]}")
    return ended.stdout
