"""Our own associations against other sides that refuse, lie or go silent; good ones are DCMTK's in test_query."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event

from edge.gateway.addresses import Address
from edge.gateway.calling import CallFailedError, OutgoingAssociation
from edge.gateway.command_set import CommandField, Element
from edge.gateway.errors import GatewayError
from edge.gateway.negotiation import Context
from edge.gateway.service import Call
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, IMPLICIT_LITTLE, item, pdu, small_data_set

CONTEXTS = [Context(CT_STORAGE, EXPLICIT_LITTLE), Context(CT_STORAGE, IMPLICIT_LITTLE)]


def connect(port: int) -> OutgoingAssociation:
    return OutgoingAssociation.connect(
        Address("127.0.0.1", port), called_ae_title="THERE", calling_ae_title="DICOMNET", contexts=CONTEXTS
    )


@contextmanager
def answering(answer: bytes, *, awaits_release: bool = False) -> Iterator[int]:
    """The port of a listener that gives one caller this answer, and ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(65_536)
                sock.sendall(answer)
                if awaits_release:
                    sock.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "did not answer as a DICOM node"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not answer as a DICOM node"),
        (pdu(0x03, bytes((0, 1, 1, 3))), "does it know this box as DICOMNET"),
        (pdu(0x03, bytes((0, 1, 1, 7))), "THERE is not how it calls itself"),
        (pdu(0x03, bytes((0, 2, 3, 2))), "no further association now"),
        (struct.pack(">BBI", 0x02, 0, 0xFFFFFFF0), "did not answer as a DICOM node"),
        (pdu(0x02, b"\xff" * 200), "did not answer as a DICOM node"),
        (pdu(0x02, bytes(68))[:40], "did not answer as a DICOM node"),
    ],
)
def test_what_is_no_acceptance(answer: bytes, reason: str) -> None:
    with answering(answer) as port, pytest.raises(CallFailedError, match=reason):
        connect(port)


def test_items_and_names_of_an_acceptance_that_mean_nothing_are_passed_over() -> None:
    accepted = item(0x21, bytes((1, 0, 0, 0)) + item(0x40, EXPLICIT_LITTLE.encode()))
    said = item(0x50, item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3") + item(0x60, b"what?"))
    head = struct.pack(">HH", 1, 0) + b"THERE".ljust(32, b"\0") + bytes(32)
    answer = pdu(0x02, head + item(0x10, b"1.2.840.10008.3.1.1.1") + accepted + said)
    with answering(answer, awaits_release=True) as port, connect(port) as association:
        assert dict(association.peer.contexts) == {1: CONTEXTS[0]}


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(CallFailedError, match="check address, port and cable"):
        connect(port)


def test_a_data_set_goes_out_in_pieces_the_other_side_takes() -> None:
    received: list[bytes] = []

    def take(event: Event) -> int:
        received.append(event.request.DataSet.getvalue())
        return 0xB000

    data = small_data_set(pixels=bytes(range(256)) * 1000)
    ae = AE("THERE")
    ae.maximum_pdu_size = 5000
    ae.add_supported_context(CT_STORAGE, [EXPLICIT_LITTLE])
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        with connect(server.server_address[1]) as association:
            assert dict(association.peer.contexts) == {1: CONTEXTS[0]}
            answer = association.peer.call(store([data[:10], b"", data[10:]]), timeout_s=60)
    finally:
        server.shutdown()

    assert answer.status == 0xB000
    assert received == [data]


def test_an_object_that_breaks_off_ends_the_association() -> None:
    def broken() -> Iterator[bytes]:
        yield small_data_set()
        raise ValueError("damaged")

    received: list[Event] = []
    ended = threading.Event()
    ae = AE("THERE")
    ae.add_supported_context(CT_STORAGE, [EXPLICIT_LITTLE])
    handlers = [(evt.EVT_C_STORE, received.append), (evt.EVT_ABORTED, lambda _: ended.set())]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        with pytest.raises(GatewayError, match="could not finish"), connect(server.server_address[1]) as to:
            to.peer.call(Call(1, CommandField.C_STORE_RQ, ELEMENTS, broken()), timeout_s=60)
        assert ended.wait(60)
    finally:
        server.shutdown()
    assert received == []


ELEMENTS: dict[int, bytes] = {
    Element.AFFECTED_SOP_CLASS_UID: CT_STORAGE.encode(),
    Element.AFFECTED_SOP_INSTANCE_UID: b"1.2.3.1",
    Element.PRIORITY: b"\0\0",
}


def store(pieces: list[bytes]) -> Call:
    return Call(1, CommandField.C_STORE_RQ, ELEMENTS, pieces)
