"""The tus checksum extension over real TLS: what fits, what does not, what a cut leaves."""

from __future__ import annotations

import base64
import hashlib
import socket

import httpx
import pytest

from contract.transfer import (
    CHECKSUM_HEADER,
    PACKS_PATH,
    PATCH_CONTENT_TYPE,
    RECEIPT_HEADER,
    UPLOADS_PATH,
    Problem,
)
from tests.central.app.house import Box, House, client_tls, create, everything_in, head


def checksum_of(body: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, body).digest()).decode()}"


def patch(client: httpx.Client, object_id: str, offset: int, body: bytes, checksum: str) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": PATCH_CONTENT_TYPE, CHECKSUM_HEADER: checksum}
    return client.patch(f"{UPLOADS_PATH}/{object_id}", headers=headers, content=body)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_a_body_that_is_what_it_says_is_taken(house: House, box: Box, ct: bytes, algorithm: str) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:1000])
        rest = sealed[1000:]
        answer = patch(client, object_id, 1000, rest, checksum_of(rest, algorithm))
        assert answer.status_code == 204, answer.text
        assert RECEIPT_HEADER in answer.headers
    assert [found.content for found in everything_in(house.root)] == [ct]


def test_a_body_that_is_something_else_leaves_what_was_there(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:1000])
        changed = bytearray(sealed[1000:])
        changed[7] ^= 1
        answer = patch(client, object_id, 1000, bytes(changed), checksum_of(sealed[1000:]))
        assert (answer.status_code, answer.json()["type"]) == (460, Problem.CHECKSUM)
        assert answer.json()["title"] == "Checksum Mismatch"
        assert answer.headers["Upload-Offset"] == head(client, object_id).headers["Upload-Offset"] == "1000"
        assert patch(client, object_id, 1000, sealed[1000:], checksum_of(sealed[1000:])).status_code == 204
    assert [found.content for found in everything_in(house.root)] == [ct]


@pytest.mark.parametrize("said", ["md5 AAAA", "sha256", "sha256 ???", "sha256 " + "=" * 9, ""])
def test_a_checksum_that_is_none_is_refused_before_anything_is_kept(
    house: House, box: Box, ct: bytes, said: str
) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:1000])
        answer = patch(client, object_id, 1000, sealed[1000:], said)
        assert answer.status_code in (400, 460), answer.text
        assert head(client, object_id).headers["Upload-Offset"] == "1000"


def test_what_a_cut_request_brought_is_kept(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:100])
        request = (
            f"PATCH {UPLOADS_PATH}/{object_id} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
            f"Upload-Offset: 100\r\nContent-Type: {PATCH_CONTENT_TYPE}\r\n"
            f"{CHECKSUM_HEADER}: {checksum_of(sealed[100:])}\r\nContent-Length: {len(sealed) - 100}\r\n\r\n"
        )
        with (
            socket.create_connection(("127.0.0.1", house.central.gateways.port)) as raw,
            box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as line,
        ):
            line.sendall(request.encode() + sealed[100:600])
            # Whoever comes later takes the turn from a request that has fallen silent.
            offsets = (head(client, object_id).headers["Upload-Offset"] for _ in range(100))
            assert next(offset for offset in offsets if offset != "100") == "600"


@pytest.mark.parametrize("collection", [UPLOADS_PATH, PACKS_PATH])
def test_what_of_tus_there_is_is_said_to_boxes_alone(house: House, box: Box, collection: str) -> None:
    with box.client() as client:
        answer = client.options(collection)
        assert answer.status_code == 204
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert "checksum" in answer.headers["Tus-Extension"].split(",")
        assert answer.headers["Tus-Checksum-Algorithm"].split(",") == ["sha1", "sha256"]
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        assert nobody.options(collection).status_code == 403
