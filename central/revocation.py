"""Letting a box in no more: its uploads are cut off, its session at the broker is ended here.

Always true: a gateway is revoked before the broker is told; a broker that cannot be told does not undo it, and the
person who revoked is told so.
"""

from __future__ import annotations

import logging

from central.fleet.sessions import BrokerSessions
from central.foundation import Foundation

_log = logging.getLogger(__name__)


def end_session_of(foundation: Foundation, gateway_id: str) -> str:
    """End the gateway's session at the broker; "" or a sentence that says what is still to be done."""
    mqtt = foundation.settings.mqtt
    if not mqtt.host:
        return ""
    revoked = foundation.gateways.revoked_serials
    sessions = BrokerSessions(foundation.identity, mqtt.host, mqtt.port, mqtt.tls, mqtt.directory, revoked)
    try:
        sessions.kick(gateway_id)
    except OSError as error:  # TLS errors are such
        _log.warning("session not ended gateway_id=%s reason=%s", gateway_id, error)
        return f"its session at the broker could not be ended ({error}): restart the broker"
    return ""


def revoke(foundation: Foundation, gateway_id: str) -> str | None:
    """Let a gateway in no more; as `end_session_of`, or None if there is no such gateway."""
    return end_session_of(foundation, gateway_id) if foundation.gateways.revoke(gateway_id) else None
