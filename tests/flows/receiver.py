"""An HTTP server on a thread that keeps what is posted to it: the other end of a webhook."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """`posted`: the bodies, as JSON, in their order."""

    def __init__(self) -> None:
        self.posted: list[dict[str, Any]] = []
        self.address = ""

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Receiver"]:
        receiver = cls()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            receiver.address = f"http://127.0.0.1:{server.server_address[1]}/hook/secret"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield receiver
            server.shutdown()
            thread.join()
