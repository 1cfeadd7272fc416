"""Which folder of scans the project reads: data/raw, usually a link to where the scans really are."""

import os
from pathlib import Path

from pipelines import project


def link(folder: Path) -> None:
    """Make data/raw a link to `folder`.

    Raises ValueError when `folder` is not a folder, or data/raw already holds files of its own.
    """
    folder = folder.resolve()
    raw = project.root() / project.RAW
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of scans; give --data a folder that holds the sources' folders")
    if raw.resolve() == folder:
        return
    if raw.is_dir() and not raw.is_symlink():
        if any(raw.iterdir()):
            raise ValueError(f"{raw} is a folder with scans of its own; move it away before linking {folder} there")
        raw.rmdir()
    raw.parent.mkdir(parents=True, exist_ok=True)
    temporary = raw.with_name(f".{raw.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder, target_is_directory=True)
    temporary.replace(raw)


def changed() -> bool:
    """Do the files below data/raw differ from the inventory? New ones are read once, unchanged ones only looked at."""
    import pyarrow.parquet as pq

    from pipelines import inventory

    listed = project.root() / project.INVENTORY
    if not listed.is_file():
        return True
    return not pq.read_table(listed, schema=inventory.SCHEMA).equals(inventory.current())
