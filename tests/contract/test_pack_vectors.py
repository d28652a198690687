"""A reader of packs written from docs/formats/pack.md alone, against the committed vectors and the contract.

It shares no code with contract.pack: hashlib and int.from_bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contract.identifiers import ObjectId
from contract.pack import (
    ENTRY_BYTES,
    HEADER_BYTES,
    MAX_OBJECTS,
    MAX_PACK_BYTES,
    Fate,
    PackError,
    head_bytes,
    make_pack,
    read_count,
    read_head,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "pack-1.json").read_text())
PACKS, REFUSED = VECTORS["packs"], VECTORS["refused"]


class RefusedError(Exception):
    pass


def read(pack: bytes, pack_id: str) -> dict[str, bytes]:
    """The objects by id, after every check of the document."""
    if pack[:6] != b"DNPK\x01\x00":
        raise RefusedError("header")
    count = int.from_bytes(pack[6:8], "big")
    if not 1 <= count <= 256 or len(pack) < 8 + 20 * count:
        raise RefusedError("count")
    head = pack[: 8 + 20 * count]
    if hashlib.sha256(head).hexdigest()[:32] != pack_id:
        raise RefusedError("id")
    found: dict[str, bytes] = {}
    at, last = len(head), ""
    for number in range(count):
        entry = head[8 + 20 * number : 28 + 20 * number]
        object_id, size = entry[:16].hex(), int.from_bytes(entry[16:], "big")
        if object_id <= last or size == 0:
            raise RefusedError("entry")
        found[object_id] = pack[at : at + size]
        at, last = at + size, object_id
    if at != len(pack) or at > 8 << 20:
        raise RefusedError("length")
    return found


@pytest.mark.parametrize("vector", PACKS, ids=lambda vector: vector["name"])
def test_both_readers_read_what_is_committed(vector: dict[str, Any]) -> None:
    raw, objects = bytes.fromhex(vector["pack"]), vector["objects"]
    assert {key: value.hex() for key, value in read(raw, vector["pack_id"]).items()} == objects
    head = raw[: head_bytes(read_count(raw))]
    pack = read_head(head, pack_id=vector["pack_id"], length_bytes=len(raw))
    found = {
        entry.object_id: raw[entry.offset_bytes : entry.offset_bytes + entry.stored_bytes].hex()
        for entry in pack.entries
    }
    assert found == objects


@pytest.mark.parametrize("vector", PACKS, ids=lambda vector: vector["name"])
def test_the_same_objects_make_the_same_pack_in_whatever_order(vector: dict[str, Any]) -> None:
    sizes = [(ObjectId(object_id), len(sealed) // 2) for object_id, sealed in vector["objects"].items()]
    for ordered in (sizes, sizes[::-1]):
        pack = make_pack(ordered)
        assert pack.pack_id == vector["pack_id"]
        sealed = b"".join(bytes.fromhex(vector["objects"][entry.object_id]) for entry in pack.entries)
        assert (pack.head + sealed).hex() == vector["pack"]
        assert pack.length_bytes == len(pack.head + sealed)


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector["why"])
def test_both_readers_refuse_what_must_be_refused(vector: dict[str, str]) -> None:
    raw = bytes.fromhex(vector["pack"])
    with pytest.raises(RefusedError):
        read(raw, vector["pack_id"])
    with pytest.raises(PackError):
        read_head(raw[: head_bytes(read_count(raw))], pack_id=vector["pack_id"], length_bytes=len(raw))


def test_every_changed_byte_of_the_head_is_refused() -> None:
    vector = PACKS[-1]
    raw = bytes.fromhex(vector["pack"])
    head = raw[: head_bytes(read_count(raw))]
    for at in range(len(head)):
        changed = bytearray(head)
        changed[at] ^= 1
        with pytest.raises(PackError):
            read_head(bytes(changed), pack_id=vector["pack_id"], length_bytes=len(raw))


def test_limits_hold_when_a_pack_is_made() -> None:
    ids = [ObjectId(f"{number:032x}") for number in range(MAX_OBJECTS + 1)]
    for objects in (
        [],
        [(one, 1) for one in ids],
        [(ids[0], 0)],
        [(ids[0], 1), (ids[0], 1)],
        [(ids[0], MAX_PACK_BYTES)],
        [(ids[0], 1 << 40)],
    ):
        with pytest.raises(PackError):
            make_pack(objects)
    assert make_pack([(ids[0], MAX_PACK_BYTES - HEADER_BYTES - ENTRY_BYTES)]).length_bytes == MAX_PACK_BYTES


def test_a_fate_is_either_a_receipt_or_a_problem() -> None:
    for text in (
        '{"object_id": "%s"}' % ("0" * 32),
        '{"object_id": "%s", "receipt": "a", "problem": "urn:dicomnet:problem:not-dicom"}' % ("0" * 32),
        '{"object_id": "%s", "receipt": ""}' % ("0" * 32),
        '{"object_id": "../etc", "receipt": "a"}',
    ):
        with pytest.raises(ValidationError):
            Fate.model_validate_json(text)
