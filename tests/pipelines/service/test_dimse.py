"""The receiver of DIMSE: what a modality sends becomes a job, what a stranger sends becomes nothing."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, EncapsulatedPDFStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode

from pipelines.service.arrivals import ANOTHER_OBJECT, NO_ROOM, NOT_UNDERSTOOD, STORED
from pipelines.service.dimse import C_ECHO, Receiver
from pipelines.service.peers import DimseSettings
from tests.pipelines.dicom import dicom_files

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # as `receive` does
CALLER = "CT-SCANNER"
Start = Callable[..., Receiver]


class Jobs:
    """What the queue is given: key -> name, UID and voxels of each file."""

    def __init__(self) -> None:
        self.taken: dict[str, list[tuple[str, str, np.ndarray]]] = {}
        self.full = False

    def accept(self, files: Sequence[Path], key: str) -> bool:
        if not self.full:
            read = [(file.name, dcmread(file)) for file in files]
            self.taken[key] = [(name, str(each.SOPInstanceUID), each.pixel_array) for name, each in read]
        return not self.full


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    return Jobs()


@pytest.fixture
def receiver(jobs: Jobs, tmp_path: Path) -> Iterator[Start]:
    opened: list[Receiver] = []

    def start(**settings: Any) -> Receiver:
        how = {"callers": (CALLER,), "port": 0, "complete_s": 0.3, "idle_s": 3, **settings}
        opened.append(Receiver(DimseSettings(**how), tmp_path / "dimse", jobs.accept).__enter__())
        return opened[-1]

    yield start
    for each in reversed(opened):  # the folder for temporary files is the one's before it
        each.__exit__()


def associate(receiver: Receiver, calling: str = CALLER, called: str = "MEDSEG") -> Association:
    entity = AE(ae_title=calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 60
    for sop_class in (C_ECHO, CTImageStorage, EncapsulatedPDFStorage):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    return entity.associate("127.0.0.1", receiver.port, ae_title=called)


def send(receiver: Receiver, files: Sequence[Path | Dataset]) -> list[int]:
    association = associate(receiver)
    assert association.is_established
    statuses = [association.send_c_store(file).get("Status", -1) for file in files]
    association.release()
    return statuses


def until(true: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_closed_at_once(receiver: Receiver) -> bool:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as connection, suppress(TimeoutError):
        return connection.recv(1) == b""
    return False


def closed(sockets: Sequence[socket.socket]) -> int:
    """How many of them the peer has closed."""
    count = 0
    for each in sockets:
        each.settimeout(0)
        try:
            count += each.recv(1) == b""
        except BlockingIOError:
            continue
        except ConnectionResetError:
            count += 1
    return count


def uids(files: Sequence[Path]) -> list[str]:
    return [str(dcmread(file).SOPInstanceUID) for file in files]


def left_in(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "dimse").rglob("*") if path.is_file()]


def store(association: Association, content: bytes, instance: str, parts: int = 1, cut: bool = False) -> int | None:
    """C-STORE of any bytes, in so many fragments; `cut`: the connection ends before the last one."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CTImageStorage, instance
    request.DataSet = BytesIO(content)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    (context,) = (each for each in association.accepted_contexts if each.abstract_syntax == CTImageStorage)
    assert context.context_id is not None
    association._reactor_checkpoint.clear()  # the answer is ours to read
    until(lambda: association._is_paused)
    for number, primitive in enumerate(message.encode_msg(context.context_id, len(content) // parts + 6)):
        if cut and number == parts:
            association.dul.socket.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            return None
        association.dul.send_pdu(primitive)
        time.sleep(0.02)
    answer = association.dimse.get_msg(block=True)[1]
    association._reactor_checkpoint.set()
    return getattr(answer, "Status", None)


def test_a_series_is_one_job_once_no_more_of_it_comes(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    files = dicom_files.series(tmp_path / "one")
    other = dicom_files.series(tmp_path / "two", series="t")
    server = receiver(complete_s=4)
    assert associate(server).send_c_echo().Status == 0
    assert send(server, files[:3]) == [0, 0, 0]
    assert send(server, [*other, files[0], *files[3:]]) == [0] * 10  # in two associations, one object twice
    until(lambda: len(jobs.taken) == 2)
    until(lambda: left_in(tmp_path) == [])
    arrived = {frozenset(uid for _, uid, _ in content): content for content in jobs.taken.values()}
    assert set(arrived) == {frozenset(uids(files)), frozenset(uids(other))}
    sent = {dcmread(file).SOPInstanceUID: dcmread(file).pixel_array for file in (*files, *other)}
    for content in jobs.taken.values():
        assert len(content) == 6
        for name, uid, voxels in content:
            np.testing.assert_array_equal(voxels, sent[uid])
            assert len(name) == len("0123456789abcdef.dcm")


def test_a_study_is_one_job_where_that_is_asked(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    both = [*dicom_files.series(tmp_path / "one"), *dicom_files.series(tmp_path / "two", series="t")]
    another = dicom_files.series(tmp_path / "three", study="b")
    assert send(receiver(together="study"), [*both, *another]) == [0] * 18
    until(lambda: sorted(map(len, jobs.taken.values())) == [6, 12])


def test_a_series_that_still_comes_waits_for_its_association(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    files = dicom_files.series(tmp_path / "in")
    association = associate(receiver(complete_s=0.2))
    for file in files:
        assert association.send_c_store(file).Status == 0
        time.sleep(0.7)
    assert jobs.taken == {}
    association.release()
    until(lambda: [len(each) for each in jobs.taken.values()] == [6])


def test_strangers_are_rejected(receiver: Start) -> None:
    server = receiver(networks=("127.0.0.0/30", "::1/128"))
    assert associate(server, calling="ELSE").is_rejected
    assert associate(server, called="ELSE").is_rejected
    assert associate(server).is_established
    assert is_closed_at_once(receiver(networks=("10.0.0.0/8",)))
    with pytest.raises(ValidationError, match="networks"):
        DimseSettings(callers=(CALLER,), networks=("here",))


def test_a_flood_of_connections_is_bounded_and_passes(receiver: Start) -> None:
    server = receiver(associations=2, idle_s=2)
    before = threading.active_count()
    with ExitStack() as flood:
        address = ("127.0.0.1", server.port)
        sockets = [flood.enter_context(socket.create_connection(address)) for _ in range(60)]
        threads: list[int] = []
        # Those that find no room are closed at once, the others as they say nothing.
        until(lambda: threads.append(threading.active_count() - before) or closed(sockets) == 60)
        assert 0 < max(threads) <= 2 * 6  # a connection has two threads
        until(lambda: not server._server.active_associations)  # each is closed before its threads end
        held = [associate(server) for _ in range(2)]
        assert all(each.is_established for each in held)
        assert (third := associate(server)).is_rejected
        assert third.acceptor.primitive.result == 2  # type: ignore[union-attr] - come later
        for each in held:
            each.release()


@pytest.mark.parametrize(
    "start", [struct.pack(">BBL", 1, 0, 0xFFFFFFFF) + b"x" * 99, b"\1\0\0", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_association_is_closed(receiver: Start, start: bytes) -> None:
    with socket.create_connection(("127.0.0.1", receiver(idle_s=1).port), timeout=60) as connection:
        connection.sendall(start)
        with suppress(ConnectionResetError):
            while connection.recv(100):
                pass


def test_half_an_object_leaves_nothing(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    (first, *_) = dicom_files.series(tmp_path / "in")
    association = associate(receiver())
    store(association, first.read_bytes()[132:] * 20, "1.2.3", parts=10, cut=True)
    until(lambda: left_in(tmp_path) == [])
    assert jobs.taken == {}


def test_an_object_without_end_is_broken_off(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    association = associate(receiver(object_bytes=50_000))
    assert store(association, b"\0" * 500_000, "1.2.3", parts=20) is None
    until(lambda: association.is_aborted)
    until(lambda: left_in(tmp_path) == [])
    assert jobs.taken == {}


def test_what_is_no_scan_is_not_kept(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    (first, *_) = dicom_files.series(tmp_path / "in")
    association = associate(receiver())
    assert store(association, b"%PDF-1.7 nothing that DICOM knows" * 9, "1.2.3") == NOT_UNDERSTOOD
    dataset = dcmread(first)
    content = encode(dataset, is_implicit_vr=False, is_little_endian=True)
    assert content
    assert store(association, content, "1.2.3") == ANOTHER_OBJECT
    assert store(association, content, dataset.SOPInstanceUID) == STORED
    document = dicom_files.image()
    document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    assert association.send_c_store(document).Status == STORED  # it came along
    association.release()
    until(lambda: [len(each) for each in jobs.taken.values()] == [1])
    until(lambda: left_in(tmp_path) == [])


def test_what_was_stored_outlives_a_kill(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    files = dicom_files.series(tmp_path / "in")
    assert send(receiver(complete_s=600), files[:3]) == [0, 0, 0]
    (tmp_path / "dimse/incoming/half.dcm").write_bytes(b"x")
    assert send(receiver(complete_s=6), files[3:]) == [0, 0, 0]  # another process, as after kill -9
    until(lambda: [len(each) for each in jobs.taken.values()] == [6])
    until(lambda: left_in(tmp_path) == [])


def test_a_full_queue_makes_series_wait_and_then_senders(receiver: Start, jobs: Jobs, tmp_path: Path) -> None:
    jobs.full = True
    server = receiver(unfinished=1)
    assert send(server, dicom_files.series(tmp_path / "one")) == [0] * 6
    other = dicom_files.series(tmp_path / "two", series="t")
    assert send(server, other) == [NO_ROOM] * 6
    jobs.full = False
    until(lambda: len(jobs.taken) == 1)
    until(lambda: left_in(tmp_path) == [])
    assert send(server, other) == [0] * 6


@pytest.mark.parametrize("bound", ["series_objects", "series_bytes"])
def test_a_series_that_is_too_large_is_refused_whole(receiver: Start, jobs: Jobs, tmp_path: Path, bound: str) -> None:
    files = dicom_files.series(tmp_path / "in")
    most = 4 if bound == "series_objects" else 4 * files[0].stat().st_size + 100
    assert send(receiver(**{bound: most}), files) == [0] * 4 + [NO_ROOM] * 2
    until(lambda: not any((tmp_path / "dimse/arriving").iterdir()))
    assert jobs.taken == {}


def test_nothing_that_was_sent_is_logged(
    receiver: Start, jobs: Jobs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = dicom_files.series(tmp_path / "in")
    with caplog.at_level("DEBUG"):
        server = receiver()
        send(server, files)
        store(associate(server), b"Quillfeather" * 9, "1.2.3.4.5")
        until(lambda: "6 objects that came by DIMSE are a job" in caplog.text)
    told = caplog.text + "".join(str(path) for path in (tmp_path / "dimse").rglob("*"))
    assert not any(word in told for word in ("Quillfeather", dicom_files.PATIENT, "1.2.3.4.5", *uids(files)))


def test_a_port_that_is_taken_is_told(receiver: Start) -> None:
    taken = receiver().port
    with pytest.raises(OSError, match=rf"dimse\.port {taken} of 127\.0\.0\.1 cannot be listened at"):
        receiver(port=taken)
