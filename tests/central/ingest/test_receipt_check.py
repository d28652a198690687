"""Central says which receipts it does not know: to known gateways only, over real TLS."""

from __future__ import annotations

import json

import httpx
import pytest

from contract.receipt import Receipt
from contract.receipt_check import MAX_CHECK_BYTES, MAX_CHECKED, RECEIPT_CHECK_PATH
from contract.transfer import Problem
from tests.central.app.house import Box, House, client_tls


def shown(*receipts: Receipt, **changes: str) -> list[dict[str, str]]:
    return [{"object_id": one.object_id, "sha256": one.sha256} | changes for one in receipts]


def check(client: httpx.Client, gateway_id: str, receipts: list[dict[str, str]]) -> list[str]:
    answer = client.post(RECEIPT_CHECK_PATH, json={"gateway_id": gateway_id, "receipts": receipts})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    unknown: list[str] = answer.json()["unknown"]
    return unknown


def test_what_was_signed_is_known_and_nothing_else_is(house: House, box: Box, ct: bytes) -> None:
    receipt = box.deliver(ct)
    strange = {"object_id": "f" * 32, "sha256": receipt.sha256}
    with box.client() as client:
        assert check(client, box.gateway_id, shown(receipt)) == []
        assert house.refusals() == []
        assert check(client, box.gateway_id, [strange, *shown(receipt)]) == ["f" * 32]
        assert check(client, box.gateway_id, shown(receipt, sha256="0" * 64)) == [receipt.object_id]
        assert check(client, "another", shown(receipt)) == [receipt.object_id]
        full = [{"object_id": f"{number:032x}", "sha256": "0" * 64} for number in range(MAX_CHECKED)]
        assert len(check(client, box.gateway_id, full)) == MAX_CHECKED
    action, detail = house.refusals()[0]
    assert (action, detail) == ("receipts-unknown", "1 of 2 receipts that this box shows are not known here")


def test_only_known_gateways_may_ask(house: House, box: Box) -> None:
    asked = {"gateway_id": box.gateway_id, "receipts": [{"object_id": "0" * 32, "sha256": "0" * 64}]}
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        refused = nobody.post(RECEIPT_CHECK_PATH, json=asked)
        assert (refused.status_code, refused.json()["type"]) == (403, Problem.CERTIFICATE)
    house.revoke(box.gateway_id)
    with box.client() as client:
        assert client.post(RECEIPT_CHECK_PATH, json=asked).status_code == 403
        assert client.get(RECEIPT_CHECK_PATH).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"gateway_id": "ct", "receipts": []}',
        b'{"gateway_id": "ct", "receipts": [{"object_id": "x", "sha256": "y"}]}',
        json.dumps(
            {"gateway_id": "ct", "receipts": [{"object_id": "0" * 32, "sha256": "0" * 64}] * 501}
        ).encode(),
        b" " * (MAX_CHECK_BYTES + 1),
    ],
)
def test_nonsense_is_no_check(box: Box, body: bytes) -> None:
    with box.client() as client:
        refused = client.post(RECEIPT_CHECK_PATH, content=body)
        assert (refused.status_code, refused.json()["type"]) == (400, Problem.INVALID)
