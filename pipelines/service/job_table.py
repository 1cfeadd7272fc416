"""The table of jobs and the database it lies in: SQLite, or PostgreSQL.

Every transaction that writes takes the write lock first: nothing that was read in it is old when it is acted upon.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    exc,
    text,
)

BUSY_S = 30  # that a process waits for another one's transaction; each takes milliseconds
_LOCK = text("SELECT pg_advisory_xact_lock(6143001)")

metadata = MetaData()
jobs = Table(
    "medseg_jobs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),  # the order in which they came
    Column("id", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("key", Text),  # by which a sender who asks twice is known; NULL is equal to nothing
    Column("ask", Text, nullable=False),  # JSON
    Column("asked_at", Float, nullable=False),  # seconds since 1970, as all times
    Column("taken_at", Float),
    Column("ended_at", Float),
    Column("progress", Float, nullable=False, default=0.0),
    Column("attempts", Integer, nullable=False, default=0),
    Column("worker", Integer),  # the number of the process that took it
    Column("model", Text, nullable=False, default=""),  # the version that answers, known once taken
    Column("reason", Text, nullable=False, default=""),
    Column("answer", Text, nullable=False, default="{}"),  # JSON: what job_worker.py tells of the files
    Column("bytes", BigInteger, nullable=False, default=0),
    Column("delivery", Text, nullable=False, default=""),
    Column("delivery_reason", Text, nullable=False, default=""),
    Column("delivery_tries", Integer, nullable=False, default=0),
    Column("delivery_at", Float, nullable=False, default=0.0),  # not tried before
    UniqueConstraint("sender", "key"),
)
Index("medseg_jobs_by_state", jobs.c.state, jobs.c.number)


class Database:
    """`url`: as SQLAlchemy has it, or empty for `jobs.db` in `folder`. Raises ValueError if it cannot be used."""

    def __init__(self, url: str, folder: Path) -> None:
        url = url or f"sqlite:///{folder / 'jobs.db'}"
        try:
            self.engine = _engine(url)
            with self.writing() as connection:
                metadata.create_all(connection)
        except (exc.SQLAlchemyError, ImportError) as error:
            reason = (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"database {_without_password(url)}: {reason}; give sqlite:///FILE or "
                "postgresql+psycopg2://USER@HOST/NAME"
            ) from None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(_LOCK)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.engine.connect().execution_options(only_reads=True) as connection:
            yield connection


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=10)
    engine = create_engine(url, connect_args={"timeout": BUSY_S, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver begins no transaction of its own
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # what was accepted outlives a power cut

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        only_reads = connection.get_execution_options().get("only_reads", False)
        connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")

    return engine


def _without_password(url: str) -> str:
    return url.rpartition("@")[2] if "@" in url else url
