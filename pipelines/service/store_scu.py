"""Results sent to a node by C-STORE: PACS, viewer or archive that knows DIMSE only.

    send_to(peer, files, calling)      one association, an object at a time; the same object again changes nothing

Runs in a child of pipelines/dicom/sandbox.py, by pipelines/service/destinations.py.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association

from pipelines.service.peers import NodePeer, PeerBusyError, PeerRefusedError

logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs UIDs, and stacks of what peers did wrong

CONNECT_S, GREET_S = 10.0, 30.0  # until a connection stands; until a peer, which may be busy, takes the association
_UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_HAS_IT = 0x0111


def send_to(peer: NodePeer, files: Sequence[Path], calling: str) -> int:
    """Stops at the first that is not taken, with PeerRefusedError or PeerBusyError; others may be there then."""
    entity = AE(ae_title=calling)
    entity.connection_timeout, entity.acse_timeout = min(CONNECT_S, peer.timeout_s), min(GREET_S, peer.timeout_s)
    entity.dimse_timeout = entity.network_timeout = peer.timeout_s
    for sop_class, syntax in sorted({(each.SOPClassUID, _syntax(each)) for each in map(_head, files)}):
        entity.add_requested_context(sop_class, _UNCOMPRESSED if syntax in _UNCOMPRESSED else syntax)
    association = entity.associate(peer.host, peer.port, ae_title=peer.ae_title)
    try:
        _check_association(association, peer, calling)
        for file in files:
            _send(association, file, peer)
        return len(files)
    finally:
        if association.is_established:
            association.release()


def _head(file: Path) -> Dataset:
    return dcmread(file, stop_before_pixels=True, specific_tags=["SOPClassUID"])


def _syntax(dataset: Dataset) -> UID:
    return UID(dataset.file_meta.TransferSyntaxUID)


def _check_association(association: Association, peer: NodePeer, calling: str) -> None:
    if association.is_rejected:
        answer = association.acceptor.primitive
        if answer is not None and answer.result == 2:  # PS3.8 9.3.4: transient
            raise PeerBusyError(f"{peer.told_as} is busy and took no association")
        raise PeerRefusedError(
            f"{peer.told_as} rejects us; enter {calling} there as a node that may store, check its AE title"
        )
    if not association.is_established:
        raise PeerBusyError(f"{peer.told_as} cannot be reached, or takes none of the objects")
    refused: dict[str, set[str]] = defaultdict(set)
    for context in association.rejected_contexts:
        sop_class = UID(str(context.abstract_syntax))
        refused[sop_class.name].update(syntax.name for syntax in context.transfer_syntax or [])
    if refused:
        told = "; ".join(f"{name} as {' or '.join(sorted(syntaxes))}" for name, syntaxes in refused.items())
        raise PeerRefusedError(f"{peer.told_as} does not take {told}; ask for another kind of result")


def _send(association: Association, file: Path, peer: NodePeer) -> None:
    try:
        status = association.send_c_store(dcmread(file)).get("Status")
    except RuntimeError:  # the association is gone
        status = None
    if status is None:
        raise PeerBusyError(f"{peer.told_as} fell silent or broke off; does it know our AE title?")
    if status in (0x0000, _HAS_IT) or 0xB000 <= status < 0xC000:  # warnings: taken, with changes
        return
    if 0xA700 <= status < 0xA800 or status in (0x0110, 0x0213):
        raise PeerBusyError(f"{peer.told_as} has no room or could not work on the object (status {status:04X}H)")
    raise PeerRefusedError(f"{peer.told_as} does not take the object (status {status:04X}H, PS3.4 B.2.3)")
