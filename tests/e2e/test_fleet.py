"""A box's uplink, mosquitto and central, for real: who is heard, who is turned away, and what the technician reads."""

from __future__ import annotations

import gzip
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from central.access.policy import Role
from central.audit.reading import Wanted
from central.fleet.sessions import BrokerSessions
from central.fleet.view import BoxView
from contract.command import CommandKind
from contract.control import EnrolParams
from contract.enrolment import BrokerAddress
from contract.heartbeat import CommandAnswer, Equipment, EventKind, Outcome
from edge.app import Box as WholeBox
from edge.config import Settings
from edge.uplink.enrolment import enrol
from edge.uplink.identity import Identity, IdentityStore
from tests.central.app.house import House
from tests.central.fleet.test_broker import Broker, configured_broker
from tests.edge.uplink.test_heartbeat import Box
from tests.peers_installed import program
from tests.ports import free_base_port

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    port = free_base_port(2)
    with House(tmp_path / "central", mqtt={"host": "127.0.0.1", "port": port}) as house:
        yield house


@pytest.fixture
def broker(house: House, tmp_path: Path) -> Iterator[Broker]:
    with configured_broker(house, tmp_path / "broker") as broker:
        broker.start()
        until(lambda: house.central.fleet.broker_state() == "connected", "central hears")
        yield broker


def identity_of(house: House, folder: Path, name: str = "ct1") -> Identity:
    return IdentityStore(folder).save(*enrol(house.pairing(name)))


@pytest.fixture
def identity(house: House, tmp_path: Path) -> Identity:
    return identity_of(house, tmp_path / "identity")


@pytest.fixture
def box(identity: Identity) -> Iterator[Box]:
    box = Box(identity)
    box.heartbeat.start()
    yield box
    box.heartbeat.stop()


def until(holds: Callable[[], bool], what: str, within_s: float = 60) -> None:
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, what
        pause.wait(0.05)


def view(house: House, gateway_id: str = "ct1") -> BoxView:
    return next(view for view in house.central.fleet.boxes() if view.gateway_id == gateway_id)


def kicker(house: House, broker: Broker) -> BrokerSessions:
    foundation = house.central.foundation
    return BrokerSessions(
        foundation.identity,
        "127.0.0.1",
        broker.plan.port,
        True,
        broker.plan.folder,
        foundation.gateways.revoked_serials,
    )


def detail(box: Box) -> str:
    return box.link.status().heartbeat_detail


def test_what_a_box_says_is_on_the_fleet_page(house: House, broker: Broker, box: Box) -> None:
    seen = Equipment(ae_title="CT1", address="10.0.0.9", instances=3, rejected=1, silence="silent",
                     last_store_at_utc=datetime.now(UTC) - timedelta(hours=9))  # fmt: skip
    box.scanners = [seen]
    box.heartbeat.soon()
    until(lambda: len(view(house).equipment) == 1, "its scanner")
    assert view(house).state == "online"
    assert "scanner-silent" in {alert.kind for alert in view(house).alerts}
    assert box.link.status().heartbeat_connected


def test_an_event_of_an_offline_hour_arrives_once(house: House, broker: Broker, box: Box) -> None:
    until(lambda: view(house).state == "online", "online")
    broker.stop()
    until(lambda: not box.link.status().heartbeat_connected, "the line is down")
    for number in range(60):
        box.outbox.add(EventKind.STARTED, f"number {number}")
    broker.start()
    until(lambda: box.outbox.waiting(1) == [], "central has them all")
    heard = house.central.fleet_rooms.fleet._events.last("ct1", 100)  # the page shows ten
    assert [event.detail for event in heard] == [f"number {number}" for number in reversed(range(60))]


def test_a_command_is_carried_and_answered(house: House, broker: Broker, box: Box) -> None:
    until(lambda: view(house).state == "online", "online")
    given = house.central.fleet_rooms.correspondence.command("ct1", CommandKind.PAUSE, {}, "anna")
    until(lambda: [command.id for command in box.commands] == [given.id], "it arrives")
    assert [command.state for command in view(house).commands] == ["sent"]
    answer = CommandAnswer(command_id=given.id, outcome=Outcome.DONE)
    box.outbox.add(EventKind.COMMAND, "sending is paused", answer)
    box.heartbeat.soon()
    until(lambda: view(house).commands[0].state == "done", "it is answered")
    assert view(house).commands[0].detail == "sending is paused"


def test_a_command_for_a_box_that_is_away_waits_for_it(
    house: House, broker: Broker, identity: Identity
) -> None:
    given = house.central.fleet_rooms.correspondence.command("ct1", CommandKind.RESUME, {}, "anna")
    desired = house.central.fleet_rooms.correspondence.desire(
        "ct1", {"log_level": "debug", "gateway.port": 1}
    )
    box = Box(identity)
    box.heartbeat.start()
    try:
        until(lambda: given.id in {command.id for command in box.commands}, "it is given when the box speaks")
        until(lambda: view(house).settings.get("log_level") == "debug", "settings are reported")
        assert view(house).settings_refused == {"gateway.port": "cannot be set from central"}
        assert not view(house).settings_pending
        assert box.remote.reported().version == desired.version
    finally:
        box.heartbeat.stop()


def test_a_killed_broker_is_one_sentence_and_heals(house: House, broker: Broker, box: Box) -> None:
    until(lambda: view(house).state == "online", "online")
    broker.stop(9)
    until(lambda: "nobody listens at the broker 127.0.0.1" in detail(box), "the technician reads why")
    assert view(house).state == "online", "nobody is declared lost while central does not hear"
    broker.start()
    until(lambda: box.link.status().heartbeat_connected, "it heals by itself")
    assert detail(box) == ""


def test_a_revoked_box_is_put_out_at_once_and_stays_out(house: House, broker: Broker, box: Box) -> None:
    until(lambda: view(house).state == "online", "online")
    house.revoke("ct1")
    kicker(house, broker).kick("ct1")
    until(lambda: not box.link.status().heartbeat_connected, "its session ends: nothing but the kick ends it")
    until(lambda: "certificate is revoked" in detail(box), "the technician reads why")
    assert not box.link.status().heartbeat_connected


def test_kicking_one_box_leaves_the_others(house: House, broker: Broker, box: Box, tmp_path: Path) -> None:
    other = Box(identity_of(house, tmp_path / "other", "ct2"))
    other.heartbeat.start()
    try:
        until(lambda: view(house).state == view(house, "ct2").state == "online", "both online")
        session = house.central.fleet._heartbeats.status_of("ct2")
        house.revoke("ct1")
        kicker(house, broker).kick("ct1")
        until(lambda: "revoked" in detail(box), "one is out")
        assert other.link.status().heartbeat_connected
        assert house.central.fleet._heartbeats.status_of("ct2") == session, "in the same session"
    finally:
        other.heartbeat.stop()


def test_kicking_at_a_broker_that_is_away_says_so(house: House, broker: Broker) -> None:
    broker.stop()
    with pytest.raises(OSError):
        kicker(house, broker).kick("ct1")


def with_certificate(identity: Identity, certificate_pem: str) -> Identity:
    """The same box, as if this certificate were its own."""
    (identity.directory / "certificate.pem").write_text(certificate_pem)
    answer = identity.enrolment.answer.model_copy(update={"certificate_pem": certificate_pem})
    return replace(identity, enrolment=identity.enrolment.model_copy(update={"answer": answer}))


def reissued(house: House, identity: Identity, life: timedelta) -> str:
    """A certificate as central issues it, but for its dates."""
    authority = house.central.foundation.identity.authority
    key = identity.certificate.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(identity.certificate.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=70))
        .not_valid_after(datetime.now(UTC) + life)
    )
    for extension in identity.certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def told(identity: Identity) -> str:
    """What the technician reads when a box with this identity tries to report."""
    box = Box(identity)
    box.heartbeat.start()
    try:
        until(lambda: detail(box) != "", "a sentence")
        assert not box.link.status().heartbeat_connected
        return detail(box)
    finally:
        box.heartbeat.stop()


def test_an_expired_certificate_is_one_sentence(house: House, broker: Broker, identity: Identity) -> None:
    expired = with_certificate(identity, reissued(house, identity, timedelta(days=-1)))
    sentence = told(expired)
    assert "its certificate expired on" in sentence
    assert "Enrol it anew" in sentence


def test_a_box_of_another_central_is_one_sentence(
    house: House, broker: Broker, identity: Identity, tmp_path: Path
) -> None:
    with House(tmp_path / "elsewhere") as elsewhere:
        foreign = identity_of(elsewhere, tmp_path / "foreign")
    address = BrokerAddress(host="127.0.0.1", port=broker.plan.port, tls=True)

    def moved(box: Identity, ca: Identity) -> Identity:
        answer = box.enrolment.answer.model_copy(update={"broker": address, "ca_pem": ca.ca_pem})
        return replace(box, enrolment=box.enrolment.model_copy(update={"answer": answer}))

    assert "does not prove to belong to this box's central" in told(moved(foreign, foreign))
    assert "its certificate is of another central" in told(moved(foreign, identity))


def test_two_boxes_with_one_identity_are_told_and_shown(
    house: House, broker: Broker, identity: Identity, tmp_path: Path
) -> None:
    boxes = [Box(identity, directory=tmp_path / f"box-{number}") for number in range(2)]
    for box in boxes:
        box.heartbeat.start()
    try:
        until(lambda: "twin" in {alert.kind for alert in view(house).alerts}, "central shows it", 60)
        until(lambda: any("same identity" in detail(box) or "uses this box's identity" in detail(box)
                          for box in boxes), "the technician reads it", 60)  # fmt: skip
    finally:
        for box in boxes:
            box.heartbeat.stop()


def test_the_same_goes_over_https_where_the_broker_is_out_of_reach(house: House, identity: Identity) -> None:
    """No broker runs at all here."""
    box = Box(identity, https_after_s=1)
    box.outbox.add(EventKind.STARTED, "over HTTPS")
    given = house.central.fleet_rooms.correspondence.command("ct1", CommandKind.RESUME, {}, "anna")
    box.heartbeat.start()
    try:
        until(lambda: view(house).state == "online", "it is heard", 60)
        until(lambda: [event.detail for event in view(house).events] == ["over HTTPS"], "its event is kept")
        until(lambda: given.id in {command.id for command in box.commands}, "and hears")
        until(lambda: box.outbox.waiting(1) == [], "its event is acknowledged")
        assert box.link.status().heartbeat_connected
    finally:
        box.heartbeat.stop()
    assert view(house).state == "offline", "it said goodbye"


class Administrator:
    """Somebody at the fleet page, through its API."""

    def __init__(self, house: House) -> None:
        accounts = house.central.foundation.accounts
        for name, role in (("anna", Role.ADMIN), ("rita", Role.RADIOLOGIST)):
            accounts.create_user(name, "correct horse battery staple", role)
        self._house = house
        self.token = self._sign_in("anna")
        self.radiologist = self._sign_in("rita")

    def _sign_in(self, name: str) -> str:
        form = {"username": name, "password": "correct horse battery staple"}
        answer = httpx.post(self._house.people_url + "/api/auth/token", data=form)
        return str(answer.json()["access_token"])

    def post(self, path: str, wish: dict[str, object], token: str | None = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.post(self._house.people_url + path, json=wish, headers=headers, timeout=60)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(
            self._house.people_url + path, headers={"Authorization": f"Bearer {self.token}"}, timeout=20
        )

    def tell(self, kind: str, **params: str) -> str:
        answer = self.post("/api/gateways/command", {"gateway_id": "ct1", "kind": kind, **params})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def outcome(self, command_id: str) -> tuple[str, str]:
        def state() -> tuple[str, str]:
            [box] = self.get("/api/fleet").json()["boxes"]
            return next((one["state"], one["detail"]) for one in box["commands"] if one["id"] == command_id)

        until(lambda: state()[0] not in ("waiting", "sent"), "an answer")
        return state()

    def recorded(self) -> list[tuple[str, str, str]]:
        rows = self._house.central.foundation.audit.newest(Wanted(), limit=100)
        return [
            (row.event.actor, row.event.outcome, row.event.detail)
            for row in reversed(rows)
            if row.event.action == "box-command"
        ]


@pytest.fixture
def whole_box(house: House, broker: Broker, tmp_path: Path) -> Iterator[WholeBox]:
    scanner_port = free_base_port(1)
    storescp = program("storescp")
    assert storescp is not None
    scanner = subprocess.Popen([storescp, "--ignore", "-aet", "CT1", str(scanner_port)])
    settings = Settings.model_validate(
        {
            "box": {"state_directory": str(tmp_path / "edge")},
            "gateway": {"host": "127.0.0.1", "port": 0},
            "buffer": {"reserve_bytes": 0},
            "uplink": {"backoff_ceiling_s": 0.5},
            "scanners": [
                {"ae_title": "CT1", "host": "127.0.0.1", "port": scanner_port},
                {"ae_title": "MR1", "host": "127.0.0.1", "port": free_base_port(1)},
            ],
        }
    )
    box = WholeBox(settings)
    box.start()
    try:
        box.operations.enrol(EnrolParams(pairing=str(house.pairing("ct1"))))
        yield box
    finally:
        box.stop()
        scanner.terminate()
        scanner.wait(60)


@pytest.mark.needs("dcmtk")
def test_an_administrator_tells_a_whole_box_what_to_do(house: House, whole_box: WholeBox) -> None:
    anna = Administrator(house)
    until(lambda: view(house).state == "online", "online")

    assert anna.outcome(anna.tell("pause"))[0] == "done"
    until(lambda: view(house).paused, "the page says so")
    assert "paused" in {alert.kind for alert in view(house).alerts}
    assert anna.outcome(anna.tell("resume"))[0] == "done"
    until(lambda: not view(house).paused, "and that it goes on")

    state, detail_ = anna.outcome(anna.tell("echo", ae_title="CT1"))
    assert (state, "CT1 answered" in detail_) == ("done", True)
    assert anna.outcome(anna.tell("echo", ae_title="MR1"))[0] == "failed"
    assert anna.outcome(anna.tell("echo", ae_title="XX9"))[0] == "failed", "not configured: not called"
    until(lambda: {one.ae_title: one.echo_ok for one in view(house).equipment} == {"CT1": True, "MR1": False},
          "health of both scanners")  # fmt: skip

    bundle = anna.tell("support-bundle")
    assert anna.outcome(bundle)[0] == "done"
    fetched = anna.get(f"/api/gateways/support/ct1/{bundle}")
    document = json.loads(gzip.decompress(fetched.content))
    assert document["status"]["gateway_id"] == "ct1"
    assert any("sending paused" in line for line in document["log"])
    assert "PRIVATE KEY" not in json.dumps(document)

    wish: dict[str, object] = {
        "gateway_id": "ct1",
        "settings": {"echo_interval_s": 60, "buffer.reserve_bytes": 0},
    }
    assert anna.post("/api/gateways/settings", wish).status_code == 202
    until(lambda: view(house).settings.get("echo_interval_s") == 60, "set without a restart")
    assert set(view(house).settings_refused) == {"buffer.reserve_bytes"}

    refused = anna.post("/api/gateways/command", {"gateway_id": "ct1", "kind": "pause"}, anna.radiologist)
    assert refused.status_code == 403
    assert anna.post("/api/gateways/command", {"gateway_id": "ct1", "kind": "format"}).status_code == 400
    assert anna.post("/api/gateways/command", {"gateway_id": "nobody", "kind": "pause"}).status_code == 404
    recorded = anna.recorded()
    assert ("anna", "success", "ct1 pause") in recorded
    assert ("rita", "refused", "ct1") in recorded
    kinds = {event.kind for event in view(house).events}
    assert {"command", "settings"} <= kinds
