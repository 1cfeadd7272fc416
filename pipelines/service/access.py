"""What every endpoint is given: the service, and who asks. Without a token that counts: 401."""

import base64
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field

from pipelines.service.job import ServiceJob
from pipelines.service.queue import QueueFullError, Spool
from pipelines.service.settings import ServeSettings
from pipelines.service.tokens import Caller, Tokens


class Problem(BaseModel):
    """Any refusal."""

    detail: str = Field(description="what, which bound, what to do")


@dataclass
class Service:
    """`uploading`: uploads at this moment, by sender."""

    spool: Spool
    settings: ServeSettings
    tokens: Tokens
    uploading: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def upload(self, caller: Caller) -> Iterator[None]:
        """Raises QueueFullError if this caller uploads as much at once as it may have jobs."""
        bound = self.settings.limits.per_token if caller.limit is None else caller.limit
        if (count := self.uploading[caller.name]) >= bound:
            raise QueueFullError(f"{count} uploads of yours are under way, at most {bound} may; try again later", 5)
        self.uploading[caller.name] += 1
        try:
            yield
        finally:
            self.uploading[caller.name] -= 1


def tokens_of(folder: Path) -> Tokens:
    """Of the service whose folder it is."""
    return Tokens(folder / "tokens.json")


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(service_of)]
_bearer = HTTPBearer(auto_error=False, description="`medseg serve token add NAME` makes one")


def identified(
    request: Request, service: Here, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    token = credentials.credentials if credentials else _password(request.headers.get("authorization", ""))
    caller = service.tokens.caller(token)
    if caller is None:
        told = "a token is due: Authorization: Bearer TOKEN; whoever runs the service has one for you"
        raise HTTPException(401, told, {"WWW-Authenticate": "Bearer"})
    return caller


def _password(authorization: str) -> str:
    """Of HTTP's Basic, as clients send it that know users and passwords only; the user's name says nothing here."""
    scheme, _, coded = authorization.partition(" ")
    try:
        return base64.b64decode(coded, validate=True).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


Known = Annotated[Caller, Depends(identified)]


def only_known(request: Request) -> None:
    """A misspelt parameter is told, not left out."""
    known = {each.alias for each in request.scope["route"].dependant.query_params}
    if not set(request.query_params) <= known:
        told = ", ".join(sorted(known)) or "none"
        raise HTTPException(422, f"the query has a parameter that is not known here; known: {told}")


def own_job(service: Service, caller: Caller, job_id: str) -> ServiceJob:
    """Another one's is as if there were none: 404."""
    try:
        job = service.spool.job(job_id)
    except KeyError:
        job = None
    if job is None or job.sender != caller.name:
        raise HTTPException(404, "you have no such job; GET /segmentations lists yours")
    return job
