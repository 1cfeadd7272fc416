"""Changes of single settings, as `--set` takes them: `train.steps=20`, `train.patch_size.default=[32, 32, 32]`."""

from collections.abc import Sequence
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipelines.params import fields, reading
from pipelines.params.block import ParamsError

TOLD_AS = "params.yaml with --set"


def apply(text: str, wished: Sequence[str]) -> str:
    """The text of params.yaml with these settings changed and nothing else. Raises ParamsError if it is not valid."""
    content = reading.parse(text, "params.yaml", "rt")
    reading.check(content, "params.yaml")
    if not wished:
        return text
    for key, value in map(_parsed, wished):
        _set(content, key, value)
    reading.check(content, TOLD_AS)
    return reading.dump(content)


def _parsed(change: str) -> tuple[list[str], Any]:
    """The key's parts and the value. Raises ParamsError if params.yaml has no such setting."""
    key, separator, value = change.partition("=")
    told_as = f"--set {change:.80}"
    if not separator or not value.strip():
        raise ParamsError(f"{told_as} must be KEY=VALUE, as in --set train.steps=20")
    parts = key.strip().split(".")
    if fields.is_block(fields.require(parts, told_as).annotation):
        raise ParamsError(f"{told_as}: {key} is a block; set one of its keys: {', '.join(fields.known(parts))}")
    return parts, reading.in_block_style(reading.parse_value(value, told_as, "rt"))


def _set(content: Any, parts: list[str], value: Any) -> None:
    *above, name = parts
    for part in above:
        content = content.setdefault(part, CommentedMap())
    before = content.get(name)
    if isinstance(before, CommentedSeq) and isinstance(value, list):
        last = before.ca.items.pop(len(before) - 1, None)  # holds the comment lines that follow
        before[:] = value
        if last:
            before.ca.items[len(before) - 1] = last
    else:
        content[name] = value
