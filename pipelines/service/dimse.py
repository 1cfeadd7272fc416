"""The receiver of DIMSE: C-ECHO, and C-STORE of scans, which become jobs once no more of them comes.

    receive(settings, folder, accept)                    a process of its own, until it is ended
    with Receiver(settings, folder, accept) as server:   the same in threads

Strangers meet bounds before anything is believed: networks, connections at once, AE titles, the length of a PDU and of
an object, seconds for a PDU and for silence. Objects go to disk as they come, so memory does not depend on them. What
a peer sent is neither logged nor part of a name.
"""

import ipaddress
import logging
import shutil
import sys
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationServer, AssociationSocket, RequestHandler

from pipelines.dicom.index import IMAGES
from pipelines.scans import key
from pipelines.service.arrivals import Accept, Arrivals
from pipelines.service.peers import DimseSettings
from pipelines.work.tether import tether

log = logging.getLogger(__name__)
for _told in ("pynetdicom", "pydicom"):  # they log UIDs and values, and stacks of what peers did wrong
    logging.getLogger(_told).setLevel(logging.CRITICAL + 1)

UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
DECODABLE = [
    *UNCOMPRESSED, DeflatedExplicitVRLittleEndian, *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, JPEG2000Lossless,
    JPEG2000, RLELossless,
]  # fmt: skip
PDU_BYTES = 1 << 18  # asked of peers; pynetdicom's own 16 kB cost it four times the time
LONGEST_PDU_BYTES = 1 << 20  # an association with all that a peer may propose asks with 100 kB
SILENT = 2  # connections for every association: some have not said yet who they are
HELLO_S = 10.0
TICK_S = 0.5
C_ECHO = "1.2.840.10008.1.1"


def receive(settings: DimseSettings, folder: Path, accept: Accept) -> None:
    tether()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pipelines").setLevel(logging.INFO)
    warnings.simplefilter("ignore")  # pydicom's quote values of the header
    threading.excepthook = _told_by_name
    with Receiver(settings, folder, accept):
        threading.Event().wait()


def _told_by_name(error: threading.ExceptHookArgs) -> None:
    """Of a thread that a peer broke: pynetdicom's end so, and a stack would show what was sent."""
    log.warning("an association ended by %s", error.exc_type.__name__)


class Receiver:
    """`folder`: on the disk of the queue's, of this receiver alone; what lies there half received is taken up.
    `accept`: as Arrivals has it. One a process: pynetdicom's temporary files lie where the process has them."""

    def __init__(self, settings: DimseSettings, folder: Path, accept: Accept) -> None:
        self._incoming = folder / "incoming"
        shutil.rmtree(self._incoming, ignore_errors=True)  # halves of objects
        self._incoming.mkdir(parents=True, mode=0o700)
        self._settings = settings
        self._arrivals = Arrivals(folder / "arriving", settings, key.of_project(), accept)
        self._server = _server(settings, self._stored)
        self._ended = threading.Event()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        _config.STORE_RECV_CHUNKED_DATASET = True
        self._tempdir, tempfile.tempdir = tempfile.tempdir, str(self._incoming)
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._server.serve_forever, self._tend)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.end()
        for thread in self._threads:
            thread.join()
        tempfile.tempdir = self._tempdir

    def _stored(self, event: evt.Event) -> int:
        """What the peer is told of an object."""
        instance = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        return self._arrivals.take(event.dataset_path, event.assoc.requestor.ae_title, id(event.assoc), instance)

    def _tend(self) -> None:
        while not self._ended.wait(TICK_S):
            try:
                self._arrivals.give({id(association) for association in self._server.active_associations})
                self._sweep()
            except OSError as error:  # of our disk; the next time may do
                log.error("series that came by DIMSE wait: %s", error.strerror)

    def _sweep(self) -> None:
        """Halves of objects whose association is gone; one that lives writes on, or is broken off."""
        for file in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > 2 * self._settings.idle_s:
                    file.unlink()


def _server(settings: DimseSettings, stored: Any) -> "_Server":
    entity = AE(ae_title=settings.ae_title)
    entity.require_called_aet, entity.require_calling_aet = True, list(settings.callers)
    entity.maximum_associations, entity.maximum_pdu_size = settings.associations, PDU_BYTES
    entity.acse_timeout = min(HELLO_S, settings.idle_s)
    entity.network_timeout = entity.dimse_timeout = settings.idle_s
    entity.add_supported_context(C_ECHO, UNCOMPRESSED)
    for context in AllStoragePresentationContexts:  # what comes along with scans is taken, and left out
        sop_class = str(context.abstract_syntax)
        entity.add_supported_context(sop_class, DECODABLE if sop_class in IMAGES else UNCOMPRESSED)
    handlers: list[Any] = [(evt.EVT_C_STORE, stored), (evt.EVT_CONN_CLOSE, _drop_half)]
    try:
        where = (settings.host, settings.port)
        return entity.make_server(where, evt_handlers=handlers, server_class=_Server, settings=settings)  # type: ignore[return-value]
    except OSError as error:
        raise OSError(
            f"dimse.port {settings.port} of {settings.host} cannot be listened at ({error.strerror}); name another"
        ) from None


def _drop_half(event: evt.Event) -> None:
    """Of an object that a connection ended in."""
    message = event.assoc.dimse.message
    if message is not None and message._data_set_file is not None:
        message._data_set_file.close()
        Path(message._data_set_file.name).unlink(missing_ok=True)


class _Server(AssociationServer):
    request_queue_size = 128

    def __init__(self, *how: Any, settings: DimseSettings, **named: Any) -> None:
        self.settings = settings
        self._networks = [ipaddress.ip_network(network) for network in settings.networks]
        super().__init__(*how, **named)
        self.RequestHandlerClass = _Handler

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Of a connection that has not said anything yet."""
        address = ipaddress.ip_address(client_address[0])
        if self._networks and not any(address in network for network in self._networks):
            return False
        return len(self.active_associations) < (1 + SILENT) * self.settings.associations

    def end(self) -> None:
        super(AssociationServer, self).shutdown()
        self.server_close()
        for association in self.active_associations:
            association.abort()


class _Handler(RequestHandler):
    def _create_association(self) -> Association:
        settings: DimseSettings = self.server.settings  # type: ignore[attr-defined]
        association = super()._create_association()
        association.dimse = _BoundedMessages(association, settings.object_bytes)
        bound = association.dul.socket
        assert bound is not None
        bound.recv = partial(_received, bound, patience_s=settings.idle_s)  # type: ignore[method-assign]
        return association


def _received(peer: AssociationSocket, count: int, *, patience_s: float) -> bytearray:
    """As AssociationSocket.recv: `count` bytes, or fewer where the peer ended. It would reserve whatever length a PDU
    claims, and wait for ever for the rest."""
    if count > LONGEST_PDU_BYTES:
        raise OSError(f"a PDU of {count} bytes")
    deadline, data = time.monotonic() + patience_s, bytearray()
    while len(data) < count and peer.socket is not None:
        peer.socket.settimeout(max(0.001, deadline - time.monotonic()))
        if not (block := peer.socket.recv(min(count - len(data), 1 << 16))):
            break
        data += block
    if peer.socket is not None:
        peer.socket.settimeout(patience_s)
    return data


class _BoundedMessages(DIMSEServiceProvider):
    """Breaks off an association whose message is longer than allowed, while it comes."""

    def __init__(self, association: Association, most_bytes: int) -> None:
        super().__init__(association)
        self._most_bytes = most_bytes

    def receive_primitive(self, primitive: P_DATA) -> None:
        super().receive_primitive(primitive)
        if (message := self.message) is not None:
            held = message.data_set.tell() + message.encoded_command_set.tell()  # type: ignore[union-attr]
            if held + (message._data_set_file.file.tell() if message._data_set_file else 0) > self._most_bytes:
                self.dul.event_queue.put("Evt19")  # an invalid PDU: abort
