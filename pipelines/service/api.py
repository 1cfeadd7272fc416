"""The service over HTTP: what a client may ask. Nothing without a token but /health and /ready.

application(Service(spool, settings, tokens))      an ASGI application; its OpenAPI document is GET /openapi.json
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

from pipelines.service import monai_label
from pipelines.service.access import Here, Known, Problem, Service, only_known, own_job
from pipelines.service.answers import MEDIA_TYPES, ToldJob, told_job
from pipelines.service.asking import Deliver, Fetch, Key, Modality, To, check_destination, checked_ask
from pipelines.service.fetching import fetched
from pipelines.service.metrics import Counted, exposition
from pipelines.service.monai_sessions import Sessions
from pipelines.service.page import routes
from pipelines.service.queue import QueueFullError
from pipelines.service.readiness import Readiness, readiness
from pipelines.service.settings import KINDS
from pipelines.service.tokens import Caller
from pipelines.service.uploads import received

FETCHES = 4  # studies that are fetched at once: each holds a thread
FETCH_BYTES = 64 << 10  # of the JSON that asks for one
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {"schema": Fetch.model_json_schema()},
    },
}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What an endpoint may answer but success."""
    return {code: {"model": Problem} for code in (401, 422, *codes)}


def application(service: Service) -> FastAPI:
    app = FastAPI(
        title="MedSegFormer", version="1", docs_url=None, redoc_url=None, openapi_url=None,
        description="Segmentation of 3-D scans: send one, ask how far it is, fetch the results.",
    )  # fmt: skip
    app.state.service = service
    app.state.fetches = anyio.CapacityLimiter(FETCHES)
    app.state.sessions = Sessions()
    app.add_exception_handler(QueueFullError, _full)
    app.add_exception_handler(RequestValidationError, _wrong)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_middleware(Counted)
    for each in (router, open_router, monai_label.router, routes.router):
        app.include_router(each)
    return app


router, open_router = APIRouter(dependencies=[Depends(only_known)]), APIRouter()


@router.post(
    "/segmentations", status_code=202, openapi_extra={"requestBody": _BODY},
    responses=refusals(400, 408, 413, 415, 422, 429, 502, 503),
)  # fmt: skip
async def ask(
    request: Request, response: Response, service: Here, caller: Known, to: To = "nifti", modality: Modality = "",
    deliver: Deliver = "", key: Key = "",
) -> ToldJob:  # fmt: skip
    """Send a scan: NIfTI, DICOM or a zip as the body, a form of several files, or JSON that names a study of a PACS."""
    wanted = checked_ask(service.settings, to, modality, deliver)
    known = await run_in_threadpool(service.spool.known, caller.name, key) if key else None
    if known is None:
        if _is_json(request):
            folder = await _fetched(request, service, caller)
        else:
            folder, fields = await received(request, service, caller)
            if fields:
                await run_in_threadpool(shutil.rmtree, folder, True)
                raise HTTPException(
                    422, "the form has a field that is no file; to, modality, deliver go into the query"
                )
        known = await run_in_threadpool(service.spool.accept, folder, wanted, caller.name, key, caller.limit)
    response.headers["Location"] = f"/segmentations/{known}"
    return told_job(await run_in_threadpool(own_job, service, caller, known))


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def _fetched(request: Request, service: Service, caller: Caller) -> Path:
    """A folder of the queue's with what a PACS holds."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > FETCH_BYTES:
            raise HTTPException(413, f"JSON of more than {FETCH_BYTES} bytes; scans come as files")
    try:
        wanted = Fetch.model_validate(json.loads(body))
    except (ValueError, ValidationError, RecursionError):
        told = 'JSON must be {"dicomweb": NAME, "study": UID, "series": UID}; scans come as application/octet-stream'
        raise HTTPException(422, told) from None
    check_destination(service.settings, wanted.dicomweb)
    peer = service.settings.destinations[wanted.dicomweb]
    return await fetched(request, service, caller, peer, wanted.study, wanted.series)


@router.get("/segmentations", responses=refusals(422))
def own_jobs(service: Here, caller: Known, most: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[ToldJob]:
    """Your jobs, the latest first."""
    return [told_job(job) for job in service.spool.jobs(caller.name, most)]


@router.get("/segmentations/{job_id}", responses=refusals(404))
def one_job(service: Here, caller: Known, job_id: str) -> ToldJob:
    """How far a job is, and what came of it."""
    return told_job(own_job(service, caller, job_id))


@router.delete("/segmentations/{job_id}", responses=refusals(404, 409))
def cancel(service: Here, caller: Known, job_id: str) -> ToldJob:
    """Do not answer it."""
    job = own_job(service, caller, job_id)
    if not service.spool.cancel(job.id) and own_job(service, caller, job_id).state != "cancelled":
        raise HTTPException(409, f"the job is {own_job(service, caller, job_id).state} already")
    return told_job(own_job(service, caller, job_id))


@router.get(
    "/segmentations/{job_id}/results/{kind}", response_class=FileResponse, responses={
        200: {"content": {each: {} for each in sorted(set(MEDIA_TYPES.values()))}}, **refusals(404, 409, 422),
    },
)  # fmt: skip
def result(
    service: Here, caller: Known, job_id: str, kind: str, scan: Annotated[str, Query(max_length=1000)] = ""
) -> FileResponse:
    """A file of an answer. `scan`: which, where several were sent."""
    job = own_job(service, caller, job_id)
    if job.state != "done":
        raise HTTPException(409, f"the job is {job.state}; results are there once it is done")
    found = [each for each in job.answer.results if each.kind == kind and scan in ("", each.scan)]
    if not found:
        raise HTTPException(
            404, f"no such result; kinds are {', '.join(KINDS)}, and `results` of the job lists its own"
        )
    if len(found) > 1:
        raise HTTPException(422, f"{len(found)} scans have that; name one, as in ?scan={found[0].scan}")
    try:
        path = service.spool.results(job.id) / found[0].file
    except KeyError:
        raise HTTPException(404, "the results were deleted, as they were old; send the scan again") from None
    return FileResponse(path, media_type=MEDIA_TYPES[kind], filename=path.name)


@open_router.get("/health")
def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@open_router.get("/ready", responses={503: {"model": Readiness}})
def ready(service: Here, response: Response) -> Readiness:
    """A worker has its network, and the queue has room."""
    found = readiness(service.spool, service.settings)
    response.status_code = 200 if found.ready else 503
    return found


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}, **refusals()})
def metrics(service: Here, _: Known) -> Response:
    """For Prometheus."""
    return Response(exposition(service.spool), media_type="text/plain; version=0.0.4")


@router.get("/openapi.json", include_in_schema=False)
def document(request: Request, _: Known) -> dict[str, Any]:
    app: FastAPI = request.app
    return app.openapi()


def _full(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QueueFullError)
    return JSONResponse({"detail": str(error)}, 429, {"Retry-After": str(error.retry_s)})


def _wrong(_: Request, error: Exception) -> JSONResponse:
    """Without what was sent: it may name a patient."""
    assert isinstance(error, RequestValidationError)
    told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
    return JSONResponse({"detail": told}, 422)


def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)
