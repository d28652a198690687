"""Associations that central asks for: a rejection is known for one, however soon the connection is closed behind it."""

from __future__ import annotations

import socket
import threading

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association

from central.dimse.calling import called
from central.dimse.errors import CallFailedError
from central.dimse.server import VERIFICATION
from central.dimse.settings import DimseSettings
from tests.central.dimse.house import PEER
from tests.peers.scripted_scu import IMPLICIT_LITTLE, pdu


def test_a_rejection_is_known_though_the_connection_closes_before_who_asked_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = threading.Event()
    associate = AE.associate

    def slowly(ae: AE, *where: object, **said: object) -> Association:
        handlers = [*said.pop("evt_handlers", []), (evt.EVT_CONN_CLOSE, lambda _: closed.set())]  # type: ignore[misc]
        handlers.append((evt.EVT_REQUESTED, lambda _: closed.wait(30)))  # who asks, before it looks
        return associate(ae, *where, evt_handlers=handlers, **said)  # type: ignore[arg-type]

    monkeypatch.setattr(AE, "associate", slowly)

    def reject(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(65_536)
            peer.sendall(pdu(3, b"\0\1\1\7"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        one = {**PEER, "host": host, "port": port}
        settings = DimseSettings.model_validate({"peers": [one]})
        thread = threading.Thread(target=reject, args=(listener,))
        thread.start()
        with (
            pytest.raises(CallFailedError, match="rejects the association"),
            called(settings, settings.peers[0], [(VERIFICATION, [IMPLICIT_LITTLE])]),
        ):
            pass
        thread.join()
