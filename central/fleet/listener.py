"""Central's place at the MQTT broker: hears every box below ``up/``, speaks to it below ``down/``, finds back alone.

MQTT 5, where commands expire in the broker too, and 3.1.1 where a broker knows no better. All state of a box is
retained and its events are said until answered, so a clean session that subscribes anew after every connection
misses nothing. While the broker is away the fleet page says so and everything else goes on.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from central.fleet.correspondence import Down
from contract.heartbeat import STATUS, TOPIC_ROOT, down_topic

_KEEPALIVE_S: Final = 30
_RECONNECT_MIN_S: Final = 0.5
_RECONNECT_MAX_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 5.0  # from CONNECT to CONNACK
_MAX_QUEUED: Final = 4096
_JOIN_S: Final = 5.0
_log = logging.getLogger(__name__)

OnMessage = Callable[[str, bytes, bool], object]  # topic, payload, retained


@dataclass(frozen=True)
class BrokerTls:
    """Mutual TLS towards the broker: our CA, our client certificate."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass
class _Attempt:
    """One connection, as its callbacks see it. `answered`: the broker took or refused us, or hung up."""

    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    stood: bool = False


class BrokerListener:
    """One connection to the broker at a time, each with a client of its own; a thread holds it."""

    def __init__(
        self, host: str, port: int, client_id: str, tls: BrokerTls | None, on_message: OnMessage
    ) -> None:
        self._address = (host, port)
        self._client_id = client_id
        self._tls = tls
        self._on_message = on_message
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._lock = threading.Lock()
        self._connected_since: float | None = None
        self._client: mqtt.Client | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._keep_connected, name="broker", daemon=True)

    def start(self) -> None:
        """Begin to connect, and return. The broker need not be there yet."""
        self._thread.start()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._client is not None:
            self._client.disconnect()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def connected_for_s(self) -> float | None:
        """For how long the broker has been listened to without a break; None while it is away."""
        with self._lock:
            return None if self._connected_since is None else time.monotonic() - self._connected_since

    def say(self, down: Down) -> bool:
        """Hand a message to the broker; False while it is away."""
        client = self._client
        if client is None or self.connected_for_s() is None:
            return False
        properties = None
        if down.life_s is not None and self._protocol is MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
            properties.MessageExpiryInterval = ceil(down.life_s)
        topic = down_topic(down.gateway_id, down.below)
        said = client.publish(topic, down.payload, qos=1, retain=down.retain, properties=properties)
        return said.rc is MQTTErrorCode.MQTT_ERR_SUCCESS

    def _keep_connected(self) -> None:
        delay_s = _RECONNECT_MIN_S
        while True:
            stood = self._one_connection()
            delay_s = _RECONNECT_MIN_S if stood else min(_RECONNECT_MAX_S, delay_s * 2)
            with self._wake:
                if self._wake.wait_for(lambda: self._closing, delay_s):
                    return

    def _one_connection(self) -> bool:
        """Connect and stay until the line breaks; whether the broker took us."""
        attempt = _Attempt()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            userdata=attempt,
            protocol=self._protocol,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(_MAX_QUEUED)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        self._client = client
        try:
            if self._tls is not None:
                client.tls_set_context(self._tls.context())
            client.connect(*self._address, keepalive=_KEEPALIVE_S)
        except (OSError, ValueError) as error:
            _log.warning("broker away host=%s port=%d reason=%s", *self._address, error)
            return False
        client.loop_start()  # its own thread: paho lets several threads speak only then
        if not attempt.answered.wait(_ANSWER_TIMEOUT_S):
            client.disconnect()  # a broker that waits for more than MQTT 5 sends, or none at all
            attempt.ended.wait(_JOIN_S)
        else:
            while not attempt.ended.wait(_JOIN_S) and not self._closing:
                pass  # the wait is bounded only so that a stop between two steps is seen
        client.loop_stop()
        with self._lock:
            self._connected_since = None
        if attempt.stood and not self._closing:
            _log.warning("broker away host=%s port=%d; trying again by itself", *self._address)
        elif not attempt.stood:
            # An old broker refuses the version, or hangs up, or waits: the two versions take turns.
            older = self._protocol is MQTTProtocolVersion.MQTTv5
            self._protocol = MQTTProtocolVersion.MQTTv311 if older else MQTTProtocolVersion.MQTTv5
        return attempt.stood

    def _connected(
        self, client: mqtt.Client, attempt: _Attempt, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            _log.warning("broker refused the connection reason=%s", reason)
            client.disconnect()
        else:
            # The status first: it says of which session all that is that the broker keeps of a box.
            client.subscribe(f"{TOPIC_ROOT}/+/up/{STATUS}", qos=1)
            client.subscribe(f"{TOPIC_ROOT}/+/up/#", qos=1)
            client.unsubscribe(f"{TOPIC_ROOT}/+/up/{STATUS}")  # or each one would come twice from now on
            attempt.stood = True
            with self._lock:
                self._connected_since = time.monotonic()
            _log.info("broker connected host=%s port=%d protocol=%s", *self._address, self._protocol.name)
        attempt.answered.set()

    def _disconnected(
        self, _client: mqtt.Client, attempt: _Attempt, _flags: Any, _reason: ReasonCode, _properties: Any
    ) -> None:
        with self._lock:
            self._connected_since = None
        attempt.answered.set()
        attempt.ended.set()

    def _message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._on_message(message.topic, bytes(message.payload), message.retain)
        except Exception:
            # Whatever one message does, the thread that hears the others must live. The topic is all ours.
            _log.exception("heartbeat not kept")
