"""A refusal is known for one, however soon the connection is closed behind it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest
from pynetdicom import AE, evt

from edge.gateway.addresses import Address
from edge.gateway.asking import associate
from edge.gateway.echo import echo
from edge.gateway.pdu import associate_rj
from edge.gateway.sop_classes import VERIFICATION
from tests.peers.scripted_scu import IMPLICIT_LITTLE, item, p_data, pdu


def test_a_refusal_is_known_though_the_connection_closes_before_who_asked_goes_on() -> None:
    closed = threading.Event()

    def refuse(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(65_536)
            peer.sendall(associate_rj(1, 1, 7))

    ae = AE(ae_title="TECH")
    ae.connection_timeout = ae.acse_timeout = ae.network_timeout = 30
    ae.add_requested_context(VERIFICATION)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=refuse, args=(listener,))
        peer.start()
        association, refused = associate(
            ae,
            Address(*listener.getsockname()),
            "WRONG",
            handlers=[
                (evt.EVT_CONN_CLOSE, lambda _: closed.set()),
                (evt.EVT_REQUESTED, lambda _: closed.wait(30)),  # by the thread that asks, before it looks
            ],
        )
        peer.join()
    assert closed.is_set()
    assert (association.is_established, association.is_rejected, refused) == (False, False, True)


MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (struct.pack(">BBI", 0x04, 0, 0xFFFFFFF0), bytes(MEBIBYTE)),
        (b"", p_data(1, 1, bytes(16_000)) * 64),
    ],
    ids=["a PDU without end", "fragments without end"],
)
def test_an_answer_without_end_is_not_taken_into_memory(first: bytes, then: bytes) -> None:
    accepted = item(0x21, bytes((1, 0, 0, 0)) + item(0x40, IMPLICIT_LITTLE.encode()))
    said = item(0x50, item(0x51, struct.pack(">I", 16_384)) + item(0x52, b"1.2.3"))
    head = struct.pack(">HH", 1, 0) + b"THERE".ljust(16) + b"TECH".ljust(16) + bytes(32)
    sent = 0

    def answer(listener: socket.socket) -> None:
        nonlocal sent
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):  # the box hangs up
            peer.recv(65_536)
            peer.sendall(pdu(0x02, head + item(0x10, b"1.2.840.10008.3.1.1.1") + accepted + said))
            peer.recv(65_536)  # the C-ECHO-RQ
            peer.sendall(first)
            while sent < 256 * MEBIBYTE:
                peer.sendall(then)
                sent += len(then)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=answer, args=(listener,))
        peer.start()
        began_s = time.monotonic()
        result = echo(Address(*listener.getsockname()), "THERE", "TECH", 60)
        assert time.monotonic() - began_s < 50  # it did not wait for the end
        peer.join(60)
    assert not result.ok
    assert sent < 32 * MEBIBYTE  # most of it is in the kernel's hands
