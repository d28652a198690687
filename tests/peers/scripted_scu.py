"""A C-STORE user written out byte by byte, so that it can do what no library lets it do.

Encodes PDUs and command sets by its own hand: an oracle for the gateway's reader, not a mirror of it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Self

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_rq(
    contexts: list[tuple[int, str, list[str]]],
    *,
    calling: bytes = b"CT1",
    called: bytes = b"DICOMNET",
    max_pdu_bytes: int = 16_384,
    version: int = 1,
    application_context: str = "1.2.840.10008.3.1.1.1",
) -> bytes:
    """An A-ASSOCIATE-RQ that proposes (id, abstract syntax, transfer syntaxes)."""
    items = item(0x10, application_context.encode())
    for context_id, abstract, transfers in contexts:
        names = item(0x30, abstract.encode()) + b"".join(item(0x40, name.encode()) for name in transfers)
        items += item(0x20, bytes((context_id, 0, 0, 0)) + names)
    items += item(0x50, item(0x51, struct.pack(">I", max_pdu_bytes)) + item(0x52, b"1.2.3.4"))
    head = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + bytes(32)
    return pdu(0x01, head + items)


def element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHI", 0, number, len(value)) + value


def even(text: str) -> bytes:
    raw = text.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def c_store_rq(sop_class: str, sop_instance: str, *, message_id: int = 1) -> bytes:
    body = (
        element(0x0002, even(sop_class))
        + element(0x0100, struct.pack("<H", 1))
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0700, struct.pack("<H", 0))
        + element(0x0800, struct.pack("<H", 1))
        + element(0x1000, even(sop_instance))
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def command(field: int, *, message_id: int = 1, has_data_set: bool = False) -> bytes:
    body = (
        element(0x0100, struct.pack("<H", field))
        + element(0x0110, struct.pack("<H", message_id))
        + element(0x0800, struct.pack("<H", 1 if has_data_set else 0x0101))
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def p_data(context_id: int, control: int, data: bytes) -> bytes:
    return pdu(0x04, struct.pack(">IBB", len(data) + 2, context_id, control) + data)


@dataclass(frozen=True)
class Response:
    status: int
    comment: str
    elements: dict[int, bytes]


class ScriptedScu:
    """One TCP connection to the gateway. Every wait is bounded, so a gateway that hangs fails the test."""

    def __init__(
        self, port: int, *, timeout_s: float = 60.0, host: str = "127.0.0.1", source: str = ""
    ) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def associate(self, contexts: list[tuple[int, str, list[str]]] | None = None, **more: object) -> bytes:
        """Ask for an association; the body of the A-ASSOCIATE-AC."""
        self.send(associate_rq(contexts or [(1, CT_STORAGE, [EXPLICIT_LITTLE])], **more))  # type: ignore[arg-type]
        kind, body = self.read_pdu()
        assert kind == 0x02, f"PDU type {kind} instead of an A-ASSOCIATE-AC"
        return body

    def store(
        self,
        data: bytes,
        sop_instance: str,
        *,
        sop_class: str = CT_STORAGE,
        context_id: int = 1,
        fragment_bytes: int = 16_000,
    ) -> Response:
        self.send(p_data(context_id, 3, c_store_rq(sop_class, sop_instance)))
        pieces = [data[at : at + fragment_bytes] for at in range(0, len(data), fragment_bytes)] or [b""]
        for piece in pieces[:-1]:
            self.send(p_data(context_id, 0, piece))
        self.send(p_data(context_id, 2, pieces[-1]))
        return self.read_response()

    def read_response(self) -> Response:
        raw = b""
        control = 0
        while not control & 2:
            kind, body = self.read_pdu()
            assert kind == 0x04, f"PDU type {kind} instead of a response"
            control = body[5]
            raw += body[6:]
        elements: dict[int, bytes] = {}
        at = 0
        while at < len(raw):
            _, number, length = struct.unpack_from("<HHI", raw, at)
            elements[number] = raw[at + 8 : at + 8 + length]
            at += 8 + length
        comment = elements.get(0x0902, b"").decode().strip()
        return Response(int.from_bytes(elements[0x0900], "little"), comment, elements)

    def read_pdu(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._exactly(6))
        return kind, self._exactly(length)

    def wait_for_close(self) -> bytes:
        """Everything the gateway still sends, until it closes."""
        held = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := self.socket.recv(65_536):
                held += piece
        return held

    def release(self) -> None:
        self.send(pdu(0x05, bytes(4)))
        assert self.read_pdu()[0] == 0x06

    def _exactly(self, size: int) -> bytes:
        held = b""
        while len(held) < size:
            piece = self.socket.recv(size - len(held))
            assert piece, "the gateway closed the connection"
            held += piece
        return held


def ds_element(group: int, number: int, vr: str, value: bytes, *, implicit: bool = False) -> bytes:
    """One data element, little endian."""
    value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    if implicit:
        return struct.pack("<HHI", group, number, len(value)) + value
    if vr in {"OB", "OW", "SQ", "UN", "UT"}:
        return struct.pack("<HH2sHI", group, number, vr.encode(), 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value


def small_data_set(
    sop_instance: str = "1.2.3.1",
    *,
    sop_class: str = CT_STORAGE,
    study: str = "1.2.9",
    series: str = "1.2.9.1",
    pixels: bytes = b"\x01\x02" * 500,
    implicit: bool = False,
) -> bytes:
    """The least that is an instance; an empty UID leaves its element out."""
    parts = [
        (0x0008, 0x0016, "UI", sop_class.encode()),
        (0x0008, 0x0018, "UI", sop_instance.encode("latin-1")),
        (0x0008, 0x0060, "CS", b"CT"),
        (0x0010, 0x0010, "PN", b"CANARY^PATIENT"),
        (0x0010, 0x0030, "DA", b"19700131"),
        (0x0020, 0x000D, "UI", study.encode("latin-1")),
        (0x0020, 0x000E, "UI", series.encode("latin-1")),
        (0x7FE0, 0x0010, "OW", pixels),
    ]
    return b"".join(ds_element(*part, implicit=implicit) for part in parts if part[3])
