"""What each setting of params.yaml is and where its value comes from, for `medseg params show`."""

from typing import Any

from pipelines.params import fields, profiles, reading
from pipelines.params.schema import Params
from pipelines.work import project
from pipelines.work.wording import type_and_bound

OWN, DEFAULT = "own change", "default"
PLANNED = "auto"  # what may be left out is


def explain(key: str = "") -> list[dict[str, Any]]:
    """A row a setting: key, value, from, type, bound, description. `key`: of a block or a setting; empty: all.

    `from` is `base`, `profile NAME`, `own change` for a value that the nearest profile does not have, or `default`.
    Raises ParamsError if params.yaml is not valid, or has no such key.
    """
    if key:
        fields.require(key.split("."), "params show")
    path = project.root() / "params.yaml"
    content = reading.read(path)
    reading.check(content, "params.yaml")
    values, origins, schema = dict(fields.stated(content)), _origins(content), Params.model_json_schema()
    return [
        {
            "key": name,
            "value": values.get(name, PLANNED),
            "from": origins[name],
            **dict(zip(("type", "bound"), type_and_bound(_property(schema, name.split("."))), strict=True)),
            "description": field.description,
        }
        for name, field in fields.settings()
        if not key or f"{name}.".startswith(f"{key}.") or f"{key}.".startswith(f"{name}.")
    ]


def _origins(content: dict[str, Any]) -> dict[str, str]:
    """Where each setting's value comes from, by its key."""
    name, differing = profiles.nearest(content)
    own = dict(fields.stated(content))
    found = {key: OWN if key in own else DEFAULT for key, _ in fields.settings()}
    for file, stated in profiles.descent(name) if name else ():
        origin = file if file == profiles.BASE else f"profile {file}"
        found |= {key: origin for key, _ in fields.stated(stated) if key not in differing}
    return found


def _property(schema: dict[str, Any], parts: list[str]) -> dict[str, Any]:
    """The JSON schema of a setting."""
    node = schema
    for part in parts:
        if reference := node.get("$ref"):
            node = schema["$defs"][reference.rpartition("/")[2]]
        node = node["properties"][part]
    return node
