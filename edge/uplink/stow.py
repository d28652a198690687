"""A destination that takes STOW-RS (PS3.18 section 10.5): one instance a request, streamed, as it is stored.

Always true: delivered means that the answer's Referenced SOP Sequence names this very instance; an answer of 200 alone
proves nothing. UIDs stand in the body only, never in the address. Nothing is transcoded, no redirect is followed, no
proxy of the environment gets in between, and an answer is read up to a limit.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import httpx

from contract.errors import PermanentError
from edge.buffer.deliveries import Delivery
from edge.uplink.client import read_bounded, why
from edge.uplink.courier import Source
from edge.uplink.verdicts import DELIVERED, Outcome, Verdict, judge_http, judge_status

_TIMEOUT: Final = httpx.Timeout(60.0, connect=10.0)
_SECONDS: Final = re.compile(r"[0-9]{1,6}")
_REFERENCED_SOP_SEQUENCE: Final = "00081199"
_FAILED_SOP_SEQUENCE: Final = "00081198"
_REFERENCED_SOP_INSTANCE_UID: Final = "00081155"
_FAILURE_REASON: Final = "00081197"


class CannotStowError(PermanentError):
    """What is needed to call the service is not there. The text is for a person."""


class StowDestination:
    """A `Destination` of edge.uplink.courier.

    Parameters
    ----------
    url : of the DICOMweb service, without ``/studies``.
    authorization : the whole Authorization header; empty: none.
    """

    def __init__(self, url: str, tls: ssl.SSLContext, *, authorization: str = "") -> None:
        self._where = url
        self._url = f"{url}/studies"
        self._tls = tls
        self._headers = {"Accept": "application/dicom+json", "Accept-Encoding": "identity"}
        if authorization:
            self._headers["Authorization"] = authorization
        self._client: httpx.Client | None = None

    def send(self, delivery: Delivery, part10: Source) -> Outcome:
        client = self._client = self._client or httpx.Client(
            verify=self._tls, timeout=_TIMEOUT, trust_env=False, follow_redirects=False
        )
        body = _Body(delivery, part10)
        request = client.build_request(
            "POST", self._url, headers={**self._headers, **body.headers}, content=iter(body)
        )
        try:
            response = client.send(request, stream=True)
            try:
                status, answer = response.status_code, read_bounded(response)
            finally:
                response.close()
        except httpx.HTTPError as error:
            return self._failed(error)
        outcome = _judge(status, answer, delivery.sop_instance_uid)
        said = response.headers.get("Retry-After", "")
        # Seconds alone: a date would have to be judged by the box's clock.
        return (
            replace(outcome, wait_s=float(said))
            if status in (429, 503) and _SECONDS.fullmatch(said)
            else outcome
        )

    def rest(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _failed(self, error: httpx.HTTPError) -> Outcome:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Outcome(Verdict.AWAY, f"{self._where} cannot be reached: {why(error)}")
        return Outcome(Verdict.LATER, f"the line to {self._where} broke: {why(error)}")


class _Body:
    """``multipart/related`` with one part (PS3.18 section 8.6.1.2), of known length: not every server takes chunks."""

    def __init__(self, delivery: Delivery, part10: Source) -> None:
        boundary = secrets.token_hex(16)
        self._part10 = part10
        # Without a transfer-syntax parameter: the file says it, and Orthanc drops a part that has one.
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(self._head) + delivery.size_bytes + len(self._tail)),
        }

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        yield from self._part10
        yield self._tail


def _judge(status: int, answer: bytes, sop_instance_uid: str) -> Outcome:
    """By what the answer says of this instance; by the HTTP status where it says nothing."""
    said = _read(answer)
    if status in (200, 202) and any(
        _uid(item) == sop_instance_uid for item in said(_REFERENCED_SOP_SEQUENCE)
    ):
        return DELIVERED
    failed = said(_FAILED_SOP_SEQUENCE)
    for item in failed:
        # Some leave the UID out where they could not read it; there was one instance in the request.
        if _uid(item) == sop_instance_uid or (len(failed) == 1 and not _uid(item)):
            reason = _first(item, _FAILURE_REASON)
            if isinstance(reason, int):
                outcome = judge_status(reason)
                if outcome.verdict is not Verdict.DELIVERED:
                    return outcome
    if status in (200, 202):
        return Outcome(Verdict.LATER, f"answered HTTP {status}, and does not say that it has the instance")
    return judge_http(status)


def _read(answer: bytes) -> Any:
    """A function that gives the items of a sequence of a DICOM JSON object, which may be anything."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = None
    value = value[0] if isinstance(value, list) and value else value

    def items(tag: str) -> list[Mapping[str, Any]]:
        element = value.get(tag) if isinstance(value, dict) else None
        found = element.get("Value") if isinstance(element, dict) else None
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []

    return items


def _first(item: Mapping[str, Any], tag: str) -> object:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _uid(item: Mapping[str, Any]) -> object:
    return _first(item, _REFERENCED_SOP_INSTANCE_UID)


def stow_tls(*, ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or later that checks chain and name; by the system's CAs where `ca` is None.

    Raises
    ------
    CannotStowError
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate is not None:
            context.load_cert_chain(certificate, key, password=_no_password)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise CannotStowError(
            f"TLS to a destination: {error.strerror or error}; one of {files} is not there or holds no PEM that fits"
        ) from error
    return context


def _no_password() -> str:
    """Instead of OpenSSL asking for one on the terminal."""
    return ""
