"""Associations that central asks for: a rejection is known for one, however soon the connection is closed behind it."""

from __future__ import annotations

import socket
import threading

import pytest

from central.dimse.calling import called
from central.dimse.errors import CallFailedError
from central.dimse.server import VERIFICATION
from central.dimse.settings import DimseSettings
from tests.central.dimse.house import PEER
from tests.peers.scripted_scu import IMPLICIT_LITTLE, pdu


def test_a_rejection_is_known_though_the_connection_closes_at_once() -> None:
    def reject(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(65_536)
            peer.sendall(pdu(3, b"\0\1\1\7"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        settings = DimseSettings.model_validate({"peers": [{**PEER, "host": host, "port": port}]})
        thread = threading.Thread(target=reject, args=(listener,))
        thread.start()
        with (
            pytest.raises(CallFailedError, match="rejects the association"),
            called(settings, settings.peers[0], [(VERIFICATION, [IMPLICIT_LITTLE])]),
        ):
            pass
        thread.join()
