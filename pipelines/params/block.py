"""What every block of params.yaml is: frozen, strict, without unknown keys, NaN or infinity; and how one is refused."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ParamsError(ValueError):
    """params.yaml cannot be used; the message names each key, its value, the bound and the remedy."""
