"""The vectors of docs/formats/object-at-rest.md, by a reader that was written from it alone, and by central."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from central.archive.errors import ObjectDamagedError
from central.archive.sealed_file import FrameWriter, SealedFile
from central.archive.study_keys import StudyKeys
from central.database import open_sqlite
from central.identity.keyfiles import write_whole
from central.identity.storage_keys import StorageKeys
from tests.central.archive import at_rest_reader

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "object-at-rest-1.json").read_text()
)
OBJECTS: list[dict[str, Any]] = VECTORS["objects"]
STUDY: str = VECTORS["study_instance_uid"]


def the_content(vector: dict[str, Any]) -> bytes:
    """Byte i is i times 31 modulo 251."""
    return bytes(i * 31 % 251 for i in range(vector["size"]))


def written(vector: dict[str, Any]) -> bytes:
    writer = FrameWriter(bytes.fromhex(vector["object_key"]))
    content = the_content(vector)
    pieces = [writer.begin()]
    for at in range(0, len(content), 40_000):
        pieces += writer.add(content[at : at + 40_000])
    return b"".join([*pieces, writer.finish()])


@pytest.mark.parametrize("vector", OBJECTS, ids=lambda vector: str(vector["size"]))
def test_the_document_and_central_agree(tmp_path: Path, vector: dict[str, Any]) -> None:
    file, content = written(vector), the_content(vector)
    assert hashlib.sha256(file).hexdigest() == vector["address"]
    assert file.hex().startswith(vector["begins_with"])
    assert hashlib.sha256(content).hexdigest() == vector["sha256"]
    storage_key = bytes.fromhex(VECTORS["storage_key"])
    wrapped = bytes.fromhex(VECTORS["wrapped_study_key"])
    study_key = at_rest_reader.study_key(storage_key, wrapped, STUDY)
    place = vector["address"], vector["sha256"], vector["size"]
    key = at_rest_reader.object_key(study_key, bytes.fromhex(vector["wrapped_object_key"]), *place)
    assert key.hex() == vector["object_key"]
    assert at_rest_reader.content(file, key, vector["size"]) == content

    assert VECTORS["storage_key_id"] == f"storage-1-{at_rest_reader.fingerprint(storage_key)}"
    write_whole(tmp_path / f"{VECTORS['storage_key_id']}.key", storage_key)
    db = open_sqlite(tmp_path / "x.sqlite3")
    row = {
        "address": vector["address"],
        "sha256": vector["sha256"],
        "size_bytes": vector["size"],
        "study_instance_uid": STUDY,
        "wrapped_key": bytes.fromhex(vector["wrapped_object_key"]),
        "storage_key_id": VECTORS["storage_key_id"],
        "wrapped_study_key": wrapped,
    }
    keys = StudyKeys(db, StorageKeys(tmp_path))
    opened = keys.unwrap(row)
    (tmp_path / "file").write_bytes(file)
    assert SealedFile(tmp_path / "file", opened.address, vector["size"], opened.key).read_bytes() == content
    for wrong in ({"size_bytes": vector["size"] + 1}, {"sha256": "0" * 64}, {"address": "1" * 64}):
        with pytest.raises(ObjectDamagedError):
            keys.unwrap({**row, **wrong})
    db.end()


def test_a_wrapped_study_key_opens_under_its_own_study_only() -> None:
    with pytest.raises(InvalidTag):
        at_rest_reader.study_key(
            bytes.fromhex(VECTORS["storage_key"]), bytes.fromhex(VECTORS["wrapped_study_key"]), STUDY + "1"
        )
