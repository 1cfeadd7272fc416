"""The service as clients of MONAI Label know it, so that 3D Slicer's and OHIF's plugins take it for one of theirs.

    GET /info/                       which model answers and what it finds
    POST /infer/{model}              a scan in, its label map out: through the same queue, while the client waits
    PUT, GET, DELETE /session/       how Slicer sends a scan; GET /auth/, POST /auth/token: how it signs in, with any
                                     user name and the service's token as the password
    image=SERIES_UID of /infer/      how OHIF names a scan: fetched from the first destination with DICOMweb

Nothing is trained or stored for them: their other requests are answered with 404. Numbers in label maps are places in
the list of /info/ (label_image.py).
"""

import asyncio
import json
import re
import secrets
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.concurrency import run_in_threadpool

from pipelines.service import readiness
from pipelines.service.access import Here, Known, Problem, Service, own_job
from pipelines.service.fetching import fetched
from pipelines.service.job import DONE, FAILED, OPEN, Ask, ServiceJob
from pipelines.service.label_image import NIFTI, NRRD, TYPES, LabelImage
from pipelines.service.monai_sessions import Sessions
from pipelines.service.peers import WebPeer
from pipelines.service.readiness import NetworkTold
from pipelines.service.tokens import Caller
from pipelines.service.uploads import received

router = APIRouter()
SOON_S, LATER_S = 0.1, 1.0  # between looks at a job that a client waits for
LOGIN_BYTES = 4096
Output = Literal["all", "image", "json", "dicom_seg"]
_ALL = "multipart/form-data"
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"content": {_ALL: {"schema": {"type": "object", "properties": {"params": {"type": "string"}}}}}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem} for code in (400, 401, 404, 408, 409, 413, 415, 422, 429, 500, 502, 503)
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {_ALL: _BYTES, "application/octet-stream": _BYTES, "application/dicom": _BYTES}}
}


@router.get("/info/", responses={503: {"model": Problem}, 401: {"model": Problem}})
def info(service: Here, _: Known) -> dict[str, Any]:
    """What MONAI Label tells of itself: models, and what each finds."""
    network, told = _network(service), readiness.readiness(service.spool, service.settings).model
    labels = {name: number for number, name in enumerate(network.structures, 1)}
    model = {"type": "segmentation", "labels": labels, "dimension": 3, "description": told, "config": {}}
    return {
        "name": "MedSegFormer", "description": told, "version": "1", "labels": ["background", *labels],
        "models": {network.name: model}, "modalities": network.modalities,
        "trainers": {}, "strategies": {}, "scoring": {}, "train_stats": {}, "datastore": {},
    }  # fmt: skip


@router.post(
    "/infer/{model}", response_class=Response, responses={**_REFUSED, **_ANSWERS}, openapi_extra={"requestBody": _FORM}
)
async def infer(
    request: Request, service: Here, caller: Known, model: str,
    image: Annotated[str, Query(max_length=1000, description="Series Instance UID, where no scan is sent")] = "",
    session_id: Annotated[str, Query(pattern="^[0-9a-f]{0,64}$")] = "", output: Output = "all",
) -> Response:  # fmt: skip
    """Segment one scan: the form's `file`, a session's, or the PACS's series `image`."""
    network = _network(service)
    if model != network.name:
        raise HTTPException(404, f"no such model; {network.name} answers here")
    folder, fields = await received(request, service, caller, optional=True)
    try:
        wishes = _wishes(fields.get("params", ""))
        folder = await _scan(request, service, caller, folder, session_id, image)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    wanted = Ask(("dicom-seg",) if output == "dicom_seg" else ("nifti",), modality=wishes["modality"])
    key = await run_in_threadpool(service.spool.accept, folder, wanted, caller.name, "", caller.limit)
    job = await _ended(request, service, caller, key)
    return await run_in_threadpool(_answered, service, job, network, wishes, output)


@router.put("/session/", responses=_REFUSED, openapi_extra={"requestBody": {"content": {_ALL: {"schema": _BYTES}}}})
async def open_session(request: Request, service: Here, caller: Known) -> dict[str, Any]:
    """Send a scan that will be segmented."""
    folder, _ = await received(request, service, caller)
    key = await run_in_threadpool(_sessions(request).add, caller.name, folder)
    return {"session_id": key, "session_info": _session_told(key)}


@router.get("/session/{session_id}", responses=_REFUSED)
def session(request: Request, caller: Known, session_id: str) -> dict[str, Any]:
    """Is it there yet?"""
    if not _sessions(request).knows(caller.name, session_id):
        raise HTTPException(404, "no such session; send the scan again")
    return _session_told(session_id)


@router.delete("/session/{session_id}", responses=_REFUSED)
def close_session(request: Request, caller: Known, session_id: str) -> dict[str, Any]:
    """Forget a scan."""
    if not _sessions(request).remove(caller.name, session_id):
        raise HTTPException(404, "no such session; send the scan again")
    return _session_told(session_id)


@router.get("/auth/")
def sign_in_is_due() -> dict[str, Any]:
    """Tells a client to ask its user for a name and a password."""
    return {"enabled": True, "client_id": "", "realm": ""}


@router.post("/auth/token", responses={401: {"model": Problem}, 413: {"model": Problem}}, openapi_extra={
    "requestBody": {"content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}}},
})  # fmt: skip
async def sign_in(request: Request, service: Here) -> dict[str, str]:
    """The password is the token."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > LOGIN_BYTES:
            raise HTTPException(413, f"a sign-in has at most {LOGIN_BYTES} bytes")
    given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
    if service.tokens.caller(given) is None:
        raise HTTPException(401, "the password must be a token of this service; whoever runs it has one for you")
    return {"access_token": given, "token_type": "Bearer"}


@router.get("/auth/token/valid", responses={401: {"model": Problem}})
def still_signed_in(caller: Known) -> dict[str, str]:
    """Does the token still count?"""
    return {"username": caller.name}


def _network(service: Service) -> NetworkTold:
    found = readiness.network_of(service.spool.folder, service.settings.workers)
    if found is None:
        told = readiness.readiness(service.spool, service.settings).problem
        raise HTTPException(503, f"nothing answers yet: {told}", {"Retry-After": "10"})
    return found


def _sessions(request: Request) -> Sessions:
    found: Sessions = request.app.state.sessions
    return found


def _session_told(key: str) -> dict[str, Any]:
    return {"name": key, "path": "", "image": "", "meta": {}}


def _wishes(text: str) -> dict[str, Any]:
    """What a client's `params` say that counts here; their other keys are for other servers."""
    try:
        given = json.loads(text or "{}")
        if not isinstance(given, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise HTTPException(422, "params must be a JSON object") from None
    modality, dtype = str(given.get("modality", "")), str(given.get("result_dtype", "uint8"))
    if not re.fullmatch("[A-Za-z0-9_,-]{0,64}", modality):
        raise HTTPException(422, "params.modality must be a modality's name, as in T1")
    return {
        "modality": modality,
        "dtype": dtype if dtype in TYPES else "uint8",
        "ending": NRRD if given.get("result_extension") == NRRD else NIFTI,
        "compressed": given.get("result_compress") is not False,
    }


async def _scan(request: Request, service: Service, caller: Caller, folder: Path, session_id: str, image: str) -> Path:
    """The folder with what is to be segmented; `folder`: what the form held, perhaps nothing."""
    if any(folder.iterdir()):
        return folder
    if session_id:
        try:
            await run_in_threadpool(_sessions(request).copy, caller.name, session_id, folder)
        except KeyError:
            raise HTTPException(404, "no such session; send the scan again") from None
        return folder
    pacs = next((each for each in service.settings.destinations.values() if isinstance(each, WebPeer)), None)
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", image) or pacs is None:
        raise HTTPException(422, "send the scan as the form's `file` or by a session; there is no data store here")
    shutil.rmtree(folder, ignore_errors=True)
    return await fetched(request, service, caller, pacs, "", image)


async def _ended(request: Request, service: Service, caller: Caller, key: str) -> ServiceJob:
    """Once it is; cancelled if the client goes away."""
    wait_s = SOON_S
    while (job := await run_in_threadpool(own_job, service, caller, key)).state in OPEN:
        if await request.is_disconnected():
            await run_in_threadpool(service.spool.cancel, key)
        await asyncio.sleep(wait_s)
        wait_s = min(LATER_S, 1.3 * wait_s)
    return job


def _answered(service: Service, job: ServiceJob, network: NetworkTold, wishes: dict[str, Any], output: str) -> Response:
    results = [each for each in job.answer.results if each.kind in job.ask.to]
    if job.state != DONE:
        raise HTTPException(500 if job.state == FAILED else 422, job.reason or f"the job was {job.state}")
    if len({each.scan for each in results}) != 1:
        raise HTTPException(422, "exactly one scan is segmented at a time; POST /segmentations takes several")
    file = service.spool.results(job.id) / results[0].file
    if output == "dicom_seg":
        return FileResponse(file, media_type="application/dicom", filename="label.dcm")
    image = LabelImage.read(file, list(network.structures.values()), wishes["dtype"])
    told = _told(job, image, list(network.structures))
    if output == "json":
        return JSONResponse(told)
    packed, name = image.packed(wishes["ending"], wishes["compressed"]), f"label{wishes['ending']}"
    if output == "image":
        disposition = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(packed, media_type="application/octet-stream", headers=disposition)
    return _form(json.dumps(told).encode(), name, packed)


def _told(job: ServiceJob, image: LabelImage, names: list[str]) -> dict[str, Any]:
    """Slicer calls what it finds by `label_names` in order, OHIF points at `centroids`: so both name what is there."""
    found = {names[number - 1]: number for number in image.present()}
    return {
        "label_names": found,
        "centroids": {
            name: [str(each) for each in (number, *image.centroid(number))] for name, number in found.items()
        },
        "warnings": [text for _, text in job.answer.warnings],
        "model": job.model,
        "mark": job.answer.version.get("mark", ""),
        "job": job.id,
    }


def _form(params: bytes, name: str, image: bytes) -> Response:
    """Spelled as OHIF's plugin looks for it: it reads the form by itself."""
    boundary = secrets.token_hex(16)
    start = f"--{boundary}\r\nContent-Disposition: form-data; name="
    content = (
        f'{start}"params"\r\nContent-Type: application/json\r\n\r\n'.encode() + params
        + f'\r\n{start}"image"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'.encode() + image
        + f"\r\n--{boundary}--\r\n".encode()
    )  # fmt: skip
    return Response(content, headers={"Content-Type": f"{_ALL}; boundary={boundary}"})
