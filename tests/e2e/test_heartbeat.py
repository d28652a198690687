"""What anybody on the machine may watch: the broker's read-only listener of a demonstration."""

from __future__ import annotations

import base64
import json
import queue
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from tests.e2e.running import RunningDemo

pytestmark = pytest.mark.needs("mosquitto")


class Watcher:
    """An anonymous subscriber."""

    def __init__(self, host: str, port: int) -> None:
        self._messages: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._acknowledged: queue.Queue[int] = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *_: client.subscribe("dicomnet/#", qos=1)
        self.client.on_message = lambda _c, _u, message: self._messages.put((message.topic, message.payload))
        self.client.on_publish = lambda _c, _u, _mid, reason, _p: self._acknowledged.put(reason.value)
        self.client.connect(host, port)
        self.client.loop_start()

    def wait_for(self, topic_end: str, *, timeout_s: float = 60) -> dict[str, Any]:
        while True:
            topic, payload = self._messages.get(timeout=timeout_s)
            if topic.endswith(topic_end):
                return dict(json.loads(payload))

    def publish(self, topic: str) -> int:
        """The broker's reason code for a publication."""
        self.client.publish(topic, b"{}", qos=1)
        return self._acknowledged.get(timeout=60)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def watcher(demo: RunningDemo) -> Iterator[Watcher]:
    watching = Watcher(demo.ready["mqtt"]["host"], demo.ready["mqtt"]["port"])
    yield watching
    watching.close()


def test_the_box_reports_and_watchers_cannot_speak(demo: RunningDemo, watcher: Watcher) -> None:
    assert watcher.wait_for("/up/status")["state"] == "online"
    telemetry = watcher.wait_for("/up/telemetry")
    assert telemetry["accepting"] is True
    not_authorized = 0x87
    assert watcher.publish("dicomnet/v1/demo/up/status") == not_authorized


def test_a_killed_box_is_lost_and_then_online_again(demo: RunningDemo, watcher: Watcher) -> None:
    watcher.wait_for("/up/status")
    demo.kill("gateway")
    states = [watcher.wait_for("/up/status")["state"] for _ in range(2)]
    assert states == ["lost", "online"]


def test_the_box_witnesses_the_audit_record(watcher: Watcher) -> None:
    given = watcher.wait_for("/up/witnessed")["words"][0]
    payload = given.split(".")[1]
    word = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert set(word) == {"central_id", "last_id", "chain", "at_utc"}
