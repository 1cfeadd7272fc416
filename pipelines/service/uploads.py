"""An upload onto the disk: streamed, bounded in bytes, files, seconds and silence, and named by us.

    folder, fields = await received(request, service, caller)

A body is one file, or a form of several (multipart). Names that a client gives name nothing here: of a NIfTI file's
only a modality at its end is kept, as in `anything_t1.nii.gz`; files are told by their first bytes.
"""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import python_multipart
from fastapi import HTTPException, Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from pipelines.service.access import Service
from pipelines.service.contents import settle_files
from pipelines.service.serve_settings import ServeLimits
from pipelines.service.tokens import Caller

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it logs what strangers send

MIB = 1 << 20
FIELD_BYTES = 64 << 10  # of all fields of a form that are no files
RETRY = {"Retry-After": "60"}


async def received(
    request: Request, service: Service, caller: Caller, optional: bool = False
) -> tuple[Path, dict[str, str]]:
    """A folder of the queue's with the files, for `Spool.accept`, and what else a form held. `optional`: a form
    without a file will do.

    Raises HTTPException 400, 408, 413, 415, 422 or 503, or QueueFullError; then nothing is left of it.
    """
    limits = service.settings.limits
    if int(request.headers.get("content-length") or 0) > limits.upload_mib * MIB:
        raise _too_large(limits)
    with service.upload(caller):
        folder = await run_in_threadpool(service.spool.arriving, caller.name, caller.limit)
        return folder, await _into(folder, request, limits, optional)


async def _into(folder: Path, request: Request, limits: ServeLimits, optional: bool) -> dict[str, str]:
    sink: _Sink | None = None
    try:
        sink = _sink_for(request, folder, limits)
        async with asyncio.timeout(limits.upload_s):
            async for block in _blocks(request, limits):
                await run_in_threadpool(_write, sink, block, folder, limits)
        names, fields = await run_in_threadpool(sink.finish)
        if names or not optional:
            await run_in_threadpool(settle_files, folder, names, limits)
        return fields
    except TimeoutError:
        shutil.rmtree(folder, ignore_errors=True)
        raise HTTPException(408, f"the upload took more than {limits.upload_s:g} s; send less at once") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if sink is not None:
            sink.close()


async def _blocks(request: Request, limits: ServeLimits) -> AsyncIterator[bytes]:
    """The body in pieces of about a MiB."""
    stream, total, held = request.stream(), 0, bytearray()
    while True:
        try:
            block = await asyncio.wait_for(anext(stream), limits.silence_s)
        except StopAsyncIteration:
            break
        except TimeoutError:
            told = f"nothing came for {limits.silence_s:g} s; send the whole again"
            raise HTTPException(408, told, {"Connection": "close"}) from None
        total += len(block)
        if total > limits.upload_mib * MIB:
            raise _too_large(limits)
        held += block
        if len(held) >= MIB:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _too_large(limits: ServeLimits) -> HTTPException:
    told = f"an upload may have {limits.upload_mib} MiB; send fewer scans at once"
    return HTTPException(413, told, {"Connection": "close"})


class _Sink(Protocol):
    def write(self, block: bytes) -> None: ...

    def finish(self) -> tuple[dict[Path, str], dict[str, str]]:
        """Files with the names that the client gives them; fields."""

    def close(self) -> None: ...


def _write(sink: _Sink, block: bytes, folder: Path, limits: ServeLimits) -> None:
    if shutil.disk_usage(folder).free < limits.free_mib * MIB + len(block):
        raise HTTPException(503, "the service's disk is nearly full; try again later", RETRY)
    sink.write(block)


def _sink_for(request: Request, folder: Path, limits: ServeLimits) -> _Sink:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        return _OneFile(folder)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046
        raise HTTPException(400, "multipart without a boundary of 1 to 70 characters; let your library make the form")
    return _Form(folder, boundary, limits)


class _OneFile:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "0"
        self._file = self._path.open("wb")

    def write(self, block: bytes) -> None:
        self._file.write(block)

    def finish(self) -> tuple[dict[Path, str], dict[str, str]]:
        self._file.close()
        return {self._path: ""}, {}

    def close(self) -> None:
        self._file.close()


class _Form:
    """Parts with a file name go to disk; others are fields, and short."""

    def __init__(self, folder: Path, boundary: bytes, limits: ServeLimits) -> None:
        self._folder, self._limits = folder, limits
        self._names: dict[Path, str] = {}
        self._fields: dict[str, bytes] = {}
        self._headers: dict[bytes, bytes] = {}
        self._header: tuple[bytes, bytes] = (b"", b"")
        self._file: BinaryIO | None = None
        self._field, self._ended = "", False
        callbacks: Any = {
            "on_part_begin": self._headers.clear,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._begin,
            "on_part_data": self._data,
            "on_part_end": self.close,
            "on_end": self._end,
        }
        self._parser = python_multipart.MultipartParser(boundary, callbacks)

    def write(self, block: bytes) -> None:
        try:
            self._parser.write(block)
        except MultipartParseError:
            raise HTTPException(400, "the form is malformed; let your library make it") from None

    def finish(self) -> tuple[dict[Path, str], dict[str, str]]:
        if not self._ended:
            raise HTTPException(400, "the form ends before its last boundary; send it whole")
        return self._names, {name: value.decode("utf-8", "replace") for name, value in self._fields.items()}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def _end(self) -> None:
        self._ended = True

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0] + data[start:end], self._header[1])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header = (self._header[0], self._header[1] + data[start:end])
        if len(self._header[1]) > 4096:
            raise HTTPException(400, "a header of the form has more than 4096 bytes; let your library make it")

    def _header_end(self) -> None:
        self._headers[self._header[0].lower()] = self._header[1]
        self._header = (b"", b"")

    def _begin(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")[:100]
        if b"filename" not in options:
            self._fields[self._field] = b""
            return
        if len(self._names) >= self._limits.files:
            raise HTTPException(413, f"an upload may have {self._limits.files} files; send a zip, or fewer scans")
        path = self._folder / str(len(self._names))
        self._names[path] = options[b"filename"].decode("utf-8", "replace")
        self._file = path.open("wb")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._fields[self._field] += data[start:end]
        if len(self._fields) > 100 or sum(map(len, self._fields.values())) > FIELD_BYTES:
            raise HTTPException(413, f"the form's fields have more than {FIELD_BYTES} bytes; scans come as files")
