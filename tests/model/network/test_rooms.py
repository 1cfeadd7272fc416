"""The network knows no ranks: what is distributed is the engine's. import-linter cannot tell torch's parts apart."""

import ast
from pathlib import Path

import pytest

from model import network

FILES = sorted(Path(network.__path__[0]).glob("*.py"))


def imported(source: str) -> set[str]:
    """Every module that a file imports by name, with those that it may mean by `from PACKAGE import NAME`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def knows_ranks(names: set[str]) -> bool:
    return any(f"{name}.".startswith("torch.distributed.") for name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_file_of_the_network_imports_torch_distributed(path: Path) -> None:
    assert not knows_ranks(imported(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import torch.distributed as dist",
        "from torch import distributed",
        "from torch.distributed.tensor import DTensor",
    ],
)
def test_every_way_of_importing_it_is_seen(source: str) -> None:
    assert knows_ranks(imported(source))
