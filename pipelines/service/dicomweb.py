"""A PACS over DICOMweb: a series or study fetched by WADO-RS, results stored by STOW-RS.

    wado(peer, WantedStudy(study, series, folder, ...))     files of what the PACS holds, named by running number
    stow(peer, files)                                  an object at a time

Runs in a child of pipelines/dicom/sandbox.py, by pipelines/service/destinations.py. Raises PeerRefusedError or
PeerBusyError; neither quotes the peer, whose words may name a patient, nor a UID.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset, dcmread

from pipelines.dicom.reading import DAMAGE
from pipelines.service.destinations import WantedStudy
from pipelines.service.peers import PeerBusyError, PeerRefusedError, WebPeer

logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # it logs UIDs

CONNECT_S, SILENCE_S = 10.0, 60.0  # until a connection stands; without a byte from the peer
_ANY_SYNTAX = (("application/dicom", "*"),)  # as it is stored, not decompressed for us
_LATER = {
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.LOCKED,
}  # fmt: skip
_DUPLICATE = 0x0111  # PS3.7 C.5: it has the object


def checked_uid(keyword: str, uid: str) -> str:
    """It becomes part of an address, so it is digits and dots; a refusal does not quote it."""
    if not re.fullmatch(r"[0-9][0-9.]{0,63}", uid):
        raise PeerRefusedError(
            f"{keyword} is no DICOM UID: 1 to 64 digits and dots are due; {len(uid)} characters were given"
        )
    return uid


def wado(peer: WebPeer, wanted: WantedStudy) -> int:
    """How many files. None, more or larger ones than allowed are refused; what lies in the folder then is of no use."""
    study = checked_uid("study", wanted.study) if wanted.study else ""
    series = checked_uid("series", wanted.series) if wanted.series or not study else ""
    with _told(peer, "fetch"), _client(peer, wanted.max_bytes) as client:
        study = study or _study_of(client, series, peer)
        found = client.iter_series(study, series, _ANY_SYNTAX) if series else client.iter_study(study, _ANY_SYNTAX)
        count = 0
        for count, dataset in enumerate(found, 1):
            if count > wanted.max_files:
                raise PeerRefusedError(
                    f"{peer.told_as}: more than {wanted.max_files} objects; fetch one series of the study"
                )
            dataset.save_as(wanted.folder / f"{count - 1:06d}.dcm", enforce_file_format=False)
    if not count:
        raise PeerRefusedError(f"{peer.told_as} holds nothing under the study and series asked for")
    return count


def _study_of(client: DICOMwebClient, series: str, peer: WebPeer) -> str:
    """By QIDO-RS: viewers name a series alone."""
    found = client.search_for_series(search_filters={"SeriesInstanceUID": series}, limit=1)
    if not found:
        raise PeerRefusedError(f"{peer.told_as} holds no such series")
    return checked_uid("study", str(found[0]["0020000D"]["Value"][0]))


def stow(peer: WebPeer, files: Sequence[Path]) -> int:
    """Stops at the first that is not taken; others may be there then. The same object again is none more."""
    with _told(peer, "store"), _client(peer, max_bytes=1 << 26) as client:
        for file in files:
            _check_stored(client.store_instances([dcmread(file)]), peer)
    return len(files)


def _check_stored(answer: Dataset, peer: WebPeer) -> None:
    """PS3.18 10.5.3: a peer may say 200 and still name objects that it did not take."""
    reasons = {int(item.get("FailureReason", 0)) for item in answer.get("FailedSOPSequence", [])} - {_DUPLICATE}
    if busy := [reason for reason in reasons if reason in (0x0110, 0x0213) or 0xA700 <= reason < 0xA800]:
        raise PeerBusyError(f"{peer.told_as} has no room or could not work on the object (reason {busy[0]:04X}H)")
    if reasons:
        raise PeerRefusedError(f"{peer.told_as} does not take the object (reason {min(reasons):04X}H, PS3.18 10.5)")


@contextmanager
def _client(peer: WebPeer, max_bytes: int) -> Iterator[DICOMwebClient]:
    with requests.Session() as session, ExitStack() as responses:
        session.trust_env = False  # no .netrc, which would replace the token
        session.max_redirects = 0  # the token is for this peer
        if peer.ca_file:
            session.verify = str(peer.ca_file)
        headers = {"Accept-Encoding": "identity", **_authorization(peer)}
        client = DICOMwebClient(
            peer.dicomweb, session, headers=headers, callback=_bounded(max_bytes, responses), permissive_uid=True,
            timeout=(min(CONNECT_S, peer.timeout_s), min(SILENCE_S, peer.timeout_s)),
        )  # fmt: skip
        client.set_http_retry_params(retry=False)  # whoever asks tries again, later
        yield client


def _authorization(peer: WebPeer) -> dict[str, str]:
    if peer.token_file is None:
        return {}
    try:
        mode = peer.token_file.stat().st_mode
        content = peer.token_file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not ASCII"
        raise PeerRefusedError(f"token_file {peer.token_file}: {reason}") from None
    if mode & 0o077:
        raise PeerRefusedError(f"token_file {peer.token_file}: others can reach it; `chmod 600 {peer.token_file}`")
    if not re.fullmatch(r"([A-Za-z-]+ )?[!-~]{1,8192}", content):
        raise PeerRefusedError(f"token_file {peer.token_file}: a token, or a scheme and a token, in one line are due")
    return {"Authorization": content if " " in content else f"Bearer {content}"}


def _bounded(max_bytes: int, responses: ExitStack) -> Callable[..., requests.Response]:
    """A hook for responses: all together may hold so many bytes, however they are read; `responses` closes them."""
    left = max_bytes

    def hook(response: requests.Response, *_: Any, **__: Any) -> requests.Response:
        chunks = responses.enter_context(response).iter_content

        def counted(*how: Any, **named: Any) -> Iterator[bytes]:
            nonlocal left
            for chunk in chunks(*how, **named):
                if (left := left - len(chunk)) < 0:
                    raise PeerRefusedError(
                        f"the peer sent more than {max_bytes} bytes; fetch one series, or raise the limit"
                    )
                yield chunk

        response.iter_content = counted  # type: ignore[method-assign]
        return response

    return hook


@contextmanager
def _told(peer: WebPeer, verb: str) -> Iterator[None]:
    """What the libraries raise as ValueError or OSError of ours."""
    try:
        yield
    except (PeerRefusedError, PeerBusyError):
        raise
    except requests.HTTPError as error:
        raise _refusal(peer, verb, error.response) from None
    except requests.TooManyRedirects:
        raise PeerRefusedError(f"{peer.told_as} leads elsewhere; enter the address it leads to") from None
    except requests.exceptions.SSLError:
        raise PeerRefusedError(
            f"{peer.told_as}: its certificate is not trusted; name the authority's by `ca_file`"
        ) from None
    except requests.RequestException as error:
        raise PeerBusyError(f"{peer.told_as} cannot be reached or fell silent ({type(error).__name__})") from None
    except OSError as error:
        raise PeerBusyError(f"files of {peer.told_as}: {error.strerror}") from None
    except DAMAGE as error:
        raise PeerRefusedError(f"{peer.told_as} does not answer as DICOMweb does ({type(error).__name__})") from None


def _refusal(peer: WebPeer, verb: str, response: requests.Response | None) -> Exception:
    status = response.status_code if response is not None else 0
    if status == HTTPStatus.NOT_FOUND:
        return PeerRefusedError(f"{peer.told_as}: no such study, series or service (HTTP 404)")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return PeerRefusedError(f"{peer.told_as} does not let us {verb} (HTTP {status}); check `token_file`")
    if status in _LATER or status >= 500:
        return PeerBusyError(f"{peer.told_as} could not {verb} (HTTP {status})")
    if response is not None and status == HTTPStatus.CONFLICT:
        try:
            _check_stored(Dataset.from_json(response.json()), peer)
        except (PeerRefusedError, PeerBusyError) as error:
            return error
        except DAMAGE:
            pass
    return PeerRefusedError(f"{peer.told_as} refused to {verb} (HTTP {status})")
