"""What a GPU was measured to do, and whether a certificate may count with it. Imports no torch.

write(calibration, folder) -> Path             FOLDER/calibration-GPU.json, by `medseg certify --calibrate`
find(key, precision, versions, folder)          what a later certificate for that GPU counts with, or why not
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from model.certificate.document import CALIBRATION
from model.certificate.timing import PLANNED, Rates

ASSUMED = "assumed: this kind of GPU was not calibrated (`medseg certify --calibrate` on one)"


@dataclass(frozen=True)
class Versions:
    """What a measurement holds for. `torch`: its public version; `driver`: empty where there is none."""

    torch: str
    driver: str

    def __str__(self) -> str:
        return f"PyTorch {self.torch}, driver {self.driver or 'unknown'}"


@dataclass(frozen=True)
class PartTiming:
    """A part of the network, forward and backward; `times` of it are in a micro-step (0: a probe of a rate).

    `guessed_s`: by the model at PLANNED; `calibrated_s`: at those found. `measured_s` is None where it
    was not, and `note` says why.
    """

    name: str
    times: int
    guessed_s: float
    calibrated_s: float
    measured_s: float | None
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """`rates`: by the names of `Rates`, those that were measured, whose network parts take together what was measured.
    `unexplained`: how many times as long these parts took as at the rates of the probes alone; it is in `rates`."""

    gpu: str  # its key
    card: str  # as the driver names it
    versions: Versions
    precision: str
    made: str
    rates: Mapping[str, float]
    unexplained: float
    parts: tuple[PartTiming, ...]
    notes: tuple[str, ...] = ()

    def applied(self) -> Rates:
        """The rates for a certificate: PLANNED where nothing was measured."""
        known = {field.name for field in fields(Rates)}
        measured: dict[str, Any] = {name: value for name, value in self.rates.items() if name in known}
        return replace(PLANNED, **measured)

    def __str__(self) -> str:
        return f"measured on {self.card} on {self.made} ({self.versions}, {self.precision})"


def write(calibration: Calibration, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = file_of(calibration.gpu, folder)
    target.write_text(json.dumps(asdict(calibration), indent=1) + "\n")
    return target


def file_of(key: str, folder: Path) -> Path:
    return folder / f"{CALIBRATION}{key}.json"


def read(path: Path) -> Calibration:
    """Raises ValueError if the file is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        parts = tuple(PartTiming(**part) for part in content.pop("parts"))
        versions, notes = Versions(**content.pop("versions")), tuple(content.pop("notes"))
        return Calibration(**content, parts=parts, versions=versions, notes=notes)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path} is no calibration ({error}); make it anew with `medseg certify --calibrate`"
        ) from None


def find(key: str, precision: str, versions: Versions, folder: Path) -> tuple[Calibration | None, str]:
    """The calibration of this GPU, and what a certificate says of its rates: where from, or why not from there.

    One that was made with another PyTorch, driver or precision is told and not used. `versions.driver` empty: of a
    machine without that GPU, whose driver says nothing.
    """
    path = file_of(key, folder)
    if not path.is_file():
        return None, ASSUMED
    found = read(path)
    faults = [
        f"{name} {then}, here is {now}"
        for name, then, now in (
            ("PyTorch", found.versions.torch, versions.torch),
            ("driver", found.versions.driver, versions.driver or found.versions.driver),
            ("precision", found.precision, precision),
        )
        if then != now
    ]
    if faults:
        return None, f"assumed: {path.name} is not used, it was made with {'; '.join(faults)}; calibrate again"
    return found, str(found)
