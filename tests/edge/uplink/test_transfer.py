"""One object over a real TLS line that breaks in every way the protocol foresees."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterator

import httpx
import pytest

from contract.identifiers import ObjectId
from contract.transfer import CHECKSUM_HEADER, CHUNK_BYTES, UPLOADS_PATH, Problem
from edge.uplink.client import open_client
from edge.uplink.errors import (
    CentralFailedError,
    CentralUnreachableError,
    CertificateRefusedError,
    ObjectDamagedError,
    ObjectRefusedError,
    SendingStoppedError,
)
from edge.uplink.transfer import Transfer
from tests.edge.scripted_central import ScriptedCentral, ScriptedHandler
from tests.edge.uplink.conftest import Uplink


class Sealed:
    """The sealed bytes of one stored instance, and a way to send them."""

    def __init__(self, uplink: Uplink, size_bytes: int) -> None:
        stored = uplink.store(size_bytes)
        self.object_id = ObjectId(stored.object_id)
        self.sha256 = stored.sha256
        with uplink.spool.holdings.open_object(stored.object_id) as file:
            self.content = file.read()

    def send(self, transfer: Transfer, *, resume: bool = False, length: int | None = None) -> str:
        return transfer.send(
            self.object_id, io.BytesIO(self.content), length or len(self.content), resume=resume
        )


@pytest.fixture
def client(uplink: Uplink) -> Iterator[httpx.Client]:
    identity = uplink.identity
    with open_client(identity.central_url, identity.tls_context(), timeout_s=30, connections=2) as made:
        yield made


@pytest.fixture
def transfer(client: httpx.Client) -> Transfer:
    return Transfer(client, lambda: False)


def methods(central: ScriptedCentral) -> list[str]:
    return [method for method, path, _ in central.log if path.startswith(UPLOADS_PATH)]


def half_then_cut(handler: ScriptedHandler) -> None:
    """Keep half of the body, as central would what it fsynced, and drop the line."""
    object_id = handler.path.rpartition("/")[2]
    half = handler.body(int(handler.headers["Content-Length"]) // 2)
    with handler.central.lock:
        handler.central.uploads[object_id] += half
    handler.cut()


def test_a_small_object_is_one_request(central: ScriptedCentral, uplink: Uplink, transfer: Transfer) -> None:
    sealed = Sealed(uplink, 3000)
    sealed.send(transfer)
    assert methods(central) == ["POST"]
    assert central.archived[sealed.object_id].sha256 == sealed.sha256


def test_a_large_object_goes_in_chunks(central: ScriptedCentral, uplink: Uplink, transfer: Transfer) -> None:
    sealed = Sealed(uplink, 2 * CHUNK_BYTES + 77)
    first = transfer.pace.chunk_bytes()
    sealed.send(transfer)
    offsets = [offset for method, _, offset in central.log if method == "PATCH"]
    assert offsets[:2] == [0, first]
    ends = [*offsets[1:], len(sealed.content)]
    assert all(0 < end - offset <= CHUNK_BYTES for offset, end in zip(offsets, ends, strict=True))
    assert central.archived[sealed.object_id].sha256 == sealed.sha256


def test_a_cut_in_the_middle_is_resumed_at_the_offset_central_names(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES + 4096)
    central.fault("PATCH", half_then_cut)
    with pytest.raises(CentralFailedError, match=r"the line to .* broke"):
        sealed.send(transfer)
    kept = len(central.uploads[sealed.object_id])
    assert 0 < kept < CHUNK_BYTES
    sealed.send(transfer, resume=True)
    assert [offset for method, _, offset in central.log if method == "PATCH"][1] == kept
    assert bytes(central.uploads[sealed.object_id]) == sealed.content


def test_an_answer_lost_after_completion_costs_one_question(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)

    def archive_and_cut(handler: ScriptedHandler) -> None:
        handler.wfile = io.BytesIO()  # the answer goes nowhere
        handler.honest()
        handler.cut()

    central.fault("POST", archive_and_cut)
    with pytest.raises(CentralFailedError):
        sealed.send(transfer)
    assert sealed.object_id in central.archived
    sealed.send(transfer, resume=True)
    assert methods(central) == ["POST", "HEAD"]
    assert central.doubled == []


def test_an_offset_mismatch_is_settled_by_asking(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES + 10)

    def mismatch(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(409, Problem.OFFSET_MISMATCH)

    central.fault("PATCH", mismatch)
    sealed.send(transfer)
    assert methods(central) == ["POST", "PATCH", "HEAD", "PATCH", "PATCH"]


def test_every_body_carries_its_checksum_and_one_that_came_wrong_is_sent_again(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES + 10)
    said: list[bool] = []

    def came_wrong(handler: ScriptedHandler) -> None:
        body = handler.body()
        algorithm, _, value = handler.headers[CHECKSUM_HEADER].partition(" ")
        said.append(base64.b64decode(value) == hashlib.new(algorithm, body).digest())
        handler.problem(460, Problem.CHECKSUM)

    central.fault("PATCH", came_wrong)
    sealed.send(transfer)
    assert methods(central) == ["POST", "PATCH", "HEAD", "PATCH", "PATCH"]
    assert said == [True]


def test_an_upload_central_forgot_is_created_again(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)
    sealed.send(transfer, resume=True)
    assert methods(central) == ["HEAD", "POST"]


def test_central_going_in_circles_ends_the_attempt(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES + 10)

    def mismatch(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(409, Problem.OFFSET_MISMATCH)

    central.fault("PATCH", mismatch, times=50)
    with pytest.raises(CentralFailedError):
        sealed.send(transfer)
    assert len(central.log) < 20


@pytest.mark.parametrize("offset", ["", "-1", "99999999999999999999", "abc", "1e3"])
def test_an_offset_that_cannot_be_is_not_believed(
    offset: str, central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)

    def answer(handler: ScriptedHandler) -> None:
        handler.body()
        handler.reply(201, Upload_Offset=offset)

    central.fault("POST", answer)
    with pytest.raises(CentralFailedError, match="offset"):
        sealed.send(transfer)


def test_completion_without_a_receipt_is_a_failure_not_a_success(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)
    whole = str(len(sealed.content))
    with central.lock:
        central.lengths[sealed.object_id] = len(sealed.content)

    def silent(handler: ScriptedHandler) -> None:
        handler.body()
        handler.reply(200, Upload_Offset=whole)

    central.fault("POST", silent)
    central.fault("HEAD", silent, times=50)
    with pytest.raises(CentralFailedError, match="no receipt"):
        sealed.send(transfer)


@pytest.mark.parametrize(
    ("status", "problem", "expected"),
    [
        (422, Problem.TAMPERED, ObjectRefusedError),
        (422, Problem.UNKNOWN_KEY, ObjectRefusedError),
        (422, Problem.NOT_DICOM, ObjectRefusedError),
        (410, Problem.ERASED, ObjectRefusedError),
        (413, Problem.TOO_LARGE, ObjectRefusedError),
        (403, Problem.CERTIFICATE, CertificateRefusedError),
        (507, Problem.STORAGE, CentralFailedError),
        (503, Problem.UNAVAILABLE, CentralFailedError),
        (400, Problem.INVALID, CentralFailedError),
    ],
)
def test_each_refusal_has_its_meaning(
    status: int,
    problem: Problem,
    expected: type[Exception],
    central: ScriptedCentral,
    uplink: Uplink,
    transfer: Transfer,
) -> None:
    sealed = Sealed(uplink, 3000)

    def refuse(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(status, problem, "what to do\nnext")

    central.fault("POST", refuse)
    with pytest.raises(expected, match=f"central answered {status}: what to do next"):
        sealed.send(transfer)


@pytest.mark.parametrize("status", [400, 413, 418, 422, 451, 500, 502])
def test_a_bare_status_of_a_proxy_never_condemns_an_object(
    status: int, central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)

    def proxy(handler: ScriptedHandler) -> None:
        handler.body()
        handler.reply(status, b"<html>" + b"x" * 200_000)

    central.fault("POST", proxy)
    with pytest.raises(CentralFailedError) as caught:
        sealed.send(transfer)
    assert caught.value.status == status


def test_a_file_of_the_wrong_length_is_never_sent(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    sealed = Sealed(uplink, 3000)
    with pytest.raises(ObjectDamagedError):
        sealed.send(transfer, length=len(sealed.content) + 1)
    assert methods(central) == []


def test_stopping_ends_an_upload_between_pieces(
    central: ScriptedCentral, uplink: Uplink, client: httpx.Client
) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES)
    pieces = iter(range(1000))
    with pytest.raises(SendingStoppedError):
        sealed.send(Transfer(client, lambda: next(pieces) > 4))


def test_a_lease_that_nearly_ends_stops_an_upload_too(uplink: Uplink, transfer: Transfer) -> None:
    sealed = Sealed(uplink, CHUNK_BYTES)
    pieces = iter(range(1000))
    with pytest.raises(SendingStoppedError):
        transfer.send(
            sealed.object_id,
            io.BytesIO(sealed.content),
            len(sealed.content),
            resume=False,
            stop_at=lambda: next(pieces) > 4,
        )


def test_the_probe_knows_away_from_refused_from_well(
    central: ScriptedCentral, uplink: Uplink, transfer: Transfer
) -> None:
    transfer.probe()
    central.revoked = True
    with pytest.raises(CertificateRefusedError):
        transfer.probe()
    central.stop()
    with pytest.raises(CentralUnreachableError):
        transfer.probe()


def test_a_proxy_in_the_environment_is_not_used(uplink: Uplink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    identity = uplink.identity
    with open_client(identity.central_url, identity.tls_context(), timeout_s=30, connections=1) as client:
        Transfer(client, lambda: False).probe()
