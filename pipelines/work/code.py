"""Which code made this: one digest of all the code that a result depends on.

    of_stage("train") -> str                  of the stage's module and of every module of ours that it imports
    digest("pipelines.cases.preparation")     of any module

Counted is what the code says, not how it is written: comments, docstrings and formatting make no difference, a changed
constant does. DVC cannot follow imports, so its stage `code` writes one digest a stage to data/code (always asked, a
second) and every other stage depends on that file. Case files, statistics, de-identified series, checkpoints and launch
certificates take theirs from here, too.
"""

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.work import project
from pipelines.work.writing import replacing

if TYPE_CHECKING:
    from grimp import ImportGraph

PACKAGES = ("flows", "pipelines", "model")
# Where and how a stage runs, and what it tells: never what comes out. The values in params.yaml DVC tracks itself.
WITHOUT_INFLUENCE = (
    "pipelines.work",
    "pipelines.params",
    "pipelines.release.audit",
    "pipelines.release.plan",
    "pipelines.release.tracking",
    "pipelines.training.launcher",
    "pipelines.training.certificates",
    "pipelines.training.curves",
    "model.certificate",
    "model.engine.hardware",
    "model.engine.progress",
    "model.engine.watch",
)
PICTURES = ("pipelines.pages",)  # of what pretraining learnt: not worth learning it again


def of_stage(stage: str) -> str:
    """Digest of the code behind a DVC stage: equal digests give equal outputs from equal inputs and parameters."""
    cut = WITHOUT_INFLUENCE + (PICTURES if stage == "pretrain" else ())
    return digest(f"pipelines.stages.{stage}", without=cut)


def of_program() -> str:
    """Digest of all of ours: which program this is, where no commit says so."""
    return digest(*_graph().modules, without=())


def digest(*roots: str, without: tuple[str, ...] = WITHOUT_INFLUENCE) -> str:
    """sha256 over the normalised source of these modules and of all of ours that they import, directly or not.

    `without`: modules, or whole packages, that are left out, and not followed further.
    """
    told = "\n".join(f"{name} {_normalised_sha256(name)}" for name in closure(*roots, without=without))
    return hashlib.sha256(told.encode()).hexdigest()


def closure(*roots: str, without: tuple[str, ...] = WITHOUT_INFLUENCE) -> list[str]:
    """Names of the modules that `digest` counts, sorted."""
    graph, found, due = _graph(), set[str](), list(roots)
    while due:
        name = due.pop()
        if name not in found:
            found.add(name)
            due += [each for each in graph.find_modules_directly_imported_by(name) if not _is_below(each, without)]
    return sorted(found)


def write(stages: tuple[str, ...]) -> None:
    """The digest of each stage to data/code/STAGE (DVC stage `code`)."""
    for stage in stages:
        with replacing(project.CODE / stage) as temporary:
            temporary.write_text(f"{of_stage(stage)}\n")


def changed(stages: tuple[str, ...]) -> set[str]:
    """Stages whose digest is not the one that DVC last saw."""
    files = {stage: project.root() / project.CODE / stage for stage in stages}
    return {stage for stage, file in files.items() if not file.is_file() or file.read_text().strip() != of_stage(stage)}


def normalised(source: str) -> str:
    """What a module says, without comments, docstrings and formatting, the same under every Python from 3.11 on."""
    told: list[str] = []
    _spell(ast.parse(source), told.append)
    return "".join(told)


def _spell(node: object, tell: Callable[[str], None]) -> None:
    """Tell a syntax tree as text, in pieces: every rank does it at its start. Empty fields are left out: newer Pythons
    add some."""
    if isinstance(node, ast.AST):
        tell(f"({type(node).__name__}")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("kind", "type_comment"):
                tell(f" {name}=")
                _spell(_without_docstring(node, value) if name == "body" else value, tell)
        tell(")")
    elif isinstance(node, list):
        for each in node:
            _spell(each, tell)
            tell(",")
    else:
        tell(repr(node))


def _without_docstring(owner: ast.AST, body: object) -> object:
    """A body without the string it begins with."""
    if isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and isinstance(body, list):
        first = body[0].value if isinstance(body[0], ast.Expr) else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return body[1:]
    return body


@cache
def _normalised_sha256(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    digest = hashlib.sha256(normalised(Path(spec.origin).read_text(encoding="utf-8")).encode())
    for file in sorted(Path(spec.origin).parent.iterdir()) if spec.submodule_search_locations else ():
        if file.suffix in (".html", ".css", ".js"):
            digest.update(file.read_bytes())  # templates, styles and scripts of pages are code, too
    return digest.hexdigest()


@cache
def _graph() -> "ImportGraph":
    import grimp

    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
