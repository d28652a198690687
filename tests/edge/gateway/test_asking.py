"""A refusal is known for one, however soon the connection is closed behind it."""

from __future__ import annotations

import socket
import threading

from pynetdicom import AE, evt

from edge.gateway.asking import associate
from edge.gateway.pdu import associate_rj
from edge.gateway.sop_classes import VERIFICATION


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
            *listener.getsockname(),
            "WRONG",
            handlers=[
                (evt.EVT_CONN_CLOSE, lambda _: closed.set()),
                (evt.EVT_REQUESTED, lambda _: closed.wait(30)),  # by the thread that asks, before it looks
            ],
        )
        peer.join()
    assert closed.is_set()
    assert (association.is_established, association.is_rejected, refused) == (False, False, True)
