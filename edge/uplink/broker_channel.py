"""The line to the MQTT broker: MQTT 5, and 3.1.1 where a broker knows no better; one session after the other.

Always true: each session has a client of its own, so nothing of an old one is said in a new one; its last will
names it. A broker that is away, slow or hostile disturbs nothing else: backoff with jitter, bounded queues, and one
sentence for the technician each time the reason changes. What central says is heard over mutual TLS only.
Nothing is durable; a crash makes the broker publish the will.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from contract.heartbeat import MAX_PAYLOAD_BYTES, STATUS, down_topic, up_topic
from edge.uplink import broker_fault
from edge.uplink.identity import LOOPBACK_HOSTS, Identity
from edge.uplink.line import backoff_s
from edge.uplink.speech import Saying

_log = logging.getLogger(__name__)

_KEEPALIVE_S: Final = 15
_CONNECT_TIMEOUT_S: Final = 10.0
_ANSWER_TIMEOUT_S: Final = 5.0  # from CONNECT to CONNACK
_BACKOFF_MIN_S: Final = 0.1
_BACKOFF_MAX_S: Final = 30.0
_MAX_QUEUED: Final = 512  # more than all a box has to say at once
_SAID_WITHIN_S: Final = 2.0
_SHORT_S: Final = 10.0  # a session that ends sooner
_SHORT_IN_A_ROW: Final = 4


@dataclass
class _Attempt:
    """One connection, as its callbacks see it. `answered`: the broker took or refused us, or hung up."""

    answered: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    stood: bool = False
    taken_over: bool = False
    refusal: ReasonCode | None = None


class BrokerChannel:
    """`start`, then `stop`.

    Parameters
    ----------
    will : called at the beginning of each session; the payload of the last will on ``up/status``.
    on_session : called when a session stands, and the box may speak.
    on_heard : topic below ``down/`` and payload; called in the line's own thread, must return at once.
    on_broken : there is no session, and why: a sentence for the technician.
    """

    def __init__(
        self,
        identity: Identity,
        *,
        will: Callable[[], bytes],
        on_session: Callable[[], None],
        on_heard: Callable[[str, bytes], None],
        on_broken: Callable[[str], None],
    ) -> None:
        broker = identity.broker
        assert broker is not None, "a channel is made only where central names a broker"
        self._gateway_id = identity.gateway_id
        self._clock = identity.clock
        self._expires_at_utc = identity.certificate_expires_at_utc
        self._host, self._port = broker.host, broker.port
        self._tls: ssl.SSLContext | None = None
        if broker.tls or broker.host not in LOOPBACK_HOSTS:
            self._tls = identity.tls_context()
        self._will = will
        self._on_session = on_session
        self._on_heard = on_heard
        self._on_broken = on_broken
        self._protocol = MQTTProtocolVersion.MQTTv5
        self._client: mqtt.Client | None = None
        self._stands = threading.Event()
        self._wake = threading.Condition()
        self._stopping = False
        self._said = ""
        self._thread = threading.Thread(target=self._keep_connected, name="broker", daemon=True)

    @property
    def is_connected(self) -> bool:
        return self._stands.is_set()

    def start(self) -> None:
        self._thread.start()

    def say(self, sayings: list[Saying]) -> int:
        """Hand over as many of `sayings` as the line takes, in order; returns how many."""
        client = self._client
        if client is None or not self._stands.is_set():
            return 0
        for number, saying in enumerate(sayings):
            topic = up_topic(self._gateway_id, saying.below)
            if (
                client.publish(topic, saying.payload, qos=1, retain=saying.retain).rc
                is not MQTTErrorCode.MQTT_ERR_SUCCESS
            ):
                return number
        return len(sayings)

    def stop(self, goodbye: bytes) -> None:
        """Say `goodbye` on ``up/status``, so that the will is not published, and end."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        client = self._client
        if client is not None:
            if self._stands.is_set():
                said = client.publish(up_topic(self._gateway_id, STATUS), goodbye, qos=1, retain=True)
                try:
                    said.wait_for_publish(_SAID_WITHIN_S)
                except (RuntimeError, ValueError) as error:  # the broker went away just now: the will speaks
                    _log.info("going offline could not be said", extra={"detail": error})
            client.disconnect()
        if self._thread.is_alive():
            self._thread.join(_SAID_WITHIN_S)

    def _keep_connected(self) -> None:
        failures = short = 0
        while True:
            began_s = time.monotonic()
            attempt = self._one_session()
            if self._stopping:
                return
            if attempt.stood:
                lasted_s = time.monotonic() - began_s
                short = short + 1 if lasted_s < _SHORT_S else 0
                failures = short
                fault = "the line to the broker broke"
                if attempt.taken_over:
                    fault = broker_fault.TWIN
                elif short >= _SHORT_IN_A_ROW:
                    fault = broker_fault.CUT_AGAIN_AND_AGAIN
            else:
                failures += 1
                fault = self._why_not(attempt)
            self._tell(fault)
            delay_s = _BACKOFF_MIN_S + backoff_s(failures, _BACKOFF_MAX_S, random.uniform)
            with self._wake:
                if self._wake.wait_for(lambda: self._stopping, delay_s):
                    return

    def _one_session(self) -> _Attempt:
        """Connect, and stay until the line breaks."""
        attempt = _Attempt()
        client = self._new_client(attempt)
        self._client = client
        try:
            if self._protocol is MQTTProtocolVersion.MQTTv5:
                client.connect(
                    self._host, self._port, _KEEPALIVE_S, clean_start=True, properties=_connect_properties()
                )
            else:
                client.connect(self._host, self._port, _KEEPALIVE_S)
        except (OSError, ValueError) as error:
            _log.debug("no connection", extra={"detail": error})
            return attempt
        client.loop_start()  # its own thread: paho lets several threads speak only then
        if not attempt.answered.wait(_ANSWER_TIMEOUT_S):
            client.disconnect()  # a broker that waits for more than MQTT 5 sends, or none at all
            attempt.ended.wait(_SAID_WITHIN_S)
        else:
            while not attempt.ended.wait(_SAID_WITHIN_S) and not self._stopping:
                pass  # the wait is bounded only so that a stop between two steps is seen
        client.loop_stop()
        self._stands.clear()
        return attempt

    def _new_client(self, attempt: _Attempt) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._gateway_id,
            userdata=attempt,
            protocol=self._protocol,
            reconnect_on_failure=False,
        )
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._message
        client.suppress_exceptions = True  # a fault in a callback must not end this thread
        client.connect_timeout = _CONNECT_TIMEOUT_S
        client.max_queued_messages_set(_MAX_QUEUED)
        client.will_set(up_topic(self._gateway_id, STATUS), self._will(), qos=1, retain=True)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        return client

    def _connected(
        self,
        client: mqtt.Client,
        attempt: _Attempt,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            attempt.refusal = reason
            attempt.answered.set()
            client.disconnect()
            return
        if self._tls is not None:
            client.subscribe(down_topic(self._gateway_id, "#"), qos=1)
        attempt.stood = True
        self._said = ""
        _log.info("broker connected", extra={"protocol": self._protocol.name})
        self._stands.set()
        attempt.answered.set()
        self._on_session()

    def _disconnected(
        self,
        _client: mqtt.Client,
        attempt: _Attempt,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        attempt.taken_over = (
            reason == "Session taken over"
        )  # MQTT 5 section 3.14.2.1; not every broker says it
        self._stands.clear()
        attempt.answered.set()
        attempt.ended.set()

    def _message(self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage) -> None:
        prefix = down_topic(self._gateway_id, "")
        # A command that a broker kept is nobody's wish of now; the desired settings are kept on purpose.
        if message.topic.startswith(prefix) and len(message.payload) <= MAX_PAYLOAD_BYTES:
            below = message.topic.removeprefix(prefix)
            if not (message.retain and below == "command"):
                self._on_heard(below, bytes(message.payload))

    def _why_not(self, attempt: _Attempt) -> str:
        """Why there was no session; changes the protocol where that may be it."""
        fault = broker_fault.sentence(
            self._host, self._port, self._tls, self._expires_at_utc, self._clock.now()
        )
        if fault is not None:
            return fault
        # The line is good, so it is MQTT. An old broker answers "unsupported protocol version" or hangs up: the two
        # versions take turns until one of them stands, and that one is kept.
        older = self._protocol is MQTTProtocolVersion.MQTTv5
        self._protocol = MQTTProtocolVersion.MQTTv311 if older else MQTTProtocolVersion.MQTTv5
        if attempt.refusal is None:
            return f"the broker {self._host} port {self._port} hangs up, or says nothing, before the session begins"
        return f"the broker {self._host} port {self._port} refuses this box: {attempt.refusal}"

    def _tell(self, fault: str) -> None:
        self._on_broken(fault)
        if fault != self._said:
            self._said = fault
            _log.warning("broker away", extra={"reason": fault})


def _connect_properties() -> Properties:
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.MaximumPacketSize = 2 * MAX_PAYLOAD_BYTES
    return properties
