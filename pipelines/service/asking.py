"""What may be asked of the service, checked before anything is received."""

from typing import Annotated

from fastapi import Header, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field

from pipelines.service.job import Ask
from pipelines.service.serve_settings import KINDS, ServeSettings
from pipelines.work.wording import did_you_mean

_KIND = "|".join(KINDS)

To = Annotated[
    str, Query(pattern=f"^({_KIND})(,({_KIND})){{0,6}}$", description="kinds of results, separated by commas")
]
Modality = Annotated[
    str, Query(pattern="^[A-Za-z0-9_,-]{0,64}$", description="what the scans show, where names and headers do not say")
]
Deliver = Annotated[
    str, Query(pattern="^[A-Za-z0-9_.-]{0,64}$", description="a destination of serve.yaml that DICOM results go to")
]
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        pattern="^[!-~]{0,128}$",
        description="what you ask again under the same key is the same job",
    ),
]


class Fetch(BaseModel):
    """A study or series to be fetched from a PACS, instead of an upload."""

    model_config = ConfigDict(extra="forbid")

    dicomweb: str = Field(min_length=1, max_length=64, description="name of a destination with DICOMweb")
    study: str = Field(pattern=r"^[0-9][0-9.]{0,63}$", description="Study Instance UID")
    series: str = Field(default="", pattern=r"^([0-9][0-9.]{0,63})?$", description="Series Instance UID; empty: all")


def checked_ask(settings: ServeSettings, to: str, modality: str, deliver: str) -> Ask:
    """Raises HTTPException 422."""
    kinds = tuple(dict.fromkeys(to.split(",")))
    if "sr" in kinds and not {"dicom-seg", "dicom-labelmap"} & set(kinds):
        raise HTTPException(422, "to=sr measures the segments of a SEG; ask for to=dicom-seg,sr")
    check_destination(settings, deliver)
    if deliver and not {"dicom-seg", "dicom-labelmap", "rtstruct", "sr"} & set(kinds):
        raise HTTPException(422, "deliver sends DICOM results; ask for to=dicom-seg,sr")
    return Ask(kinds, modality=modality, deliver=deliver)


def check_destination(settings: ServeSettings, name: str) -> None:
    if name and name not in settings.destinations:
        raise HTTPException(422, f"no destination has that name{did_you_mean(name, settings.destinations)}")
