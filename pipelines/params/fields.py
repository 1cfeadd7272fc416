"""params.yaml's keys, as the schema has them: `train.patch_size` is a setting, `train` a block.

A setting that is stated by source or structure is a table; `train.patch_size.brats` is an entry of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard, get_origin

from pydantic.fields import FieldInfo

from pipelines.params.block import Block, ParamsError
from pipelines.params.schema import Params
from pipelines.work.wording import did_you_mean


def is_block(annotation: Any) -> TypeGuard[type[Block]]:
    return isinstance(annotation, type) and issubclass(annotation, Block)


def is_table(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def inside(block: type[Block]) -> dict[str, FieldInfo]:
    """By the names that params.yaml uses."""
    return {field.alias or name: field for name, field in block.model_fields.items()}


def settings(block: type[Block] = Params, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting with its whole key, in the schema's order."""
    for name, field in inside(block).items():
        if is_block(field.annotation):
            yield from settings(field.annotation, f"{above}{name}.")
        else:
            yield above + name, field


def stated(content: Mapping[str, Any], block: type[Block] = Params, above: str = "") -> Iterator[tuple[str, Any]]:
    """The settings that a file states, with their values; also those that the schema does not know."""
    for name, value in content.items():
        field = inside(block).get(name)
        if field is not None and is_block(field.annotation) and isinstance(value, Mapping):
            yield from stated(value, field.annotation, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def find(parts: list[str]) -> FieldInfo | None:
    """The field of a block, a setting or a table's entry; None if there is none."""
    block: type[Block] = Params
    for depth, part in enumerate(parts, start=1):
        field = inside(block).get(part)
        if field is None or depth == len(parts):
            return field
        if not is_block(field.annotation):
            return field if is_table(field) and depth == len(parts) - 1 else None
        block = field.annotation
    return None


def require(parts: list[str], told_as: str) -> FieldInfo:
    """As `find`. Raises ParamsError, with the nearest key there is, of what an error calls `told_as`."""
    if field := find(parts):
        return field
    deepest = next(end for end in range(len(parts) - 1, -1, -1) if end == 0 or find(parts[:end]))
    told = f"{told_as}: unknown key {'.'.join(parts[: deepest + 1])}"
    raise ParamsError(told + did_you_mean(parts[deepest], known(parts[:deepest])))


def known(above: list[str]) -> list[str]:
    """What the block with this key may hold; nothing if it is no block."""
    field = find(above)
    block = Params if not above else field.annotation if field is not None else None
    return list(inside(block)) if is_block(block) else []
