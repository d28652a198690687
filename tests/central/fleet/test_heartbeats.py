"""What counts of what the boxes say, by a clock of the test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from central.fleet.commands import Commands
from central.fleet.correspondence import Correspondence, Down
from central.fleet.desired import DesiredSettings
from central.fleet.events import Events
from central.fleet.fleet import Ear, Fleet
from central.fleet.heartbeats import Heartbeats
from central.fleet.witnesses import Witnesses
from central.identity.authority import CertificateAuthority
from central.identity.gateways import Gateways, requested_key
from contract.command import Reported, SettingValue
from contract.enrolment import decode_request
from contract.heartbeat import (
    EQUIPMENT,
    LOST_AFTER_S,
    MAX_PAYLOAD_BYTES,
    REPORTED,
    STATUS,
    BoxState,
    Equipment,
    Silence,
    Status,
    Telemetry,
    equipment_key,
    equipment_topic,
    status_topic,
    telemetry_topic,
    up_topic,
)
from tests.central.app.house import new_key_and_request
from tests.central.databases import open_index

T0 = datetime(2030, 1, 1, tzinfo=UTC)
SCANNER = (
    b'{"ae_title":"CT1","address":"10.0.0.9","last_store_at_utc":"2030-01-01T00:00:00Z",'
    b'"instances":1,"rejected":0}'
)
TELEMETRY = (
    b'{"captured_at_utc":"2030-01-01T00:00:00Z","queue_objects":0,"queue_bytes":0,"quarantined_objects":0,'
    b'"disk_total_bytes":1,"disk_free_bytes":1,"accepting":true,"memory_bytes":1,"uptime_s":1.5}'
)


class Scene:
    """A register with one box, and ears; broker connected for as long as the test says."""

    def __init__(self, folder: Path) -> None:
        self.now = T0
        self.connected_s: float | None = 1e6
        self.db = open_index(folder)
        self.gateways = Gateways(self.db, CertificateAuthority.open(folder))
        _, request = new_key_and_request()
        self.box, _ = self.gateways.register("box", requested_key(decode_request(request)))
        self.said: list[Down] = []
        self.heartbeats = Heartbeats(self.db, lambda: self.now)
        self.commands = Commands(self.db, lambda: self.now)
        self.newest: str | None = None  # of central's checkpoints
        self.elapsed_s = 0.0
        self.correspondence, self.fleet = self.open(self)

    def open(self, ear: Ear | None) -> tuple[Correspondence, Fleet]:
        """As central does it at its start."""
        events, desired = Events(self.db, lambda: self.now), DesiredSettings(self.db)
        witnesses = Witnesses(
            lambda: self.newest,
            lambda words: [word for word in words if word.startswith("lost.")],
            lambda: self.elapsed_s,
        )
        correspondence = Correspondence(
            self.gateways,
            self.heartbeats,
            events,
            self.commands,
            desired,
            witnesses,
            self.say,
            lambda: self.now,
        )
        fleet = Fleet(
            self.gateways,
            self.heartbeats,
            events,
            self.commands,
            desired,
            witnesses,
            ear,
            correspondence.https_heard_at,
            lambda _gateway_id: False,
            lambda: self.now,
        )
        return correspondence, fleet

    def say(self, down: Down) -> bool:
        if self.connected_s is not None:
            self.said.append(down)
        return self.connected_s is not None

    def hear(self, topic: str, payload: bytes, *, retained: bool = False) -> bool:
        return self.correspondence.hear_mqtt(topic, payload, retained)

    def connected_for_s(self) -> float | None:
        return self.connected_s

    def status(
        self,
        state: BoxState,
        session: str = "a" * 16,
        since: datetime = T0,
        *,
        retained: bool = False,
        boot: int = 0,
        connection: int = 0,
        run: str = "0" * 16,
    ) -> bool:
        status = Status(
            state=state,
            session=session,
            since_utc=since,
            version="1",
            boot=boot,
            connection=connection,
            run=run,
        )
        return self.hear(status_topic(self.box), status.model_dump_json().encode(), retained=retained)

    def telemetry(self, at: datetime, *, retained: bool = False) -> bool:
        said = Telemetry(
            captured_at_utc=at, queue_objects=3, queue_bytes=30, quarantined_objects=1, disk_total_bytes=100,
            disk_free_bytes=50, accepting=True, memory_bytes=1, uptime_s=1, key_place="tpm",
        )  # fmt: skip
        return self.hear(telemetry_topic(self.box), said.model_dump_json().encode(), retained=retained)

    def state(self) -> str:
        (box,) = self.fleet.boxes()
        return box.state


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.db.close()


def test_a_box_that_never_spoke_is_shown(scene: Scene) -> None:
    (box,) = scene.fleet.boxes()
    assert (box.gateway_id, box.state, box.since_utc, box.queue_objects) == ("box", "never", None, None)
    assert box.certificate_expires_at_utc is not None
    assert box.key_place is None


def test_online_silence_and_back(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.telemetry(T0)
    assert scene.state() == "online"
    scene.now += timedelta(seconds=LOST_AFTER_S + 1)
    (box,) = scene.fleet.boxes()
    assert (box.state, box.since_utc, box.key_place) == ("lost", T0, "tpm")
    scene.telemetry(scene.now)
    assert scene.state() == "online"


def test_nobody_is_declared_lost_while_central_does_not_hear(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.now += timedelta(hours=1)
    scene.connected_s = None
    assert (scene.state(), scene.fleet.broker_state()) == ("online", "away")
    scene.connected_s = 5.0  # just back: the boxes have not had their turn to speak
    assert (scene.state(), scene.fleet.broker_state()) == ("online", "connected")
    scene.connected_s = LOST_AFTER_S
    assert scene.state() == "lost"


def test_the_will_of_an_older_session_is_ignored_and_of_this_or_a_newer_one_counts(scene: Scene) -> None:
    later = T0 + timedelta(minutes=5)
    scene.status(BoxState.ONLINE, "a" * 16, T0)
    scene.status(BoxState.ONLINE, "b" * 16, later)
    assert not scene.status(BoxState.LOST, "a" * 16, T0)
    assert scene.state() == "online"
    assert scene.status(BoxState.LOST, "b" * 16, later)
    assert scene.state() == "lost"
    scene.status(BoxState.ONLINE, "c" * 16, later + timedelta(minutes=1))
    # Central was away while session d began and died: its will is all there is to hear of it.
    assert scene.status(BoxState.LOST, "d" * 16, later + timedelta(minutes=2))
    assert scene.state() == "lost"


def test_stopped_in_order_is_not_lost(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.status(BoxState.OFFLINE)
    scene.now += timedelta(days=1)
    assert scene.state() == "offline"


def test_retained_messages_say_nothing_of_now(scene: Scene) -> None:
    scene.now = T0 + timedelta(days=2)
    scene.status(BoxState.ONLINE, retained=True)
    scene.telemetry(T0, retained=True)
    (box,) = scene.fleet.boxes()
    assert (box.state, box.last_telemetry_at_utc) == ("lost", T0)
    scene.telemetry(T0)  # the same, live: the box's clock stands still, but it speaks
    assert scene.state() == "online"


class Moved:
    """A box that spoke over MQTT for a day and then, with settings and a scanner's state of later, over HTTPS."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.equipment = EQUIPMENT + equipment_key("CT1", "10.0.0.9")
        self.mqtt = self.letters(connection=1, version=0, silence="usual")
        for below, payload in self.mqtt:
            scene.hear(up_topic(scene.box, below), payload)
        scene.now += timedelta(days=1)
        scene.correspondence.desire(scene.box, {"log_level": "debug"})
        scene.correspondence.hear_https(
            scene.box, self.letters(connection=2, version=1, silence="silent", level="debug")
        )
        assert self.shown() == (False, {"log_level": "debug"}, ["silent"])

    def letters(
        self, *, connection: int, version: int, silence: Silence, level: str | None = None
    ) -> list[tuple[str, bytes]]:
        status = Status(
            state=BoxState.ONLINE, session=f"{connection:016x}", since_utc=self.scene.now, version="1",
            run="1" * 16, boot=1, connection=connection,
        )  # fmt: skip
        settings: dict[str, SettingValue] = {} if level is None else {"log_level": level}
        seen = Equipment(
            ae_title="CT1", address="10.0.0.9", first_seen_at_utc=T0, instances=1, rejected=0, silence=silence
        )
        said = (
            (STATUS, status),
            (REPORTED, Reported(version=version, settings=settings)),
            (self.equipment, seen),
        )
        return [(below, message.model_dump_json().encode()) for below, message in said]

    def retained(self, letters: list[tuple[str, bytes]]) -> None:
        """Central comes to the broker anew."""
        for below, payload in letters:
            self.scene.hear(up_topic(self.scene.box, below), payload, retained=True)

    def shown(self) -> tuple[bool, Mapping[str, SettingValue], list[Silence]]:
        (box,) = self.scene.fleet.boxes()
        return box.settings_pending, box.settings, [scanner.silence for scanner in box.equipment]


def test_what_the_broker_keeps_from_before_a_box_went_over_to_https_is_not_taken(scene: Scene) -> None:
    moved = Moved(scene)
    moved.retained(moved.mqtt)
    assert moved.shown() == (False, {"log_level": "debug"}, ["silent"])
    assert scene.state() == "online"


def test_what_a_box_said_over_mqtt_while_central_was_away_is_taken_though_it_spoke_over_https_before(
    scene: Scene,
) -> None:
    moved = Moved(scene)
    scene.now += timedelta(hours=1)
    back = moved.letters(connection=3, version=1, silence="usual", level="info")
    moved.retained(back)
    assert moved.shown() == (False, {"log_level": "info"}, ["usual"])
    scene.now += timedelta(hours=1)
    moved.retained([(REPORTED, Reported(version=1, settings={}).model_dump_json().encode())])
    assert moved.shown() == (False, {}, ["usual"]), "and from then on as of any box on MQTT"


def test_a_table_of_an_older_version_is_gone_on_with(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.db.execute_sql("ALTER TABLE box_message DROP COLUMN over_https")
    scene.heartbeats = Heartbeats(scene.db, lambda: scene.now)
    assert scene.telemetry(T0, retained=True)
    assert scene.heartbeats.of(scene.box).telemetry is not None


def test_what_was_heard_survives_a_restart(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.telemetry(T0)
    seen = Equipment(ae_title="CT/1#", address="10.0.0.9", first_seen_at_utc=T0, instances=7, rejected=1)
    topic = equipment_topic(scene.box, equipment_key(seen.ae_title, seen.address))
    assert scene.hear(topic, seen.model_dump_json().encode())
    scene.heartbeats = Heartbeats(scene.db, lambda: scene.now)
    _, again = scene.open(None)
    (box,) = again.boxes()
    assert (box.state, box.queue_objects, box.quarantined_objects) == ("online", 3, 1)
    assert [(scanner.ae_title, scanner.instances) for scanner in box.equipment] == [("CT/1#", 7)]
    assert again.broker_state() == "none"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("dicomnet/v1/box/up/status", b"{}"),
        ("dicomnet/v1/box/up/status", b"\xff\xfe"),
        ("dicomnet/v1/box/up/status", b""),
        ("dicomnet/v1/box/up/status", b"[" * MAX_PAYLOAD_BYTES),
        ("dicomnet/v1/box/up/telemetry", b" " * (MAX_PAYLOAD_BYTES + 1)),
        ("dicomnet/v1/box/up/other", b"{}"),
        ("dicomnet/v1/box/up/equipment/" + "a" * 17, SCANNER),
        ("dicomnet/v1/box/up/equipment/" + "a" * 16, SCANNER.replace(b"Z", b"")),  # a time without a zone
        ("dicomnet/v1/box/up/telemetry", TELEMETRY.replace(b"1.5", b"NaN")),
        ("dicomnet/v1/box/up/telemetry", TELEMETRY.replace(b"1.5", b"1e999")),
        ("dicomnet/v1/box/up/equipment/a/b", b"{}"),
        ("dicomnet/v1/box/down/status", b"{}"),
        ("dicomnet/v1/no-such-box/up/status", b"{}"),
        ("dicomnet/v1/../up/status", b"{}"),
        ("x/dicomnet/v1/box/up/status", b"{}"),
    ],
)
def test_what_does_not_fit_is_ignored(scene: Scene, topic: str, payload: bytes) -> None:
    assert not scene.hear(topic, payload)
    assert scene.state() == "never"


def test_the_same_without_the_fault_is_taken(scene: Scene) -> None:
    """Or the cases above would prove nothing."""
    assert scene.hear("dicomnet/v1/box/up/equipment/" + "a" * 16, SCANNER)
    assert scene.hear("dicomnet/v1/box/up/telemetry", TELEMETRY)


def test_a_box_cannot_fill_the_database_with_scanners(scene: Scene) -> None:
    def report(number: int) -> bool:
        seen = Equipment(ae_title="CT", address=str(number), first_seen_at_utc=T0, instances=0, rejected=0)
        topic = equipment_topic(scene.box, equipment_key("CT", str(number)))
        return scene.hear(topic, seen.model_dump_json().encode())

    assert all(report(number) for number in range(256))
    assert not report(256)
    assert report(3)


def test_a_revoked_box_is_not_heard_any_more(scene: Scene) -> None:
    scene.status(BoxState.ONLINE)
    scene.gateways.revoke(scene.box)
    assert not scene.status(BoxState.OFFLINE)
    (box,) = scene.fleet.boxes()
    assert (box.state, box.revoked) == ("online", True)
