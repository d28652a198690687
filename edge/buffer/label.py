"""What the spool knows of an object, written behind its sealed bytes in the same file.

So the file is the truth and the index is a copy of it: one sync makes bytes and row durable together, and a lost
index is made again from the labels. A file with a sound label was written to its end; one without never was, and
nobody was told that it is safe. A label names no patient: UIDs, hashes, AE titles, station and department, sizes and
times.

    sealed bytes | zeros to a multiple of 4,096 | JSON | tail        (the file's size is a multiple of 4,096)
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

from contract.identifiers import ObjectId
from edge.buffer.errors import PermanentSpoolError
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.states import State
from edge.buffer.tables import utc_from_text, utc_text

BLOCK_BYTES = 4096
"""What direct writes are a multiple of, on every disk a box has."""

MAX_LABEL_BYTES = 1 << 16
_MAGIC = b"DNlabel1"
_TAIL = struct.Struct(
    ">IQII8s"
)  # JSON bytes, sealed bytes, CRC-32 of those, CRC-32 of JSON and the above, magic
_CHECKED = struct.Struct(">IQI")
_READ_BYTES = 1 << 20
_IDENTITY = ("sop_class_uid", "sop_instance_uid", "study_instance_uid", "series_instance_uid", "modality")
_MARKS = ("station_name", "department")


class UnlabelledError(PermanentSpoolError):
    """The file has no sound label: it was not written to its end, or the disk has damaged it."""


@dataclass(frozen=True)
class Label:
    """One object. `identity` is None, and `reason` says why, for what quarantine keeps.

    `sealed_for`: ids of the keys that open it, the first central's first; empty in a file from before they were kept.
    """

    object_id: ObjectId
    origin: Origin
    identity: InstanceIdentity | None
    sha256: str
    size_bytes: int
    stored_bytes: int
    received_at_utc: datetime
    reason: str | None = None
    sealed_for: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        return State.READY if self.identity else State.QUARANTINED


class Labelled(NamedTuple):
    """A label read back, with the checksum of the sealed bytes it stands behind."""

    label: Label
    crc32: int


def encode_label(label: Label, sealed_crc32: int) -> bytes:
    """JSON and tail, to end exactly at the file's end."""
    fields = {
        "object_id": label.object_id,
        "origin": vars(label.origin),
        "identity": label.identity and {name: getattr(label.identity, name) for name in _IDENTITY},
        # Beside the identity, where an older program passes over them.
        "marks": label.identity and {name: getattr(label.identity, name) for name in _MARKS},
        "sha256": label.sha256,
        "size_bytes": label.size_bytes,
        "received_at_utc": utc_text(label.received_at_utc),
        "reason": label.reason,
        "sealed_for": label.sealed_for,
    }
    text = json.dumps(fields).encode("ascii")
    checked = _CHECKED.pack(len(text), label.stored_bytes, sealed_crc32)
    return text + checked + struct.pack(">I8s", zlib.crc32(checked, zlib.crc32(text)), _MAGIC)


def read_label(file: BinaryIO) -> Labelled:
    """The label at a file's end; the sealed bytes are not read.

    Raises
    ------
    UnlabelledError
    OSError
    """
    size = file.seek(0, 2)
    return _decoded(lambda wanted: _read_at(file, size - wanted, wanted), size)


def read_label_of(descriptor: int, size: int) -> Labelled:
    """The same of an open file of `size` bytes, nearly always with one read (a lost index wants 100,000).

    Raises as `read_label`.
    """
    return _decoded(lambda wanted: os.pread(descriptor, wanted, size - wanted), size)


def _decoded(read_end: Callable[[int], bytes], size: int) -> Labelled:
    """`read_end` gives so many of the last bytes, at most `size`."""
    end = read_end(min(size, BLOCK_BYTES))
    tail = end[-_TAIL.size :]
    if len(tail) < _TAIL.size:
        raise UnlabelledError("the file ends before its label")
    length, stored_bytes, sealed_crc32, crc32, magic = _TAIL.unpack(tail)
    labelled = length + _TAIL.size
    if magic != _MAGIC or length > MAX_LABEL_BYTES or labelled + stored_bytes > size:
        raise UnlabelledError("the file ends before its label")
    if labelled > len(end):
        end = read_end(labelled)
    text = end[len(end) - labelled : len(end) - _TAIL.size]
    if zlib.crc32(tail[: _CHECKED.size], zlib.crc32(text)) != crc32:
        raise UnlabelledError("the file's label is damaged")
    return Labelled(_from_fields(json.loads(text), stored_bytes), sealed_crc32)


def is_sound(file: BinaryIO, found: Labelled) -> bool:
    """Read the sealed bytes and compare them with the label's checksum."""
    file.seek(0)
    left, crc32 = found.label.stored_bytes, 0
    while left:
        piece = file.read(min(left, _READ_BYTES))
        if not piece:
            return False
        crc32 = zlib.crc32(piece, crc32)
        left -= len(piece)
    return crc32 == found.crc32


def _read_at(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _from_fields(fields: dict[str, Any], stored_bytes: int) -> Label:
    identity = fields["identity"]
    return Label(
        object_id=ObjectId(fields["object_id"]),
        origin=Origin(**fields["origin"]),
        identity=identity and InstanceIdentity(**identity, **(fields.get("marks") or {})),
        sha256=fields["sha256"],
        size_bytes=fields["size_bytes"],
        stored_bytes=stored_bytes,
        received_at_utc=utc_from_text(fields["received_at_utc"]),
        reason=fields["reason"],
        sealed_for=tuple(fields.get("sealed_for") or ()),
    )
