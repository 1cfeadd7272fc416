"""How the code is laid out: short files, short functions, one name for one thing. The arrows: pyproject.toml."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.attacks import ATTACKS
from tests.conftest import REPOSITORY

PACKAGES = ("flows", "pipelines", "model")
LONGEST_FILE, LONGEST_FUNCTION, USUAL_FUNCTION = 300, 50, 25  # lines; the last is the 95th percentile
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def trees() -> dict[Path, ast.Module]:
    files = (path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py")))
    return {path.relative_to(REPOSITORY): ast.parse(path.read_text()) for path in files}


def functions() -> Iterator[tuple[str, int]]:
    """Name and length in lines, docstring included."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                assert node.end_lineno is not None
                yield f"{path}: {node.name}", node.end_lineno - node.lineno + 1


def test_files_are_short() -> None:
    lines = {path: len((REPOSITORY / path).read_text().splitlines()) for path in trees()}
    assert {path: count for path, count in lines.items() if count > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    lengths = list(functions())
    assert [(name, length) for name, length in lengths if length > LONGEST_FUNCTION] == []
    assert np.percentile([length for _, length in lengths], 95) <= USUAL_FUNCTION


def test_no_two_classes_share_a_name() -> None:
    defined: dict[str, list[str]] = {}
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, []).append(str(path))
    assert {name: places for name, places in defined.items() if len(places) > 1} == {}


def test_no_module_is_named_like_a_public_function() -> None:
    """`from house import plan` must leave no doubt."""
    modules = Counter(path.stem for path in trees())
    named = [
        f"{path}: {node.name}"
        for path, tree in trees().items()
        for node in tree.body
        if isinstance(node, Function)
        and not node.name.startswith("_")
        and node.name in modules
        and node.name != path.stem
    ]
    assert named == []


def test_benchmarks_import_what_there_is() -> None:
    """Of ours; what they are compared with need not be there."""
    wanted = [
        (path.name, node.module, alias.name)
        for path in sorted((REPOSITORY / "benchmarks").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES
        for alias in node.names
    ]
    assert len(wanted) > 100
    assert [each for each in wanted if each[2] not in bound_in(each[1])] == []


@cache
def bound_in(module: str) -> set[str]:
    """Names that `from MODULE import` can have: submodules, and what the module's own lines bind."""
    folder = REPOSITORY / module.replace(".", "/")
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    found = {path.stem for path in folder.iterdir()} if folder.is_dir() else set[str]()
    for node in ast.walk(ast.parse(file.read_text())) if file.is_file() else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def test_an_attack_names_tests_that_exist() -> None:
    for _, names in ATTACKS.values():
        for file, _, function in (name.partition("::") for name in names):
            assert (REPOSITORY / file).exists(), file
            assert not function or f"def {function}(" in (REPOSITORY / file).read_text(), function
