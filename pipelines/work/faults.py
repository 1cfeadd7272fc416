"""Which errors are told in one line: what people, data, disks, memory and servers cause. All others are our mistakes.

    told(error) -> "data/cases: no space left on device, 0.01 GiB are free; ..."      or None: show the trace

Libraries' errors are known by name, so that nothing is imported to tell what is wrong.
"""

import errno
import shutil
from pathlib import Path

from pipelines.work.memory import GIB

_NAMES = {  # by module and name, also of what they inherit from
    "concurrent.futures.process.BrokenProcessPool",
    "dvc.exceptions.DvcException",
    "httpx.HTTPError",
    "mlflow.exceptions.MlflowException",
    "pyarrow.lib.ArrowException",
    "ruamel.yaml.error.YAMLError",
    "safetensors._safetensors_rust.SafetensorError",
    "sqlalchemy.exc.SQLAlchemyError",
    "sqlite3.Error",
}
_AWAY = {"httpx.TransportError", "pipelines.release.tracking.AwayError", "sqlalchemy.exc.OperationalError"}
# What has no type of its own: torch raises RuntimeError for all of it.
_MEMORY = ("can't allocate memory", "CUDA out of memory", "DataLoader worker (pid")  # the last: killed
_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")


def told(error: BaseException) -> str | None:
    """One line with what is wrong and what to do. None: a mistake of ours, whose trace is wanted."""
    text = _text(error)
    if is_memory(error):
        return f"out of memory ({text or 'it does not say for what'}); free some, or ask for less at a time"
    if is_full_disk(error) and "are free" not in text:
        place = error.filename if isinstance(error, OSError) and isinstance(error.filename, str) else Path.cwd()
        return f"{_text(full_disk(Path(place)))} ({text})"
    if isinstance(error, (ValueError, OSError)) or _is_of_a_library(error):
        return text or type(error).__name__
    return None


def is_memory(error: BaseException) -> bool:
    """Did it ask for more memory than this machine, or its GPU, can give?"""
    torchs = isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)
    return torchs or isinstance(error, MemoryError)


def is_infrastructure(error: BaseException) -> bool:
    """Is a server away, or a connection lost? Then the same again, a little later, may well succeed."""
    status = getattr(error, "get_http_status_code", None)  # MLflow's, also of what its server could not do
    at_fault = callable(status) and status() >= 500
    return at_fault or isinstance(error, (ConnectionError, TimeoutError)) or _is_one_of(_AWAY, error)


def is_full_disk(error: BaseException) -> bool:
    """However the library that wrote calls it."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT) or any(words in str(error) for words in _FULL)
    writes = isinstance(error, RuntimeError) or _is_of_a_library(error)
    return writes and any(words in str(error) for words in _FULL)


def full_disk(path: Path, written_bytes: int = 0) -> OSError:
    """Nothing more can be written at `path`: what is free there, what was needed at least, what to do."""
    place = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    free_gib = shutil.disk_usage(place).free / GIB
    needed = f", more than {written_bytes / GIB:.3g} GiB are needed" if written_bytes else ""
    remedy = "free space there, or have the folder elsewhere by a link, and run again"
    words = f"no space left on device: {free_gib:.3g} GiB are free{needed}; {remedy}"
    return OSError(errno.ENOSPC, words, str(path))


def _is_of_a_library(error: BaseException) -> bool:
    return _is_one_of(_NAMES, error)


def _is_one_of(names: set[str], error: BaseException) -> bool:
    return bool(names & {f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__})


def _text(error: BaseException) -> str:
    """On one line. Of an error that came with the trace of another process: the trace's last line."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename and "are free" in text:
        text = f"{error.filename}: {error.strerror}"
    if text.startswith("Caught ") and "Traceback" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())
