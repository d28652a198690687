"""Ends a revoked gateway's live session at the broker, at once.

A broker checks certificates when a connection is made, so a session outlives the revocation of its certificate, and
mosquitto 2.0 knows no order to end one. But MQTT lays down that a second connection with a client id ends the
first (MQTT 5 section 3.1.4, MQTT-3.1.4-3), and the broker takes the client id from the certificate. Central owns
the CA, so for one moment it connects as the gateway, with a certificate that lives minutes and is in no register.
First the broker learns the revocation list, so that the gateway does not come back. docs/decisions/0014.

Always true: the stand-in's key never leaves memory but for a file of mode 0600 that is removed before this returns.
"""

from __future__ import annotations

import logging
import os
import signal
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from central.fleet.mosquitto import PID_FILE, write_revocations
from central.identity.identity import Identity
from central.identity.keyfiles import private_pem

_log = logging.getLogger(__name__)
_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class BrokerSessions:
    """The live sessions of boxes at the broker.

    Parameters
    ----------
    tls : False for a broker on loopback that asks for no certificate.
    folder : what mqtt-config wrote, where the broker runs on this machine; None where it runs elsewhere.
    """

    identity: Identity
    host: str
    port: int
    tls: bool
    folder: Path | None
    revoked_serials: Callable[[], Iterable[int]]

    def kick(self, gateway_id: str) -> None:
        """End the gateway's session now, if it has one, and let it in no more.

        Raises
        ------
        OSError : the broker cannot be told; the text says why. The gateway is revoked none the less.
        """
        if self.folder is not None:
            write_revocations(self.folder, self.identity, self.revoked_serials())
            reload_broker(self.folder)
        self._take_over(gateway_id)
        _log.info("session ended gateway_id=%s", gateway_id)

    def _take_over(self, gateway_id: str) -> None:
        taken = threading.Event()

        def connected(
            client: mqtt.Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any
        ) -> None:
            if not reason.is_failure:
                taken.set()
            client.disconnect()

        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, gateway_id, protocol=mqtt.MQTTv311, reconnect_on_failure=False
        )
        client.on_connect = connected
        client.connect_timeout = _TIMEOUT_S
        if self.tls:
            client.tls_set_context(self._stand_in(gateway_id))
        client.connect(self.host, self.port)
        client.loop_start()
        accepted = taken.wait(_TIMEOUT_S)
        client.disconnect()
        client.loop_stop()
        if not accepted:
            raise ConnectionRefusedError(
                f"the broker {self.host} port {self.port} did not end the session of {gateway_id}: restart the broker"
            )

    def _stand_in(self, gateway_id: str) -> ssl.SSLContext:
        authority = self.identity.authority
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = authority.issue_stand_in(gateway_id, key.public_key())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(cadata=authority.pem.decode("ascii"))
        # The TLS library takes certificate and key from a file only; mkstemp makes it with mode 0600.
        descriptor, name = tempfile.mkstemp(prefix="dicomnet-")
        path = Path(name)
        try:
            with open(descriptor, "wb") as file:
                file.write(certificate.public_bytes(serialization.Encoding.PEM) + private_pem(key))
            context.load_cert_chain(path)
        finally:
            path.unlink()
        return context


def reload_broker(folder: Path) -> None:
    """Have the mosquitto that runs on `folder` read its revocation list again. OSError: it cannot be told."""
    path = folder / PID_FILE
    try:
        pid = int(path.read_text())
    except ValueError as error:
        raise OSError(f"{path} holds no process id: restart the broker") from error
    if Path(f"/proc/{pid}/comm").read_text().strip() != "mosquitto":
        raise ProcessLookupError(f"process {pid} of {path} is no mosquitto: is the broker running?")
    os.kill(pid, signal.SIGHUP)
