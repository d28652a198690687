"""Heartbeats and support bundles over the gateways' listener: who may, and what is refused."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from central.fleet.support import KEPT_BUNDLES, SupportBundles
from contract.command import MAX_SUPPORT_BYTES, SUPPORT_PATH, CommandKind, new_command_id
from contract.heartbeat import HEARTBEAT_PATH, MAX_POST_BYTES, MAX_POST_LETTERS, STATUS, Post
from tests.central.app.house import Box, House, client_tls, enrol
from tests.central.fleet.test_broker import online


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path / "central") as house:
        yield house


@pytest.fixture
def box(house: House, tmp_path: Path) -> Box:
    return enrol(house, tmp_path / "box", "ct1")


def post(box: Box, body: bytes) -> httpx.Response:
    with box.client() as client:
        return client.post(HEARTBEAT_PATH, content=body)


def letters(*said: tuple[str, object]) -> bytes:
    return json.dumps({"letters": [{"below": below, "payload": payload} for below, payload in said]}).encode()


def test_a_status_is_heard_and_what_waits_is_answered(house: House, box: Box) -> None:
    command = house.central.fleet_rooms.correspondence.command("ct1", CommandKind.PAUSE, {}, "anna")
    answer = post(box, letters((STATUS, json.loads(online(box)))))
    assert answer.status_code == 200, answer.text
    said = Post.model_validate_json(answer.content).letters
    assert [letter.below for letter in said] == ["command", "witness"]
    assert command.id in answer.text
    [view] = house.central.fleet.boxes()
    assert (view.state, view.commands[0].state) == ("online", "sent")


def test_a_box_speaks_for_itself_alone(house: House, box: Box, tmp_path: Path) -> None:
    enrol(house, tmp_path / "other", "ct2")
    for below in ("../../ct2/up/status", "dicomnet/v1/ct2/up/status", "/status", "", "down/command"):
        assert post(box, letters((below, json.loads(online(box))))).status_code == 200
    assert {view.state for view in house.central.fleet.boxes()} == {"never"}


def test_nobody_without_a_certificate_nor_a_revoked_box_is_heard(house: House, box: Box) -> None:
    body = letters((STATUS, json.loads(online(box))))
    anonymous = httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem))
    assert anonymous.post(HEARTBEAT_PATH, content=body).status_code in (401, 403)
    house.revoke("ct1")
    assert post(box, body).status_code in (401, 403)
    assert [view.state for view in house.central.fleet.boxes()] == ["never"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"letters": [{"below": "status"}]}', 400),
        (b'{"letters": ' + b"[" * 5000, 400),
        (letters(*[("x", 1)] * (MAX_POST_LETTERS + 1)), 400),
        (b" " * (MAX_POST_BYTES + 1), 413),
    ],
)
def test_what_is_no_post_is_refused(house: House, box: Box, body: bytes, status: int) -> None:
    answer = post(box, body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_bundle_is_taken_only_where_it_was_asked_for(house: House, box: Box, tmp_path: Path) -> None:
    other = enrol(house, tmp_path / "other", "ct2")
    correspondence = house.central.fleet_rooms.correspondence
    asked = correspondence.command("ct1", CommandKind.SUPPORT_BUNDLE, {}, "anna").id
    paused = correspondence.command("ct1", CommandKind.PAUSE, {}, "anna").id
    packed = gzip.compress(b"{}")

    def send(sender: Box, command_id: str, content: bytes = packed) -> int:
        with sender.client() as client:
            return client.post(f"{SUPPORT_PATH}/{command_id}", content=content).status_code

    assert send(other, asked) == 404
    assert send(box, paused) == 404
    assert send(box, new_command_id()) == 404
    assert send(box, "..%2f..%2fkeys") == 404
    assert send(box, asked, b"no gzip") == 413
    assert send(box, asked, packed + bytes(MAX_SUPPORT_BYTES)) == 413
    assert not (house.root / "support").exists()
    assert send(box, asked) == 201
    kept = SupportBundles(house.root / "support").find("ct1", asked)
    assert kept is not None
    assert kept.read_bytes() == packed
    assert kept.stat().st_mode & 0o077 == 0


def test_old_bundles_go(tmp_path: Path) -> None:
    bundles = SupportBundles(tmp_path)
    for number in range(KEPT_BUNDLES + 3):
        bundles.keep("ct1", f"{number:032x}", b"\x1f\x8b")
    assert len(list((tmp_path / "ct1").iterdir())) == KEPT_BUNDLES
