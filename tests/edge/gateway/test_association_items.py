"""What equipment says at the beginning besides what this box acts on: passed over, and the association comes about."""

from __future__ import annotations

import struct

import pytest

from edge.gateway.association_items import decodable
from edge.gateway.errors import ProtocolError
from tests.edge.gateway.conftest import Gateway
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    associate_rq,
    item,
    pdu,
)

CONTEXTS = [(1, VERIFICATION, [IMPLICIT_LITTLE]), (3, CT_STORAGE, [EXPLICIT_LITTLE])]


def with_more(user_information: bytes = b"", items: bytes = b"") -> bytes:
    """A request with further items in its user information, and behind it."""
    plain = associate_rq(CONTEXTS)
    at = plain.rindex(item(0x52, b"1.2.3.4")) - len(item(0x51, bytes(4)))
    return pdu(0x01, plain[6 : at - 4] + item(0x50, plain[at:] + user_information) + items)


def identity(kind: int) -> bytes:
    """A user identity (PS3.7 Table D.3-14) that asks for an answer."""
    return item(0x58, struct.pack(">BBH4sH", kind, 1, 4, b"user", 0))


@pytest.mark.parametrize(
    "request_pdu",
    [
        with_more(item(0x60, b"something of tomorrow")),
        with_more(items=item(0x77, b"something else")),
        with_more(item(0x53, struct.pack(">HH", 8, 8))),  # asynchronous operations
        with_more(item(0x56, struct.pack(">H", len(CT_STORAGE)) + CT_STORAGE.encode() + bytes(6))),
        with_more(identity(0)),
        with_more(identity(2)),
        with_more(identity(200)),
        with_more(item(0x55, b"A VERSION NAME OF 31 CHARACTERS")),
        with_more(item(0x55, "Gerät 7".encode("latin-1"))),
        associate_rq(CONTEXTS, calling=b"CT1".ljust(16, b"\0"), called=b"DICOMNET".ljust(16, b"\0")),
    ],
    ids=[
        "user item",
        "item",
        "async",
        "extended",
        "identity 0",
        "identity 2",
        "identity 200",
        "long name",
        "latin",
        "zeros",
    ],
)
def test_what_is_not_negotiated_is_passed_over(request_pdu: bytes, gateway: Gateway) -> None:
    with gateway.connect() as scu:
        scu.send(request_pdu)
        kind, body = scu.read_pdu()
        assert kind == 0x02
        scu.release()
    user_information = body[body.rindex(b"\x50\0") + 4 :]
    assert user_information.startswith(item(0x51, struct.pack(">I", 262_144)) + b"\x52")
    assert user_information.endswith(item(0x55, b"DICOMNET"))  # nothing is answered to what was passed over
    assert gateway.spool.scanners.all() == []


@pytest.mark.parametrize("items", [b"\x10\0\0", item(0x20, bytes(400))[:40], item(0x50, b"\x51\0\0\x08abcd")])
def test_items_that_do_not_add_up(items: bytes) -> None:
    head = pdu(0x01, struct.pack(">HH", 1, 0) + b"A".ljust(16) + b"B".ljust(16) + bytes(32))
    with pytest.raises(ProtocolError):
        decodable(head + items, called_ae_title="A", calling_ae_title="B")
