"""The committed vectors, read by this program and by a reader written from docs/formats/sealed-object.md alone."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contract.sealed_object import Content, SealedObjectError, read_sealed
from contract.sealing import RecipientPrivateKey, Unwrapper
from tests.contract.document_reader import read_coded

VECTORS = json.loads((Path(__file__).parent / "vectors" / "sealed-object-1.json").read_text())
CASES = pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
PRIVATE = base64.b64decode(VECTORS["private_key"])


def read_by_the_document(sealed: bytes, private: bytes, key_id: bytes) -> bytes:
    """Whole in memory and without mercy: any fault is an exception."""
    assert sealed[:9] == bytes.fromhex("89444E530D0A1A0A01")
    aead, codec, recipients = sealed[9], sealed[10], sealed[11]
    assert int.from_bytes(sealed[12:16]) == 1_048_576
    object_id = sealed[16:32]
    header = sealed[: 32 + 1184 * recipients]
    wrapped = {header[at : at + 16]: header[at + 16 : at + 1184] for at in range(32, len(header), 1184)}[
        key_id
    ]
    hpke_key = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(private[:64]), X25519PrivateKey.from_private_bytes(private[64:])
    )
    suite = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    data_key = suite.decrypt(wrapped, hpke_key, info=b"dicomnet data key 1")
    header_hash = hashlib.sha256(header).digest()
    info = b"dicomnet object key 1" + header_hash
    key = HKDF(algorithm=hashes.SHA256(), length=32, salt=object_id, info=info).derive(data_key)
    cipher: Any = {1: AESGCM, 2: ChaCha20Poly1305}[aead](key)
    body, last = sealed[len(header) : -56], sealed[-56:]
    coded, counter = b"", 0
    for at in range(0, len(body), 1_048_592):
        nonce = bytes(7) + counter.to_bytes(4) + b"\0"
        coded += cipher.decrypt(nonce, body[at : at + 1_048_592], header_hash)
        counter += 1
    trailer = cipher.decrypt(bytes(7) + counter.to_bytes(4) + b"\1", last, header_hash)
    content = read_coded(codec, coded)
    assert trailer == hashlib.sha256(content).digest() + len(content).to_bytes(8)
    return content


def expected_hash(case: dict[str, Any]) -> str:
    if "content" in case:
        return hashlib.sha256(base64.b64decode(case["content"])).hexdigest()
    return str(case["content_sha256"])


@CASES
def test_our_reader_and_the_documents_agree(case: dict[str, Any]) -> None:
    sealed = base64.b64decode(case["sealed"])
    key_id = bytes.fromhex(VECTORS["key_id"])
    unwrap = Unwrapper({key_id: RecipientPrivateKey(PRIVATE)})
    *pieces, content = read_sealed(io.BytesIO(sealed), unwrap, expected_object_id=case["object_id"])
    assert isinstance(content, Content)
    ours = b"".join(piece for piece in pieces if isinstance(piece, bytes))
    assert ours == read_by_the_document(sealed, PRIVATE, key_id)
    assert content.sha256 == hashlib.sha256(ours).hexdigest() == expected_hash(case)


@CASES
def test_the_changed_form_is_refused(case: dict[str, Any]) -> None:
    unwrap = Unwrapper({bytes.fromhex(VECTORS["key_id"]): RecipientPrivateKey(PRIVATE)})
    with pytest.raises(SealedObjectError):
        list(read_sealed(io.BytesIO(base64.b64decode(case["must_be_refused"])), unwrap))


def test_the_public_key_and_its_id_follow_from_the_private_key() -> None:
    public = RecipientPrivateKey(PRIVATE).public_key()
    assert base64.b64encode(public.raw).decode() == VECTORS["public_key"]
    assert public.key_id.hex() == VECTORS["key_id"]
