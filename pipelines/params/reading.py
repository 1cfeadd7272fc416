"""params.yaml's text -> its content -> the typed parameters. An error names each wrong key, value, bound and remedy."""

import io
import json
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError

from pipelines.params import fields
from pipelines.params.block import ParamsError
from pipelines.params.schema import Params
from pipelines.work.wording import did_you_mean, short


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate. Raises ParamsError naming every wrong key at once."""
    return check(read(Path(path)), str(path))


def read(path: Path) -> dict[str, Any]:
    """The file's content, not validated. Raises ParamsError if it is missing or holds no mapping."""
    return parse(text(path), str(path))


def text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        remedy = "; `medseg profile use smoke` writes one" if path.name == "params.yaml" else ""
        raise ParamsError(f"{path}: no such file{remedy}") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def parse(text: str, told_as: str, typ: str = "safe") -> dict[str, Any]:
    """`told_as`: what an error calls the text. `typ="rt"`: with its comments, for `dump`."""
    content = parse_value(text, told_as, typ)
    if not isinstance(content, dict):
        raise ParamsError(f"{told_as}: must hold a mapping of blocks ({', '.join(fields.known([]))})")
    return content


def parse_value(text: str, told_as: str, typ: str = "safe") -> Any:
    try:
        return deepcopy(_value(text)) if typ == "safe" else YAML(typ=typ, pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{told_as}: not valid YAML: {' '.join(str(error).split())}") from None


@lru_cache(maxsize=8)  # a command reads the same few files dozens of times, in 25 ms each
def _value(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)  # YAML 1.2: 1e-4 is a number


def dump(content: dict[str, Any]) -> str:
    """As text, with the comments that it was read with; what came without a style stands in blocks."""
    yaml, dumped = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.width = 4096  # no line is broken: what was one line stays one
    yaml.dump(content, dumped)
    return dumped.getvalue()


def in_block_style(content: Any) -> Any:
    """The content, changed to have every list and table on lines of its own, and comments one space behind."""
    if isinstance(content, CommentedMap | CommentedSeq):
        content.fa.set_block_style()
        for token in (token for tokens in content.ca.items.values() for token in tokens if token):
            token.start_mark = CommentMark(0)
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        in_block_style(value)
    return content


def check(content: dict[str, Any], told_as: str) -> Params:
    """The typed parameters. Raises ParamsError."""
    try:  # in JSON mode: strict types, yet lists become tuples
        return Params.model_validate_json(json.dumps(content, default=str))
    except TypeError:  # of a key that is a list or a mapping
        raise ParamsError(f"{told_as}: a key must be a word") from None
    except ValidationError as error:
        raise ParamsError("; ".join(_explain(told_as, detail) for detail in error.errors())) from None


def _explain(told_as: str, detail: Any) -> str:
    """One pydantic error in the house's form: key, value, bound, remedy."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "value_error":
        return f"{told_as}: {detail['ctx']['error']}"
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(location[-1], fields.known(location[:-1]))
        return f"{told_as}: unknown key {key} = {short(detail['input'])}{hint}; remove or rename it"
    if detail["type"] == "missing":
        return f"{told_as}: {key} is missing; add it{_purpose(location)}"
    bound = detail["msg"].replace("Input should be", "must be")
    return f"{told_as}: {key} = {short(detail['input'])}: {bound}; set {key} within that bound{_purpose(location)}"


def _purpose(location: list[str]) -> str:
    field = next((found for end in range(len(location), 0, -1) if (found := fields.find(location[:end]))), None)
    return f" ({field.description})" if field is not None and field.description else ""
