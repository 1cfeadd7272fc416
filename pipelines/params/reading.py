"""params.yaml as text -> the typed parameters, or one line that names every wrong key with value, bound and remedy."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.params import keys
from pipelines.params.schema import Params
from pipelines.work.hints import did_you_mean, short


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names each key, its value, the bound and the remedy."""


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate. Raises ParamsError naming every wrong key at once."""
    return check(read(Path(path)), str(path))


def read(path: Path, typ: str = "safe") -> dict[str, Any]:
    """The file's content as it stands; `typ="rt"`: with its comments. Raises ParamsError if it holds no mapping."""
    try:
        return parse(path.read_text(), str(path), typ)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; `medseg profile use smoke` writes one") from None


def parse(text: str, told_as: str, typ: str = "safe") -> dict[str, Any]:
    try:
        content = YAML(typ=typ, pure=True).load(text)  # YAML 1.2: 1e-4 is a number
    except YAMLError as error:
        raise ParamsError(f"{told_as}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{told_as}: must hold a mapping of blocks ({', '.join(keys.known([]))})")
    return content


def check(content: dict[str, Any], told_as: str) -> Params:
    """The typed parameters. `told_as`: what an error calls their source."""
    try:  # in JSON mode: strict types, yet lists become tuples
        return Params.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        raise ParamsError("; ".join(_explain(told_as, detail) for detail in error.errors())) from None


def _explain(told_as: str, detail: Any) -> str:
    """One pydantic error in the house's form: key, value, bound, remedy."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "value_error":
        return f"{told_as}: {detail['ctx']['error']}"
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(location[-1], keys.known(location[:-1]))
        return f"{told_as}: unknown key {key} = {short(detail['input'])}{hint}; remove or rename it"
    if detail["type"] == "missing":
        return f"{told_as}: {key} is missing; add it{_purpose(location)}"
    bound = detail["msg"].replace("Input should be", "must be")
    return f"{told_as}: {key} = {short(detail['input'])}: {bound}; set {key} within that bound{_purpose(location)}"


def _purpose(location: list[str]) -> str:
    field = next((found for end in range(len(location), 0, -1) if (found := keys.find(location[:end]))), None)
    return f" ({field.description})" if field is not None and field.description else ""
