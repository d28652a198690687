"""The real broker under the configuration we write: who may speak, who may listen, and that central finds back."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from central.fleet.heartbeats import address
from central.fleet.mosquitto import BrokerPlan, write_configuration, write_revocations
from contract.command import COMMAND, CommandKind
from contract.heartbeat import (
    STATUS,
    BoxState,
    Equipment,
    Silence,
    Status,
    down_topic,
    equipment_key,
    equipment_topic,
    status_topic,
)
from contract.witness import WITNESS
from tests.central.app.house import Box, House, enrol
from tests.ports import free_base_port

pytestmark = pytest.mark.needs("mosquitto")


class Broker:
    def __init__(self, folder: Path, port: int, watch_port: int) -> None:
        self.plan = BrokerPlan(folder, "127.0.0.1", port, watch_port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
        program = shutil.which("mosquitto", path=path)
        assert program is not None
        log = (self.plan.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [program, "-c", str(self.plan.folder / "mosquitto.conf")], stdout=log, stderr=log
        )

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None


@contextmanager
def configured_broker(house: House, folder: Path) -> Iterator[Broker]:
    """With the configuration that fits this central; not started."""
    port = house.settings.mqtt.port
    broker = Broker(folder, port, port + 1)
    write_configuration(broker.plan, house.central.foundation.identity, [])
    try:
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    port = free_base_port(2)
    house = House(tmp_path / "central", mqtt={"host": "127.0.0.1", "port": port})
    with house:
        yield house


@pytest.fixture
def broker(house: House, tmp_path: Path) -> Iterator[Broker]:
    with configured_broker(house, tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
def box(house: House, tmp_path: Path) -> Box:
    return enrol(house, tmp_path / "box", "ct1")


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Speaker:
    """A box's MQTT client; connected when made."""

    def __init__(self, port: int, tls: ssl.SSLContext | None, name: str) -> None:
        self.heard: list[str] = []
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv311)
        if tls is not None:
            self.client.tls_set_context(tls)
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.port = port

    def connect(self) -> bool:
        answers: queue.Queue[bool] = queue.Queue()
        self.client.on_connect = lambda _c, _u, _f, reason, _p: answers.put(not reason.is_failure)
        self.client.on_disconnect = lambda *_: answers.put(False)
        try:
            self.client.connect("127.0.0.1", self.port)
        except OSError:
            return False
        self.client.loop_start()
        return answers.get(timeout=60)

    def say(self, topic: str, payload: bytes) -> None:
        self.client.publish(topic, payload, qos=1, retain=True).wait_for_publish(5)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def die(self) -> None:
        """As a box that loses power: the line ends without a word."""
        connection = self.client.socket()
        assert connection is not None
        self.client.loop_stop()
        connection.close()


def online(box: Box, session: str = "a" * 16) -> bytes:
    status = Status(state=BoxState.ONLINE, session=session, since_utc=datetime.now(UTC), version="1")
    return status.model_dump_json().encode()


def lost(box: Box, session: str = "a" * 16) -> bytes:
    status = Status(state=BoxState.LOST, session=session, since_utc=datetime.now(UTC), version="1")
    return status.model_dump_json().encode()


def state_of(house: House, gateway_id: str) -> str:
    return next(view.state for view in house.central.fleet.boxes() if view.gateway_id == gateway_id)


def test_a_box_is_online_then_lost_and_central_finds_back_to_a_broker_that_went(
    house: House, broker: Broker, box: Box
) -> None:
    fleet = house.central.fleet
    assert fleet.broker_state() == "away"
    broker.start()
    until(lambda: fleet.broker_state() == "connected", "central connects when the broker comes")
    speaker = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    speaker.client.will_set(status_topic(box.gateway_id), lost(box), qos=1, retain=True)
    assert speaker.connect()
    speaker.say(status_topic(box.gateway_id), online(box))
    until(lambda: state_of(house, "ct1") == "online", "online")
    speaker.die()
    until(lambda: state_of(house, "ct1") == "lost", "lost by its will")
    broker.stop(signal.SIGKILL)
    until(lambda: fleet.broker_state() == "away", "away")
    broker.start()
    until(lambda: fleet.broker_state() == "connected", "found back by itself")


def test_what_a_box_said_to_the_broker_while_central_was_away_is_heard_though_it_spoke_over_https_before(
    house: House, broker: Broker, box: Box
) -> None:
    """The broker gives a box's status first, whatever came first and whatever it is called."""

    def seen(silence: Silence) -> bytes:
        return Equipment(
            ae_title="CT1", address="10.0.0.9", instances=1, rejected=0, silence=silence
        ).model_dump_json().encode()  # fmt: skip

    topic = equipment_topic(box.gateway_id, equipment_key("CT1", "10.0.0.9"))
    _, below = address(topic)
    house.central.fleet_rooms.correspondence.hear_https(
        box.gateway_id, [(STATUS, online(box)), (below, seen("silent"))]
    )
    house.stop()
    broker.start()
    speaker = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    until(speaker.connect, "the broker is there")
    speaker.say(topic, seen("usual"))
    speaker.say(status_topic(box.gateway_id), online(box, "b" * 16))
    speaker.close()
    with house:
        until(
            lambda: (
                [scanner.silence for view in house.central.fleet.boxes() for scanner in view.equipment]
                == ["usual"]
            ),
            "what the broker kept is newer than what came over HTTPS",
        )


def test_a_box_may_speak_and_hear_below_its_own_name_only(
    house: House, broker: Broker, box: Box, tmp_path: Path
) -> None:
    other = enrol(house, tmp_path / "other", "ct2")
    broker.start()
    until(lambda: house.central.fleet.broker_state() == "connected", "connected")
    speaker = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    assert speaker.connect()
    speaker.client.subscribe("dicomnet/#", qos=1)
    speaker.say(status_topic(other.gateway_id), online(other))
    speaker.say(down_topic(other.gateway_id, COMMAND), b"{}")
    speaker.say(down_topic(box.gateway_id, COMMAND), b"{}")  # not even to itself
    speaker.say(status_topic(box.gateway_id), online(box))
    until(lambda: state_of(house, "ct1") == "online", "its own counts")
    assert state_of(house, "ct2") == "never"
    house.central.fleet_rooms.correspondence.command("ct2", CommandKind.PAUSE, {}, "anna")
    house.central.fleet_rooms.correspondence.command("ct1", CommandKind.RESUME, {}, "anna")
    until(lambda: down_topic("ct1", COMMAND) in speaker.heard, "hears its own commands")
    assert set(speaker.heard) == {down_topic("ct1", COMMAND), down_topic("ct1", WITNESS)}
    speaker.close()


def test_a_box_cannot_push_another_off_by_its_client_id(
    house: House, broker: Broker, box: Box, tmp_path: Path
) -> None:
    other = enrol(house, tmp_path / "other", "ct2")
    broker.start()
    until(lambda: house.central.fleet.broker_state() == "connected", "connected")
    victim = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    assert victim.connect()
    thief = Speaker(broker.plan.port, other.tls(), box.gateway_id)
    assert thief.connect()
    thief.say(status_topic(other.gateway_id), online(other))
    until(lambda: state_of(house, "ct2") == "online", "the broker goes by the certificate")
    assert victim.client.is_connected()
    victim.close()
    thief.close()


def test_nobody_comes_in_without_a_good_certificate(house: House, broker: Broker, box: Box) -> None:
    write_revocations(broker.plan.folder, house.central.foundation.identity, [])
    broker.start()
    until(lambda: house.central.fleet.broker_state() == "connected", "connected")
    anonymous = ssl.create_default_context(cadata=box.answer.ca_pem)
    assert not Speaker(broker.plan.port, anonymous, "nobody").connect()
    good = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    assert good.connect()
    good.close()
    house.revoke(box.gateway_id)
    gateways = house.central.foundation.gateways
    write_revocations(broker.plan.folder, house.central.foundation.identity, gateways.revoked_serials())
    broker.stop()
    broker.start()
    until(lambda: house.central.fleet.broker_state() == "connected", "central's own certificate still good")
    assert not Speaker(broker.plan.port, box.tls(), box.gateway_id).connect()


def test_the_watch_listener_shows_and_takes_nothing(house: House, broker: Broker, box: Box) -> None:
    broker.start()
    until(lambda: house.central.fleet.broker_state() == "connected", "connected")
    assert broker.plan.watch_port is not None
    watcher = Speaker(broker.plan.watch_port, None, "watcher")
    assert watcher.connect()
    watcher.client.subscribe("dicomnet/#", qos=1)
    watcher.say(status_topic(box.gateway_id), online(box))
    speaker = Speaker(broker.plan.port, box.tls(), box.gateway_id)
    assert speaker.connect()
    speaker.say(f"dicomnet/v1/{box.gateway_id}/up/telemetry", b"{}")
    until(lambda: watcher.heard != [], "sees what boxes say")
    assert watcher.heard == [f"dicomnet/v1/{box.gateway_id}/up/telemetry"]
    assert state_of(house, "ct1") == "never"
    watcher.close()
    speaker.close()
