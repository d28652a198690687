"""Letting a box in no more: its uploads end with the next request, its session at the broker is ended here.

Always true: a gateway is revoked before the broker is told; a broker that cannot be told does not undo it, and the
person who revoked is told so.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from central.config import MqttSettings
from central.fleet.sessions import BrokerSessions
from central.foundation import Foundation
from central.identity.gateways import Gateways
from central.identity.identity import Identity
from central.identity.sessions import LiveSessions

_log = logging.getLogger(__name__)


def live_sessions(
    mqtt: MqttSettings, identity: Identity, gateways: Gateways, folder: Path | None = None
) -> LiveSessions | None:
    """The broker's sessions; None where there is no broker. `folder`: of mqtt-config, instead of the settings'."""
    if not mqtt.host:
        return None
    return BrokerSessions(
        identity, mqtt.host, mqtt.port, mqtt.tls, folder or mqtt.directory, gateways.revoked_serials
    )


def end_session(sessions: LiveSessions | None, gateway_id: str) -> str:
    """End the gateway's session at the broker; "" or a sentence that says what is still to be done."""
    if sessions is None:
        return ""
    try:
        sessions.kick(gateway_id)
    except (OSError, ssl.SSLError) as error:
        _log.warning("session not ended gateway_id=%s reason=%s", gateway_id, error)
        return f"its session at the broker could not be ended ({error}): restart the broker"
    return ""


def end_session_of(foundation: Foundation, gateway_id: str) -> str:
    """As `end_session`, by the settings of `foundation`."""
    sessions = live_sessions(foundation.settings.mqtt, foundation.identity, foundation.gateways)
    return end_session(sessions, gateway_id)


def revoke(foundation: Foundation, gateway_id: str) -> str | None:
    """Let a gateway in no more; as `end_session`, or None if there is no such gateway."""
    return end_session_of(foundation, gateway_id) if foundation.gateways.revoke(gateway_id) else None
