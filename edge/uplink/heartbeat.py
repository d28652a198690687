"""What the box says of itself over MQTT: that it lives, how it is, and which scanners it has seen.

Always true: a broker that is away, slow or hostile disturbs nothing else; paho's own thread reconnects with
backoff, and what was missed while away is not made up for (every message is a state, not an event). Each
connection has a session of its own in its last will, so that the will of an old one cannot mark a newer one
lost. MQTT 3.1.1: nothing here needs 5, and every broker speaks it. Nothing is durable; a crash makes the
broker publish the will.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import paho.mqtt.client as mqtt
from paho.mqtt.client import ConnectFlags, DisconnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import BaseModel

from contract.heartbeat import (
    TELEMETRY_INTERVAL_S,
    BoxState,
    Equipment,
    Status,
    Telemetry,
    equipment_key,
    equipment_topic,
    status_topic,
    telemetry_topic,
)
from edge.uplink.identity import LOOPBACK_HOSTS, Identity
from edge.uplink.link import Link

_log = logging.getLogger(__name__)

_DEBOUNCE_S: Final = 1.0
_KEEPALIVE_S: Final = 15
_RECONNECT_MAX_S: Final = 30
_MAX_QUEUED: Final = 64  # messages paho may hold while the broker is slow; states, so the oldest may go
_STOP_WAIT_S: Final = 2.0


def _paho_log() -> logging.Logger:
    """paho's own log, without the error it repeats at every attempt while the broker is away: we say that once."""
    log = _log.getChild("mqtt")
    if not log.filters:
        log.addFilter(lambda record: not record.getMessage().startswith("Client is not connected"))
    return log


class Heartbeat:
    """One MQTT session for one identity, from `start` to `stop`.

    Parameters
    ----------
    telemetry, equipment : asked each time something is published; must be cheap.
    on_connected : called whenever the broker was reached (it may mean that central's side is back).
    """

    def __init__(
        self,
        identity: Identity,
        link: Link,
        *,
        version: str,
        telemetry: Callable[[], Telemetry],
        equipment: Callable[[], Sequence[Equipment]],
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        broker = identity.broker
        assert broker is not None, "a heartbeat is made only where central names a broker"
        self._gateway_id = identity.gateway_id
        self._link = link
        self._version = version
        self._telemetry = telemetry
        self._equipment = equipment
        self._on_connected = on_connected
        self._session = ""
        self._since_utc = datetime.now(UTC)
        self._published: dict[str, Equipment] = {}
        self._wake = threading.Condition()
        self._asked = False
        self._stopping = False
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self._gateway_id, protocol=MQTTProtocolVersion.MQTTv311
        )
        self._client.on_pre_connect = self._before_connect
        self._client.on_connect = self._connected
        self._client.on_connect_fail = self._connect_failed
        self._client.on_disconnect = self._disconnected
        self._client.suppress_exceptions = True  # a fault in a callback must not end paho's thread
        self._client.enable_logger(_paho_log())
        self._client.max_queued_messages_set(_MAX_QUEUED)
        self._client.reconnect_delay_set(1, _RECONNECT_MAX_S)
        if broker.tls or broker.host not in LOOPBACK_HOSTS:
            self._client.tls_set_context(identity.tls_context())
        self._client.connect_async(broker.host, broker.port, _KEEPALIVE_S)
        self._publisher = threading.Thread(target=self._publish_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._client.loop_start()
        self._publisher.start()

    def soon(self) -> None:
        """Something changed: publish within a second, however often this is called."""
        with self._wake:
            self._asked = True
            self._wake.notify()

    def stop(self) -> None:
        """Say that the box goes off in order, and end both threads."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._publisher.join(_STOP_WAIT_S)
        if self._client.is_connected():
            said = self._say(status_topic(self._gateway_id), self._status(BoxState.OFFLINE))
            try:
                said.wait_for_publish(_STOP_WAIT_S)
            except (RuntimeError, ValueError) as error:  # the broker went away just now: the will speaks
                _log.info("going offline could not be said", extra={"detail": error})
        self._client.disconnect()
        self._client.loop_stop()
        self._link.heartbeat(connected=False)

    def _before_connect(self, client: mqtt.Client, _userdata: object) -> None:
        self._session = secrets.token_hex(8)
        self._since_utc = datetime.now(UTC)
        will = self._status(BoxState.LOST).model_dump_json()
        client.will_set(status_topic(self._gateway_id), will, qos=1, retain=True)

    def _connected(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            _log.warning("broker refused", extra={"reason": reason})
            return
        _log.info("broker connected", extra={"session": self._session})
        self._link.heartbeat(connected=True)
        self._say(status_topic(self._gateway_id), self._status(BoxState.ONLINE))
        self._published.clear()
        self.soon()
        self._on_connected()

    def _connect_failed(self, _client: mqtt.Client, _userdata: object) -> None:
        _log.warning("broker away", extra={"reason": "no connection"})

    def _disconnected(
        self,
        _client: mqtt.Client,
        _userdata: object,
        _flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._link.heartbeat(connected=False)
        if reason.is_failure:
            _log.warning("broker away", extra={"reason": reason})

    def _publish_until_stopped(self) -> None:
        last = float("-inf")
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._asked or self._stopping, TELEMETRY_INTERVAL_S)
                # Debounced: a burst of stores is one message, at most a second after the first of them.
                self._wake.wait_for(lambda: self._stopping, max(0.0, last + _DEBOUNCE_S - time.monotonic()))
                if self._stopping:
                    return
                self._asked = False
            last = time.monotonic()
            if self._client.is_connected():
                self._publish()

    def _publish(self) -> None:
        try:
            # Said with every beat: after a reconnection paho sends the former session's unanswered
            # messages once more, and they must not have the last word.
            self._say(status_topic(self._gateway_id), self._status(BoxState.ONLINE))
            self._say(telemetry_topic(self._gateway_id), self._telemetry())
            for scanner in self._equipment():
                key = equipment_key(scanner.ae_title, scanner.address)
                if self._published.get(key) != scanner:
                    self._say(equipment_topic(self._gateway_id, key), scanner)
                    self._published[key] = scanner
        except Exception:
            # Whatever the box cannot say of itself now, it says at the next beat; receiving goes on.
            _log.exception("heartbeat failed")

    def _status(self, state: BoxState) -> Status:
        return Status(state=state, session=self._session, since_utc=self._since_utc, version=self._version)

    def _say(self, topic: str, message: BaseModel) -> mqtt.MQTTMessageInfo:
        return self._client.publish(topic, message.model_dump_json(), qos=1, retain=True)
