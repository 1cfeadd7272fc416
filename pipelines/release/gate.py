"""May a version be released? Compare its held-out Dice with the floors and with the version released now.

Reads nothing and writes nothing: flows/promotion.py brings the figures and keeps the decision.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 1e-9  # so that 0.83 against 0.85 with a drop of 0.02 allowed is not refused by rounding


@dataclass(frozen=True)
class Verdict:
    """`reasons`: one sentence for each figure that refuses; none when accepted."""

    accepted: bool
    reasons: tuple[str, ...]


def decide(
    dice: Mapping[str, float | None],
    floors: Mapping[str, float],
    max_drop: float,
    present_holder_dice: Mapping[str, float | None] | None,
) -> Verdict:
    """Refuse a version with a structure below its floor, too far below the present holder, or without a figure.

    `dice`: structure or region -> mean Dice in [0, 1]; None and NaN count as missing. `floors`: by the same names, with
    a `default`. Every structure named here must have been measured, and every one that the holder was measured on.
    """
    if not dice:
        return Verdict(False, ("no structure has a Dice; evaluate the version before promoting it",))
    holder = {name: value for name, value in (present_holder_dice or {}).items() if not _missing(value)}
    expected = [*dice, *(name for name in (*floors, *holder) if name not in dice and name != "default")]
    reasons: list[str] = []
    for name in dict.fromkeys(expected):
        value = dice.get(name)
        if value is None or _missing(value):
            reasons.append(_no_figure(name, floors, holder))
            continue
        floor = floors.get(name, floors["default"])
        if value < floor - TOLERANCE:
            reasons.append(
                f"{name}: Dice {value:.3f} is below its floor {floor:.3f}; train longer or with more scans of it, "
                f"or set promote.floors.{name} in params.yaml"
            )
        before = holder.get(name)
        if before is not None and value < before - max_drop - TOLERANCE:
            reasons.append(
                f"{name}: Dice {value:.3f} is {before - value:.3f} below the present holder's {before:.3f}, more than "
                f"promote.max_drop {max_drop:.3f}; train longer, or keep the present holder"
            )
    return Verdict(not reasons, tuple(reasons))


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)


def _no_figure(name: str, floors: Mapping[str, float], holder: Mapping[str, float | None]) -> str:
    floor = floors.get(name, floors["default"])
    also = f" and the present holder reaches {holder[name]:.3f}" if name in holder else ""
    return (
        f"{name}: no Dice was measured, its floor is {floor:.3f}{also}; hold out scans annotated with it, "
        f"or take it out of promote.floors in params.yaml"
    )
