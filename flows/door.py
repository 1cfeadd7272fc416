"""The program that serves Prefect or MLflow on a loopback socket, to its owner alone.

Run     python -m flows.door prefect|mlflow FD      # FD: the socket, bound and listening

A door before their own application, over HTTP and WebSocket alike. Refused: a Host other than this server's address
(400; a name that somebody lets point here), an Origin other than it (403; a page of somebody else in the owner's
browser), and whoever does not know the login (401). Prefect asks for the login itself, as its page keeps it in a form
of its own; MLflow's own accounts are slow (0.1 s a request) and its readers many, so here the door asks.
"""

import base64
import hmac
import os
import socket
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn

from flows import login
from pipelines.release import tracking
from pipelines.work import project
from pipelines.work.garbage import uncollected

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
NO_FRAMES = (b"content-security-policy", b"frame-ancestors 'none'")  # no click on a page that somebody else lays over
ASK = (b"www-authenticate", b'Basic realm="MedSegFormer", charset="UTF-8"')


class Door:
    """`address`: HOST:PORT as a browser says it. `secret`: USER:PASSWORD, or None where the application asks itself."""

    def __init__(self, application: Application, address: str, secret: str | None) -> None:
        self._application, self._host, self._origin = application, address.encode(), f"http://{address}".encode()
        self._login = secret and b"Basic " + base64.b64encode(secret.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refuse(scope) if scope["type"] != "lifespan" else None
        if refused is None:
            await self._application(scope, receive, _without_frames(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refused[1]})
        else:
            status, text = refused
            headers = [(b"content-type", b"text/plain"), *([ASK] if status == 401 else [])]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": f"{text}\n".encode()})

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """HTTP status and reason, or None for a request that may pass."""
        said = [(name, value) for name, value in scope["headers"] if name in (b"host", b"origin", b"authorization")]
        headers = dict(said)
        if len(said) != len(headers) or headers.get(b"host") != self._host:
            return 400, f"this server is {self._origin.decode()}, and answers to no other name"
        if headers.get(b"origin", self._origin) != self._origin:
            return 403, "not from a page of another origin"
        if self._login is None or scope["path"] == "/health":
            return None
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._login):
            return 401, "log in with what .medseg/login holds"
        return None


def _without_frames(send: Send) -> Send:
    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), NO_FRAMES]}
        await send(message)

    return sending


def _prefect() -> Application:
    from prefect.server.api.server import create_app

    return create_app()


def _mlflow() -> Application:
    """What `mlflow server` would start, which takes no socket and shows the store's password in its command line."""
    from mlflow.server import constants, handlers

    os.environ[constants.BACKEND_STORE_URI_ENV_VAR] = store = os.environ["MLFLOW_BACKEND_STORE_URI"]
    os.environ[constants.ARTIFACT_ROOT_ENV_VAR] = root = "mlflow-artifacts:/"
    os.environ[constants.SERVE_ARTIFACTS_ENV_VAR] = "true"
    os.environ[constants.ARTIFACTS_DESTINATION_ENV_VAR] = str(project.state_folder() / "mlartifacts")
    if tracking.is_embedded():
        tracking.make_database()
    handlers.initialize_backend_stores(store, None, root)
    from mlflow.server.fastapi_app import app

    return app


def main() -> None:
    name, listening = sys.argv[1], socket.socket(fileno=int(sys.argv[2]))
    address = "{}:{}".format(*listening.getsockname())
    with uncollected():
        door = Door(_prefect(), address, None) if name == "prefect" else Door(_mlflow(), address, login.read())
    config = uvicorn.Config(
        door, log_level="warning", proxy_headers=False, timeout_graceful_shutdown=2, timeout_keep_alive=60
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
