"""Heartbeats through a real broker: what is retained, what a crash leaves, and that an absent broker is harmless."""

from __future__ import annotations

import getpass
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from jsonschema import Draft202012Validator, FormatChecker
from paho.mqtt.enums import CallbackAPIVersion

from contract.command import COMMAND, Command, EventMark, Heard
from contract.enrolment import BrokerAddress
from contract.heartbeat import (
    BoxState,
    Equipment,
    Info,
    Status,
    Telemetry,
    down_topic,
    equipment_key,
    equipment_topic,
    status_topic,
    telemetry_topic,
    up_topic,
)
from edge.uplink.broker_fault import TWIN
from edge.uplink.enrolment import enrol
from edge.uplink.heartbeat import Hearers, Heartbeat
from edge.uplink.identity import Identity, IdentityStore
from edge.uplink.link import Link
from edge.uplink.outbox import Outbox
from edge.uplink.remote import Remote
from edge.uplink.run import Run
from edge.uplink.speech import Reports
from edge.uplink.witness_book import WitnessBook
from tests.edge.scripted_central import ScriptedCentral
from tests.ports import free_base_port

pytestmark = pytest.mark.needs("mosquitto")
SCHEMAS = Path(__file__).parents[3] / "docs" / "formats" / "heartbeat"
Eventually = Callable[[Callable[[], bool]], None]


class Broker:
    """mosquitto on 127.0.0.1, and a watcher that remembers the last word on each topic."""

    def __init__(self, directory: Path, extra: str = "", port: int = 0) -> None:
        self.port = port or free_base_port(1)
        self.watch_port = free_base_port(1)
        config = directory / "mosquitto.conf"
        config.write_text(
            f"user {getpass.getuser()}\nper_listener_settings true\n"
            f"listener {self.watch_port} 127.0.0.1\nallow_anonymous true\n"
            f"listener {self.port} 127.0.0.1\n{extra or 'allow_anonymous true'}\n"
        )
        self._command = ["mosquitto", "-c", str(config)]
        self.said: dict[str, tuple[bytes, bool]] = {}
        self.log: list[tuple[str, bytes]] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _await_port(self.watch_port)
        _await_port(self.port)
        self._watcher = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._watcher.on_connect = lambda client, *_: client.subscribe("dicomnet/#", qos=1)
        self._watcher.on_message = self._heard
        self._watcher.connect("127.0.0.1", self.watch_port)
        self._watcher.loop_start()

    def stop(self) -> None:
        self._watcher.disconnect()
        self._watcher.loop_stop()
        self.process.terminate()
        self.process.wait(60)
        for topic, payload in self.log:
            if "/up/" in topic:
                check_said(topic, payload)

    def _heard(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        self.log.append((message.topic, message.payload))
        self.said[message.topic] = (message.payload, message.retain)

    def status(self) -> Status | None:
        found = self.said.get(status_topic("gw-test"))
        return Status.model_validate_json(found[0]) if found else None


def _await_port(port: int) -> None:
    deadline_s, pause = time.monotonic() + 60, threading.Event()
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 10).close()
        except OSError:
            assert time.monotonic() < deadline_s, "mosquitto does not listen"
            pause.wait(0.02)
        else:
            return


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path)
    yield running
    running.stop()


def check_said(topic: str, payload: bytes) -> None:
    """What a box said fits the published schema of its topic, and holds nothing that the schema does not name."""
    name = "up-" + topic.split("/")[4]
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    said = json.loads(payload)
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(said)
    assert set(said) <= set(schema["properties"]), topic


class Box:
    """What a heartbeat asks for, changed at will."""

    def __init__(
        self, identity: Identity, *, https_after_s: float = 3600, directory: Path | None = None
    ) -> None:
        directory = directory or identity.directory / "heartbeat"
        self.link = Link()
        self.queue_objects = 3
        self.scanners: list[Equipment] = []
        self.commands: list[Command] = []
        self.outbox = Outbox(directory)
        self.witness = WitnessBook(directory)
        self.remote = Remote(
            directory,
            {"log_level": "info", "echo_interval_s": 300},
            {"log_level": lambda _: None, "echo_interval_s": lambda _: None},
        )
        self.heartbeat = Heartbeat(
            identity,
            self.link,
            Run.begin(directory),
            Reports(
                version="9.9",
                info=lambda: Info(
                    version="9.9",
                    ae_title="BOX",
                    dicom_port=104,
                    started_at_utc=datetime(2030, 1, 1, tzinfo=UTC),
                ),
                telemetry=self.telemetry,
                equipment=lambda: self.scanners,
                reported=self.remote.reported,
                witnessed=self.witness.witnessed,
            ),
            Hearers(
                command=self.commands.append,
                settings=self.remote.desire,
                witness=self.witness.take,
                connected=lambda: None,
            ),
            self.outbox,
            https_after_s=https_after_s,
        )

    def telemetry(self) -> Telemetry:
        return Telemetry(
            captured_at_utc=datetime.now(UTC),
            queue_objects=self.queue_objects,
            queue_bytes=1,
            quarantined_objects=0,
            disk_total_bytes=2,
            disk_free_bytes=1,
            accepting=True,
            memory_bytes=1,
            uptime_s=1,
        )


def identity_with(central: ScriptedCentral, tmp_path: Path, broker: BrokerAddress) -> Identity:
    central.broker = broker
    return IdentityStore(tmp_path / "identity").save(*enrol(central.pairing))


def test_the_life_of_a_box_as_the_broker_tells_it(
    central: ScriptedCentral, broker: Broker, tmp_path: Path, eventually: Eventually
) -> None:
    box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)))
    scanner = Equipment(
        ae_title="CT 1/+#", address="10.0.0.5", first_seen_at_utc=datetime.now(UTC), instances=1, rejected=0
    )
    topic = equipment_topic("gw-test", equipment_key(scanner.ae_title, scanner.address))
    box.scanners = [scanner]
    box.heartbeat.start()
    eventually(lambda: broker.status() is not None and topic in broker.said)
    online = broker.status()
    assert online is not None
    assert (online.state, online.version) == (BoxState.ONLINE, "9.9")
    assert box.link.status().heartbeat_connected
    assert Telemetry.model_validate_json(broker.said[telemetry_topic("gw-test")][0]).queue_objects == 3
    assert Equipment.model_validate_json(broker.said[topic][0]) == scanner

    box.queue_objects = 4
    for _ in range(50):
        box.heartbeat.soon()  # a burst of stores
    eventually(
        lambda: Telemetry.model_validate_json(broker.said[telemetry_topic("gw-test")][0]).queue_objects == 4
    )
    assert sum(1 for topic, _ in broker.log if topic == telemetry_topic("gw-test")) <= 3
    assert sum(1 for heard, _ in broker.log if heard == topic) == 1, "an unchanged scanner is said once"

    box.heartbeat.stop()
    eventually(lambda: broker.status() == online.model_copy(update={"state": BoxState.OFFLINE}))
    assert not box.link.status().heartbeat_connected


def test_a_killed_box_is_declared_lost_with_its_own_session(
    central: ScriptedCentral, broker: Broker, tmp_path: Path, eventually: Eventually
) -> None:
    identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False))
    program = textwrap.dedent(
        """
        import sys, threading
        from pathlib import Path
        from edge.uplink.identity import IdentityStore
        from tests.edge.uplink.test_heartbeat import Box
        identity = IdentityStore(Path(sys.argv[1])).load()
        Box(identity).heartbeat.start()
        threading.Event().wait()
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "identity")])
    try:
        eventually(lambda: (said := broker.status()) is not None and said.state is BoxState.ONLINE)
        session = broker.status()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    eventually(lambda: (said := broker.status()) is not None and said.state is BoxState.LOST)
    assert session is not None
    lost = broker.status()
    assert lost is not None
    assert lost.session == session.session


def test_a_broker_that_comes_back_hears_a_new_session(
    central: ScriptedCentral, broker: Broker, tmp_path: Path, eventually: Eventually
) -> None:
    box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)))
    broker.stop()
    box.heartbeat.start()  # nobody there: nothing happens, and nothing is thrown
    assert not box.link.status().heartbeat_connected
    broker.start()
    eventually(lambda: broker.status() is not None)
    first = broker.status()
    broker.stop()
    eventually(lambda: not box.link.status().heartbeat_connected)
    broker.said.clear()
    broker.start()
    eventually(lambda: broker.status() is not None)
    second = broker.status()
    assert first is not None
    assert second is not None
    assert second.state is BoxState.ONLINE
    assert second.session != first.session
    box.heartbeat.stop()


def test_mutual_tls_admits_the_box_by_its_certificate(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    certificate, key = central.authority.server_files(tmp_path, "broker")
    ca = tmp_path / "ca.pem"
    ca.write_text(central.authority.pem)
    acl = tmp_path / "acl"
    acl.write_text("pattern write dicomnet/v1/%u/up/#\n")
    broker = Broker(
        tmp_path,
        f"cafile {ca}\ncertfile {certificate}\nkeyfile {key}\nrequire_certificate true\n"
        f"use_identity_as_username true\nacl_file {acl}",
    )
    try:
        box = Box(
            identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=True))
        )
        box.heartbeat.start()
        eventually(lambda: (said := broker.status()) is not None and said.state is BoxState.ONLINE)
        box.heartbeat.stop()
    finally:
        broker.stop()


def test_a_broker_that_knows_no_mqtt_5_is_spoken_to_in_3_1_1(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    port = free_base_port(1)
    old = subprocess.Popen([sys.executable, "-m", "demo.amqtt_broker", str(port)])
    try:
        _await_port(port)
        box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=port, tls=False)))
        box.heartbeat.start()
        eventually(lambda: box.link.status().heartbeat_connected)
        box.heartbeat.stop()
    finally:
        old.terminate()
        old.wait(60)


def test_commands_over_a_plain_line_are_not_heard(
    central: ScriptedCentral, broker: Broker, tmp_path: Path, eventually: Eventually
) -> None:
    command = Command(
        id="0" * 32, kind="pause", issued_at_utc=datetime.now(UTC), expires_at_utc=datetime.now(UTC)
    )
    box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)))
    box.heartbeat.start()
    eventually(lambda: box.link.status().heartbeat_connected)
    intruder = mqtt.Client(CallbackAPIVersion.VERSION2)
    intruder.connect("127.0.0.1", broker.watch_port)
    intruder.loop_start()
    topic = down_topic("gw-test", COMMAND)
    intruder.publish(topic, command.model_dump_json(), qos=1).wait_for_publish(10)
    box.queue_objects = 17
    box.heartbeat.soon()  # a round through the same broker, behind the command
    eventually(lambda: b'"queue_objects":17' in broker.said.get(telemetry_topic("gw-test"), (b"",))[0])
    assert box.commands == []
    box.heartbeat.stop()
    intruder.disconnect()
    intruder.loop_stop()


def test_a_central_that_takes_no_heartbeats_is_logged_once(
    central: ScriptedCentral, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every fifteen seconds a line would wear the card of a box whose central is away for days."""
    box = Box(
        identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=free_base_port(1), tls=False))
    )
    for _ in range(5):
        box.heartbeat._https_failed("central answered 404: scripted")
    box.heartbeat._https_failed("the connection broke")
    assert [record.reason for record in caplog.records if record.message == "heartbeat not posted"] == [  # type: ignore[attr-defined]
        "central answered 404: scripted",
        "the connection broke",
    ]


def test_a_twin_is_one_event_an_hour_and_is_over_when_central_says_so(
    central: ScriptedCentral, broker: Broker, tmp_path: Path
) -> None:
    """Two boxes get a new session every few seconds, for days; what else happened must not be washed away."""
    box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)))
    for _ in range(20):
        box.heartbeat._session_stands()
        box.heartbeat._hear("heard", Heard(twin=True).model_dump_json().encode())
        assert box.link.status().heartbeat_detail == TWIN
    assert [event.kind for event in box.outbox.waiting(100)] == ["twin"]
    mark = EventMark(stream=box.outbox.waiting(1)[0].stream, through=1)
    box.heartbeat._hear("heard", Heard(events=mark).model_dump_json().encode())
    assert box.link.status().heartbeat_detail == TWIN, "that is about events"
    box.heartbeat._hear("heard", Heard().model_dump_json().encode())
    assert box.link.status().heartbeat_detail == ""
    assert box.link.status().heartbeat_connected
    box.heartbeat.stop()


def test_a_box_keeps_centrals_word_and_shows_it(
    central: ScriptedCentral, broker: Broker, tmp_path: Path
) -> None:
    box = Box(identity_with(central, tmp_path, BrokerAddress(host="127.0.0.1", port=broker.port, tls=False)))
    box.heartbeat._hear("witness", b'{"word":"not a word"}')
    assert box.heartbeat._speech.due(box.telemetry()).sayings[-1].below != "witnessed", "nothing to show"
    box.heartbeat._hear("witness", b'{"word":"aa.bb.cc","later":"ignored"}')
    shown = box.heartbeat._speech.due(box.telemetry()).sayings[-1]
    assert (shown.below, json.loads(shown.payload)) == ("witnessed", {"words": ["aa.bb.cc"]})
    check_said(up_topic("gw-test", "witnessed"), shown.payload)
    box.heartbeat.stop()
