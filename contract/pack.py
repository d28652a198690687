"""Packs: several small sealed objects in one upload, so that a long line costs one round trip and not a hundred.

    header    "DNPK" | version 1 | 0 | count (uint16)                              8 bytes
    manifest  count x ( object id, 16 bytes | size of the sealed object (uint32) ), ids ascending
    objects   the sealed objects as they are, in the manifest's order

Integers are big-endian. Always true: the same objects make the same bytes, and the pack's id is the hash of header and
manifest, so a pack that is sent again meets the first one. Nothing here opens a sealed object: who tampers with one
is found out by its seal, who tampers with the manifest by the id. Normative text: docs/formats/pack.md.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from contract.errors import PermanentError
from contract.identifiers import ObjectId
from contract.transfer import CHUNK_BYTES, Problem

MAX_OBJECTS: Final = 256
MAX_PACK_BYTES: Final = CHUNK_BYTES
"""A pack is never more than one chunk: a box that dies over one sends no more than that again."""
MAX_ANSWER_BYTES: Final = 2 << 20
"""A box reads no more of an answer about a pack than this; 256 fates are about 120 KB."""

HEADER_BYTES: Final = 8
ENTRY_BYTES: Final = 20
_HEADER: Final = struct.Struct(">4sBBH")
_ENTRY: Final = struct.Struct(">16sI")
_MAGIC: Final = b"DNPK"
_VERSION: Final = 1


class PackError(PermanentError):
    """The bytes are not a pack, or not the one they were announced as."""


@dataclass(frozen=True)
class PackEntry:
    """One object: its id, where its sealed bytes begin in the pack, and how many they are."""

    object_id: ObjectId
    offset_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Pack:
    """A pack without its objects' bytes. `head` is header and manifest, the first bytes of the pack."""

    pack_id: str
    head: bytes
    entries: tuple[PackEntry, ...]

    @property
    def length_bytes(self) -> int:
        last = self.entries[-1]
        return last.offset_bytes + last.stored_bytes


def head_bytes(objects: int) -> int:
    """Length of header and manifest for so many objects."""
    return HEADER_BYTES + ENTRY_BYTES * objects


def make_pack(objects: Iterable[tuple[ObjectId, int]]) -> Pack:
    """The pack of these objects (id, size of the sealed object in bytes), in whatever order they come.

    Raises
    ------
    PackError : none or more than `MAX_OBJECTS`, an object twice or empty, or more than `MAX_PACK_BYTES` in all.
    """
    ordered = sorted(objects)
    if not 1 <= len(ordered) <= MAX_OBJECTS:
        raise PackError(f"a pack has 1 to {MAX_OBJECTS} objects, not {len(ordered)}")
    if any(not 1 <= size <= MAX_PACK_BYTES for _, size in ordered):
        raise PackError(f"an object in a pack has 1 to {MAX_PACK_BYTES} bytes")
    head = _HEADER.pack(_MAGIC, _VERSION, 0, len(ordered)) + b"".join(
        _ENTRY.pack(bytes.fromhex(object_id), size) for object_id, size in ordered
    )
    return read_head(head)


def read_count(header: bytes) -> int:
    """How many objects the header in the first 8 bytes announces; PackError if it is none."""
    if len(header) < HEADER_BYTES:
        raise PackError("the pack's header is cut short")
    magic, version, reserved, count = _HEADER.unpack(header[:HEADER_BYTES])
    if (magic, version, reserved) != (_MAGIC, _VERSION, 0):
        raise PackError("this is no pack of version 1")
    if not 1 <= count <= MAX_OBJECTS:
        raise PackError(f"a pack has 1 to {MAX_OBJECTS} objects, not {count}")
    return int(count)


def read_head(head: bytes, *, pack_id: str | None = None, length_bytes: int | None = None) -> Pack:
    """Read header and manifest, which is all of `head`; checked against the id and length they were announced with.

    Raises
    ------
    PackError : malformed, out of order, over a limit, or not what was announced.
    """
    count = read_count(head)
    if len(head) != head_bytes(count):
        raise PackError("the pack's manifest is not as long as its header says")
    entries: list[PackEntry] = []
    at = len(head)
    for raw, size in _ENTRY.iter_unpack(head[HEADER_BYTES:]):
        if not size:
            raise PackError("the pack's manifest names an empty object")
        entries.append(PackEntry(ObjectId(raw.hex()), at, size))
        at += size
    if any(one.object_id >= next_one.object_id for one, next_one in itertools.pairwise(entries)):
        raise PackError("the pack's manifest is out of order, or names an object twice")
    if at > MAX_PACK_BYTES:
        raise PackError(f"a pack has at most {MAX_PACK_BYTES} bytes")
    found = hashlib.sha256(head).digest()[:16].hex()
    if pack_id not in (None, found):
        raise PackError("the pack's manifest is not the one it was announced with")
    if length_bytes not in (None, at):
        raise PackError("the pack is not as long as its manifest says")
    return Pack(found, head, tuple(entries))


class Fate(BaseModel):
    """What became of one object: either a receipt, or a problem with its reason."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    object_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    receipt: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    problem: Problem | None = None
    detail: str = Field(default="", max_length=1024)

    @model_validator(mode="after")
    def _one_of_both(self) -> Fate:
        if (self.receipt is None) == (self.problem is None):
            raise ValueError("a fate is either a receipt or a problem")
        return self


class PackAnswer(BaseModel):
    """Central's word on a whole pack: a fate for each object, in the manifest's order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pack_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    objects: tuple[Fate, ...] = Field(min_length=1, max_length=MAX_OBJECTS)
