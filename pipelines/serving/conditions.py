"""Under which conditions a network's figures were measured, and so under which it is served.

    Conditions.of_here(0.5).to_json()                     what evaluation writes into metrics.json
    Conditions.from_json(record).checked(other_code)      what prediction demands of it, before it loads the weights

A version's Dice says something of its label maps only if both come from the same windows, the same precision and the
same code. The digest is of all that lies between a file and a label map: reading, preprocessing, network, windows, the
way back to the file's grid; not of training, of metrics, or of names.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from model.engine.numerics import native
from pipelines.work import code

log = logging.getLogger(__name__)

ROOT = "pipelines.serving.segmenter"
# What it imports beside its way from file to label map: records, names and tables, loading of weights that a checksum
# covers, and this file.
BESIDE = (
    "model.data",
    "model.weights",
    "model.weights_file",
    "pipelines.scans.manifest",
    "pipelines.scans.contracts",
    "pipelines.scans.vocabulary",
    "pipelines.scans.structure",
    "pipelines.serving.footprint",
    __name__,
)
PRECISIONS = {"cuda": torch.float16, "cpu": torch.bfloat16}  # bfloat16: on CPU about 1.5 times as fast as float32
_DEVICES = {"float16": "a GPU", "bfloat16": "a CPU", "float32": "a CPU without 16-bit instructions"}


@dataclass(frozen=True)
class Conditions:
    """`overlap`: of neighbouring windows, a share of their size. `precision`: a floating-point type of torch. `flips`:
    axes (0 to 2: D, H, W) that are mirrored in every combination; the answer is the mean of all views."""

    overlap: float
    precision: str
    code_sha256: str
    flips: tuple[int, ...] = ()

    @staticmethod
    def of_here(overlap: float, flips: Sequence[int] = ()) -> "Conditions":
        """Those of this machine and of the code that lies here."""
        return Conditions(overlap, _name(precision_of(device())), code_here(), tuple(flips))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> "Conditions":
        """Raises ValueError if it is no record of this kind."""
        try:
            flips = tuple(int(axis) for axis in record.get("flips", ()))  # none in records older than they
            found = Conditions(float(record["overlap"]), str(record["precision"]), str(record["code_sha256"]), flips)
        except (KeyError, TypeError, ValueError):
            raise ValueError("the version's conditions are not readable; evaluate and register it again") from None
        if not 0 <= found.overlap < 1:
            raise ValueError(f"the version's overlap {found.overlap:g} is outside [0, 1); evaluate and register again")
        if len(set(flips)) < len(flips) or not set(flips) <= {0, 1, 2}:
            raise ValueError(
                f"the version's flips {flips} are not distinct axes of 0, 1, 2; evaluate and register again"
            )
        return found

    def checked(self, other_code: bool = False) -> "Conditions":
        """These, if the code here is that of the evaluation. Raises ValueError otherwise, unless `other_code`.

        Another precision, that of another kind of device, is told and not refused.
        """
        if self.code_sha256 != code_here():
            told = f"evaluated with other code ({self.code_sha256[:12]}) than lies here ({code_here()[:12]})"
            if not other_code:
                raise ValueError(
                    f"this version was {told}: its Dice does not hold for what would be written; go back to the "
                    "version's commit, or evaluate and register it here (`medseg run`), or accept it with --other-code"
                )
            log.warning("this version was %s; its Dice does not hold for this", told)
        if self.precision != (here := _name(precision_of(device()))):
            log.warning(
                "evaluated in %s (%s), here it runs in %s: a voxel at a border may differ",
                self.precision, _DEVICES.get(self.precision, "another device"), here,
            )  # fmt: skip
        return self


def device() -> torch.device:
    """The first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def precision_of(where: torch.device) -> torch.dtype:
    """What networks run in there, in evaluation and in prediction."""
    return native(PRECISIONS[where.type], where)


@cache
def code_here() -> str:
    return code.digest(ROOT, without=code.WITHOUT_INFLUENCE + BESIDE)


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
