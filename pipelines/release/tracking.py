"""MLflow: where it lies, whether it answers, and copies of its database.

$MLFLOW_TRACKING_URI names a server; without it everything lies in `.medseg/` on SQLite. `import mlflow` takes seconds,
so it happens inside functions, and in training on a thread of its own.
"""

import logging
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pipelines.work import exclusive, project
from pipelines.work.writing import replacing

log = logging.getLogger(__name__)

EXPERIMENT = "medsegformer"
VARIABLE = "MLFLOW_TRACKING_URI"
PATIENCE_S = 10  # a server that answers at all does within one
COPIES = 10  # of each database
AT_ONCE = {"metrics": 1000, "params": 100, "tags": 100}  # MLflow's bounds
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What holds places of artifacts: of another folder once a project was moved.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


class AwayError(ValueError):
    """MLflow does not answer."""


def tracking_uri() -> str:
    return os.environ.get(VARIABLE) or _own_uri()


def page() -> str:
    """The address of the named server's page, without user and password; empty if none is named."""
    parts = urlsplit(tracking_uri())
    if parts.scheme not in ("http", "https"):
        return ""
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def is_embedded() -> bool:
    """No server is named: the registry is this project's own SQLite file."""
    return tracking_uri() == _own_uri()


def _own_uri() -> str:
    return f"sqlite:///{database()}"


def database() -> Path:
    return project.state_folder() / "mlflow.db"


def artifact_folder() -> Path:
    return project.state_folder() / "mlartifacts"


def require_answer() -> None:
    """Does MLflow answer? Raises ValueError in one line, after at most PATIENCE_S, where it does not.

    For commands to ask before they begin: MLflow itself would try for minutes.
    """
    if is_embedded():
        _refuse_if_lost()
        return
    uri = urlsplit(tracking_uri())
    try:
        if uri.scheme in ("http", "https"):
            with urllib.request.urlopen(f"{_place(uri)}{uri.path.rstrip('/')}/health", timeout=PATIENCE_S):
                return
        elif port := _PORTS.get(uri.scheme.partition("+")[0]):
            socket.create_connection((uri.hostname or "localhost", uri.port or port), PATIENCE_S).close()
    except urllib.error.HTTPError as error:
        if error.code >= 500:  # a proxy answers for a server that is away
            raise AwayError(_away(f"HTTP {error.code}")) from None
    except OSError as error:
        raise AwayError(_away(str(getattr(error, "reason", error)))) from None


def configure() -> ModuleType:
    """MLflow, pointed at this project's store, quiet. Raises ValueError as `require_answer` does."""
    require_answer()
    return _configured(tracking_uri(), project.state_folder())


@lru_cache(maxsize=1)  # MLflow is pointed to one store at a time
def _configured(uri: str, _state: Path) -> ModuleType:
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where programs read JSON
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by itself it tries for four minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(PATIENCE_S),
        "PGCONNECT_TIMEOUT": str(PATIENCE_S),
    }.items():
        os.environ.setdefault(name, value)
    import mlflow

    for chatty in ("alembic", "mlflow.store", "mlflow.utils"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if is_embedded():
        make_database()
    written = {VARIABLE, "MLFLOW_EXPERIMENT_ID"} - os.environ.keys()
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        mlflow.create_experiment(EXPERIMENT, artifact_location=artifact_folder().as_uri() if is_embedded() else None)
    elif is_embedded() and experiment.artifact_location != artifact_folder().as_uri():
        _move_places(experiment.artifact_location, artifact_folder().as_uri())
    mlflow.set_experiment(EXPERIMENT)
    for name in written:  # by MLflow, for child processes; they may be at work on another project
        os.environ.pop(name, None)
    return mlflow


def log_all(client: Any, run_id: str, kind: str, entities: Sequence[Any]) -> None:
    """A run's `metrics`, `params` or `tags`, MLflow's own objects: as many at once as it takes. One by one, each would
    be a request of its own, or a change that its database waits to have on disk."""
    for start in range(0, len(entities), AT_ONCE[kind]):
        client.log_batch(run_id, **{kind: entities[start : start + AT_ONCE[kind]]})


def make_database() -> None:
    """This project's own, if there is none: empty, as MLflow's migrations leave it.

    It is there whole or not at all: one that is half made, as of a process that was killed, MLflow refuses for ever.
    And on disk once, at the end, instead of after each of a hundred changes: 1 s for 6.
    """
    file = database()
    if file.exists():
        return
    with exclusive.opened(file.with_name("mlflow.db.lock")):
        if file.exists():  # another process was faster
            return
        with replacing(file) as temporary:
            _migrate(temporary)


def _migrate(file: Path) -> None:
    from mlflow.store.db import utils
    from sqlalchemy import create_engine, event

    engine = create_engine(f"sqlite:///{file}")
    event.listen(engine, "connect", _without_files_beside)
    utils._initialize_tables(engine)
    engine.dispose()
    with file.open("rb") as made:
        os.fsync(made.fileno())


def _without_files_beside(connection: sqlite3.Connection, _: object) -> None:
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute("PRAGMA synchronous = OFF")


def keep_copy() -> None:
    """Copy this project's databases to `.medseg/copies`; the newest COPIES of each stay."""
    folder = project.state_folder() / "copies"
    for file in (database(), project.state_folder() / "prefect" / "prefect.db"):
        if not file.is_file() or (file == database() and not is_embedded()):
            continue
        with (
            replacing(folder / f"{file.stem}-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.db") as copy,
            closing(sqlite3.connect(file)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            copy.chmod(0o600)
        for old in sorted(folder.glob(f"{file.stem}-*.db"))[:-COPIES]:
            old.unlink(missing_ok=True)


def _refuse_if_lost() -> None:
    """A registry that is gone or empty where models were registered is no reason to begin at version 1 again."""
    copies = sorted((project.state_folder() / "copies").glob("mlflow-*.db"))
    if fault := _fault(expect_versions=bool(copies)):
        remedy = (
            f"bring its newest copy back: `rm -f {database()}* && cp {copies[-1]} {database()}`; or, to begin at "
            f"version 1 again, remove both it and {copies[-1].parent}"
            if copies
            else "nothing was registered in it yet: remove it"
        )
        raise ValueError(f"{database()}, the registry of models, {fault}; {remedy}")


def _fault(expect_versions: bool) -> str | None:
    if not database().is_file():
        return "is missing" if expect_versions else None
    try:
        with closing(sqlite3.connect(f"{database().as_uri()}?mode=ro", uri=True)) as store:
            tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            known = "model_versions" in tables and store.execute("SELECT 1 FROM model_versions LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        return None  # busy: MLflow waits for it, and says so
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"
    return "holds no version" if expect_versions and not known else None


def _move_places(before: str, now: str) -> None:
    """MLflow notes places of artifacts as absolute paths; after the project was moved they are made right."""
    log.info("MLflow: this project was moved; artifacts are looked for in %s", artifact_folder())
    with closing(sqlite3.connect(database(), timeout=60)) as store, store:
        for table, column in _PLACES:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (now, len(before) + 1, len(before), before),
            )


def _away(why: str) -> str:
    place = _place(urlsplit(tracking_uri()))
    return f"MLflow does not answer at {place} ({why}); start it, or correct {VARIABLE}"


def _place(uri: SplitResult) -> str:
    """Without user and password."""
    return f"{uri.scheme}://{uri.hostname or ''}{f':{uri.port}' if uri.port else ''}"
