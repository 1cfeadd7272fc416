"""Our own modules beside an export, as source: the code that a version was exported with goes where it goes.

The package is on no index; and a later one may preprocess otherwise.
"""

import shutil
from importlib.metadata import distribution, version
from importlib.util import find_spec
from pathlib import Path

from pipelines.work import code

_HERE = Path(__file__).parents[2]  # the source checkout, or where packages are installed
# What the carried modules import of others' packages, beside what runs the network.
PACKAGES = ("numpy", "nibabel", "pydantic", "pydantic-settings", "psutil", "pyyaml", "ruamel.yaml")


def carry(folder: Path, *roots: str) -> list[str]:
    """Write these modules, and all of ours that they import, below `folder`; their names."""
    names = code.closure(*roots, without=())
    while missing := {name.rpartition(".")[0] for name in names} - {"", *names}:  # a package is imported with a module
        names = code.closure(*names, *missing, without=())
    for name in names:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin)
        target = folder / source.relative_to(_HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        for table in source.parent.glob("*.yaml"):
            shutil.copyfile(table, target.with_name(table.name))
    return names


def requirements(*others: str) -> dict[str, str]:
    """Package -> the version here, of PACKAGES and `others`."""
    return {name: version(name).partition("+")[0] for name in (*PACKAGES, *others)}


def licence() -> str:
    """The text of ours. Raises ValueError if it is nowhere: without it nothing may be passed on."""
    beside = _HERE / "LICENSE"
    text = beside.read_text() if beside.is_file() else distribution("medsegformer").read_text("licenses/LICENSE")
    if not text:
        raise ValueError(f"{beside}: no such file, and none in the installed package; install it again")
    return text
