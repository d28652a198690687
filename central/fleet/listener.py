"""Central's ear at the MQTT broker: subscribes to every box's ``up/``, and finds back by itself.

MQTT 3.1.1, because nothing that version 5 adds is needed: all state of a box is retained, so a clean session
that subscribes anew after every connection misses nothing. While the broker is away the fleet page says so and
everything else goes on.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from contract.heartbeat import TOPIC_ROOT

_KEEPALIVE_S: Final = 30
_RECONNECT_MIN_S: Final = 1
_RECONNECT_MAX_S: Final = 30
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


class BrokerListener:
    """One connection to the broker, held by a thread of paho's."""

    def __init__(
        self, host: str, port: int, client_id: str, tls: BrokerTls | None, on_message: OnMessage
    ) -> None:
        self._address = (host, port)
        self._on_message = on_message
        self._lock = threading.Lock()
        self._connected_since: float | None = None
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id, clean_session=True, protocol=mqtt.MQTTv311
        )
        if tls is not None:
            self._client.tls_set_context(tls.context())
        self._client.reconnect_delay_set(_RECONNECT_MIN_S, _RECONNECT_MAX_S)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._message

    def start(self) -> None:
        """Begin to connect, and return. The broker need not be there yet."""
        self._client.connect_async(*self._address, keepalive=_KEEPALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def connected_for_s(self) -> float | None:
        """For how long the broker has been listened to without a break; None while it is away."""
        with self._lock:
            return None if self._connected_since is None else time.monotonic() - self._connected_since

    def _connected(
        self, client: mqtt.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        if reason.is_failure:
            _log.warning("broker refused the connection reason=%s", reason)
            return
        client.subscribe(f"{TOPIC_ROOT}/+/up/#", qos=1)
        with self._lock:
            self._connected_since = time.monotonic()
        _log.info("broker connected host=%s port=%d", *self._address)

    def _disconnected(
        self, _client: mqtt.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
    ) -> None:
        with self._lock:
            self._connected_since = None
        _log.warning("broker away reason=%s; trying again by itself", reason)

    def _message(self, _client: mqtt.Client, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._on_message(message.topic, bytes(message.payload), message.retain)
        except Exception:
            # Whatever one message does, the thread that hears the others must live. The topic is all ours.
            _log.exception("heartbeat not kept")
