"""Profiles: what a kind of run has otherwise than profiles/base.yaml, composed into the params.yaml that DVC reads.

    profiles/base.yaml      every key
    profiles/NAME.yaml      what NAME has otherwise; `extends: OTHER` builds on that profile instead of on the base

A project's own lie in its folder `profiles`; the others come with the program. Of one name, the project's counts.

Blocks are merged key by key. Lists, and tables that are stated by source or structure (patch_size, spacing_mm,
normalisation, tiny_mm3, floors), are replaced whole: entries for another profile's sources would only mislead. That is
why the merge is a recursion of ours and not OmegaConf's, which merges every table and drops the comments.
"""

import shutil
import time
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from pipelines.params import changes, fields, reading
from pipelines.params.block import Block, ParamsError
from pipelines.params.schema import Params
from pipelines.work import project
from pipelines.work.wording import did_you_mean
from pipelines.work.writing import replacing

BASE = "base"
EXTENDS = "extends"
HEAD = """\
# Profile {name} = {files}. Change what you like, here or
# with `medseg run --set KEY=VALUE`; `medseg params show` says what each key means and where its value comes from.
"""


def names() -> list[str]:
    return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")} - {BASE})


def known(name: str) -> str:
    """The name itself. Raises ValueError with the known ones when it is none of them."""
    if name not in names():
        raise ValueError(f"no profile {name!r}; known: {', '.join(names())}")
    return name


def settings(name: str) -> Params:
    """A profile's parameters, typed. Raises ParamsError."""
    return reading.check(merged(descent(known(name))), f"profiles/{name}.yaml")


def compose(name: str) -> str:
    """The whole params.yaml of a profile, as text. Raises ParamsError.

    Its form is the one `dvc exp run -S` dumps, so that this changes the line it means and no other.
    """
    settings(name)
    files = descent(name)
    head = takewhile(lambda line: line.startswith("#"), _file(name).read_text().splitlines(keepends=True))
    told = HEAD.format(name=name, files=" + ".join(f"profiles/{each}.yaml" for each, _ in files))
    return told + "".join(head) + reading.dump(reading.in_block_style(merged(files)))


def descent(name: str) -> list[tuple[str, CommentedMap]]:
    """What a profile is composed of, the base first: (name, what its file states). Raises ParamsError."""
    files: list[tuple[str, CommentedMap]] = []
    while True:
        if name in (each for each, _ in files):
            raise ParamsError(f"profiles/{name}.yaml extends itself, by way of profiles/{files[0][0]}.yaml")
        content = _parsed(reading.text(_file(name)), f"profiles/{name}.yaml")
        parent = content.get(EXTENDS, BASE)
        files.insert(0, (name, content))
        if name == BASE:
            return files
        if parent not in (BASE, *names()):
            hint = did_you_mean(str(parent), names())
            raise ParamsError(f"profiles/{name}.yaml: {EXTENDS} {parent!r}: no such profile{hint}")
        name = parent


def merged(files: Sequence[tuple[str, CommentedMap]]) -> CommentedMap:
    """One file over the other; not validated."""
    whole = CommentedMap()
    for _, content in files:
        _put_over(whole, content, Params)
    whole.pop(EXTENDS, None)
    return whole


def use(name: str | None, wished: Sequence[str] = ()) -> Path | None:
    """Make params.yaml the profile (None: leave it as it is) with the `wished` changes; whole or not at all.

    Returns where a params.yaml of one's own (its values are no profile's) was kept, or None. Raises ParamsError.
    """
    target, text = _target(), proposed(name, wished)
    if target.exists() and _present() == reading.parse(text, str(target)):
        return None
    kept = _keep(target) if name and target.exists() and in_use() is None else None
    with replacing(target) as temporary:
        temporary.write_text(text)
    return kept


def proposed(name: str | None, wished: Sequence[str] = ()) -> str:
    """params.yaml as `use` would make it. Raises ParamsError if that is no valid one."""
    return changes.apply(compose(name) if name else reading.text(_target()), wished)


def outlook(name: str | None, wished: Sequence[str] = ()) -> Params:
    """The parameters after `use`, typed. Raises ParamsError."""
    return reading.check(reading.parse(proposed(name, wished), "params.yaml"), "params.yaml")


def in_use() -> str | None:
    """The profile that params.yaml equals by its values, or None."""
    name, differing = nearest(_present() or {})
    return None if differing else name


def nearest(present: dict[str, Any]) -> tuple[str | None, set[str]]:
    """The profile that differs in the fewest keys, and these keys. A profile that cannot be read is none."""
    own, found = dict(fields.stated(present)), {}
    for name in names():
        try:
            theirs = dict(fields.stated(merged(descent(name))))
        except ParamsError:
            continue
        found[name] = {key for key in own.keys() | theirs.keys() if own.get(key, ...) != theirs.get(key, ...)}
    best = min(found, key=lambda name: len(found[name]), default=None)
    return best, found[best] if best else set()


def _put_over(below: CommentedMap, above: CommentedMap, block: type[Block]) -> None:
    """What `above` states into `below`, with its comments."""
    for name, value in above.items():
        field = fields.inside(block).get(name)
        if field is not None and fields.is_block(field.annotation) and isinstance(value, CommentedMap):
            if not isinstance(below.get(name), CommentedMap):
                below[name] = CommentedMap()
            _put_over(below[name], value, field.annotation)
        else:
            below[name] = value
            below.ca.items.pop(name, None)
        if name in above.ca.items:
            below.ca.items[name] = above.ca.items[name]


@lru_cache
def _parsed(text: str, told_as: str) -> CommentedMap:
    """The base stands under every profile and takes 50 ms. What is merged shares its values and changes none."""
    content = reading.parse(text, told_as, "rt")
    assert isinstance(content, CommentedMap)
    return content


def _target() -> Path:
    return project.root() / "params.yaml"


def _file(name: str) -> Path:
    files = [folder / f"{name}.yaml" for folder in _folders()]
    return next((file for file in files if file.is_file()), files[-1])


def _folders() -> list[Path]:
    """The project's own first, if here is one."""
    here = project.find()
    return [*([here / "profiles"] if here else []), project.SHIPPED / "profiles"]


def _present() -> dict[str, Any] | None:
    """What params.yaml holds, if it is there and can be read."""
    try:
        return reading.read(_target())
    except ParamsError:
        return None


def _keep(file: Path) -> Path:
    kept = project.state_folder() / f"params-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
    shutil.copyfile(file, kept)
    return kept
