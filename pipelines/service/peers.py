"""Other machines as serve.yaml names them, and what goes wrong with them, in words that name no patient."""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# PS3.5 6.2: printable, no backslash, no space around.
AETitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Port = Annotated[int, Field(ge=1, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
OURS = "MEDSEG"


class PeerRefusedError(ValueError):
    """Trying again changes nothing: a peer's rules, a token, a UID."""


class PeerBusyError(OSError):
    """Trying again may help: not reachable, no room, too slow."""


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WebPeer(_Block):
    """A PACS with DICOMweb."""

    dicomweb: str = Field(
        pattern=r"^https?://[^\s/@?#]+(/[^\s?#]*)?$",
        description="address of its DICOMweb service, what stands before /studies; without a password",
    )
    token_file: Path | None = Field(
        default=None,
        description="file, readable by its owner alone, of what goes into the Authorization header: a bearer token, or "
        "the whole value, as in `Basic dXNlcjpwYXNz`; without one nothing is sent",
    )
    ca_file: Path | None = Field(
        default=None, description="certificates (PEM) that its own is checked against, instead of the public ones"
    )
    timeout_s: Seconds = Field(default=600, description="seconds that one delivery or one fetch may take as a whole")

    @property
    def told_as(self) -> str:
        return self.dicomweb


class NodePeer(_Block):
    """A DICOM node that takes C-STORE."""

    ae_title: AETitle = Field(description="its AE title, at most 16 characters")
    host: str = Field(pattern=r"^[A-Za-z0-9._:-]+$", description="its name or address")
    port: Port = Field(description="its DICOM port; 104 and 11112 are usual")
    timeout_s: Seconds = Field(default=600, description="seconds that one delivery may take as a whole")

    @property
    def told_as(self) -> str:
        return f"{self.ae_title} at {self.host}:{self.port}"


Destination = WebPeer | NodePeer


class DimseSettings(_Block):
    """The receiver of C-STORE."""

    ae_title: AETitle = Field(default=OURS, description="our AE title; who calls another one is rejected")
    host: str = Field(default="127.0.0.1", description="address to listen at; 0.0.0.0 is every one of this machine")
    port: int = Field(default=11112, ge=0, le=65_535, description="port to listen at; 0: any that is free")
    callers: tuple[AETitle, ...] = Field(
        min_length=1, description="AE titles that may send; they are no secret, so name `networks` too"
    )
    networks: tuple[str, ...] = Field(
        default=(), description="addresses and networks that may connect, as in 10.1.2.0/24; none: all"
    )
    complete_s: Seconds = Field(
        default=30, description="seconds without an object after which a series or study is complete"
    )
    together: Literal["series", "study"] = Field(
        default="series", description="what one job is; `study` where the model needs several sequences as channels"
    )
    deliver: str = Field(default="", description="name of the destination that results go to; none: they are kept here")
    to: tuple[str, ...] = Field(default=("dicom-seg", "sr"), min_length=1, description="kinds of results")
    model: str = Field(default="", description="which version; none: the service's")
    modality: str = Field(
        default="", description="what all series show, whatever their headers say; none: the headers'"
    )
    associations: int = Field(
        default=10, ge=1, le=1000, description="associations at once; more are told to come later"
    )
    unfinished: int = Field(default=100, ge=1, le=100_000, description="series or studies that may be arriving at once")
    idle_s: Seconds = Field(default=30, description="seconds of silence after which an association is broken off")
    object_bytes: int = Field(default=2 << 30, ge=1, description="of one object; the association is broken off beyond")
    series_bytes: int = Field(default=8 << 30, ge=1, description="of one series or study; it is refused whole beyond")
    series_objects: int = Field(default=20_000, ge=1, description="objects of one series or study; likewise")

    @field_validator("networks")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ipaddress.ip_network(network)
        return value
