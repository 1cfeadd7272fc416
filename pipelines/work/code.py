"""Which code made this: one digest of all the code that a result depends on.

    of_stage("train") -> str                  of the stage's module and of every module of ours that it imports
    digest("pipelines.cases.preparation")     of any module

Counted is what the code says, not how it is written: comments, docstrings and formatting make no difference, a changed
constant does. DVC cannot follow imports, so its stage `code` writes one digest a stage to data/code (always asked, half
a second) and every other stage depends on that file. Case files, statistics, de-identified series, checkpoints and
launch certificates take theirs from here, too. No module is imported for it, and what a source says is remembered.
"""

import ast
import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.work import project
from pipelines.work.cache import Cache
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
    modules = closure(*roots, without=without)
    if due := [name for name in modules if name not in _known]:
        with Cache(_memory(), "code", ("sha256",)) as memory:
            _known.update({name: _normalised_sha256(name, memory) for name in due})
    told = "\n".join(f"{name} {_known[name]}" for name in modules)
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


_known: dict[str, str] = {}  # by module, in this process


def _memory() -> Path:
    """Where the project, if there is one, remembers what sources say."""
    return project.state_folder() / "digests.sqlite" if project.find() else Path(":memory:")


def _normalised_sha256(module: str, memory: Cache) -> str:
    file = _file(module)
    source = file.read_bytes()
    key = hashlib.sha256(_own_source() + source).hexdigest()
    if found := memory.get(key):
        said = str(found[0])
    else:
        said = hashlib.sha256(normalised(source.decode()).encode()).hexdigest()
        memory.put(key, said)
    beside = sorted(file.parent.iterdir()) if file.name == "__init__.py" else []
    pages = [each.read_bytes() for each in beside if each.suffix in (".html", ".css", ".js")]  # they are code, too
    return said if not pages else hashlib.sha256(said.encode() + b"".join(pages)).hexdigest()


def _file(module: str) -> Path:
    package, *names = module.split(".")
    file = _package(package).joinpath(*names)
    return file / "__init__.py" if file.is_dir() else file.with_suffix(".py")


@cache
def _package(name: str) -> Path:
    spec = find_spec(name)  # of a module within, it would import the package
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


@cache
def _own_source() -> bytes:
    """What says how sources are normalised."""
    return Path(__file__).read_bytes()


@cache
def _graph() -> "ImportGraph":
    import grimp

    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
