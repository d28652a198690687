"""Why the broker cannot be had, as one sentence for the technician.

An MQTT library reports little more than "connection lost", because with TLS 1.3 the broker judges our certificate
only after our side of the handshake is done. So the line is tried once more by hand, up to where it breaks, and
the break is named: nobody there, not our broker, certificate revoked, expired or foreign, or the clock.
"""

from __future__ import annotations

import socket
import ssl
from datetime import datetime
from typing import Final

from edge.uplink.pinned_tls import CertificateDatesError
from edge.uplink.tls_signer import SigningFailedError

_TIMEOUT_S: Final = 5.0
_JUDGED_WITHIN_S: Final = 2.0  # after our side of the handshake

TWIN: Final = (
    "another box uses this box's identity, and the two push each other off the broker. Find the copy and switch it "
    "off; if in doubt, revoke this gateway at central and enrol the box anew."
)
CUT_AGAIN_AND_AGAIN: Final = (
    "the broker takes this box and drops it again within seconds, time after time. Most often another box uses the "
    "same identity (a copied disk): switch the copy off."
)


def sentence(
    host: str, port: int, tls: ssl.SSLContext | None, expires_at_utc: datetime, now: datetime
) -> str | None:
    """What is wrong between here and the broker; None if a connection can be had, so that the fault is MQTT's."""
    where = f"the broker {host} port {port}"
    try:
        with socket.create_connection((host, port), _TIMEOUT_S) as connection:
            if tls is None:
                return None
            with tls.wrap_socket(connection, server_hostname=host) as secured:
                secured.settimeout(_JUDGED_WITHIN_S)
                secured.recv(1)  # a broker speaks only when spoken to: anything now is its verdict on us
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(where, error)
    except SigningFailedError as error:
        return str(error.fault)
    except ssl.SSLError as error:
        return _refused(where, error, expires_at_utc, now)
    except TimeoutError:
        # Connected and silent is how a broker waits for CONNECT.
        return (
            None
            if _connects(host, port)
            else f"{where} does not answer: look for a firewall, or a wrong address"
        )
    except socket.gaierror:
        return f"the name of {where} is not known here: check the DNS server this box uses"
    except ConnectionRefusedError:
        return f"nobody listens at {where}: is it running?"
    except OSError as error:
        return f"{where} cannot be reached: {error.strerror or error}"
    return None


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), _TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _not_trusted(where: str, error: ssl.SSLCertVerificationError) -> str:
    if isinstance(error, CertificateDatesError):
        return f"{error.verify_message}. Nothing was sent to {where}; this box asks central for the time by itself"
    return (
        f"{where} does not prove to belong to this box's central ({error.verify_message}): wrong address, or somebody "
        "is in between. Nothing was sent to it."
    )


def _refused(where: str, error: ssl.SSLError, expires_at_utc: datetime, now: datetime) -> str:
    reason = error.reason or ""
    if "REVOKED" in reason:
        return f"{where} refuses this box: its certificate is revoked. Enrol it anew if it is to go on."
    if "EXPIRED" in reason:
        if now < expires_at_utc:
            return (
                f"{where} finds this box's certificate expired, though by this box's clock it is good until "
                f"{expires_at_utc:%Y-%m-%d}: one of the two clocks is wrong"
            )
        return (
            f"{where} refuses this box: its certificate expired on {expires_at_utc:%Y-%m-%d}. Enrol it anew."
        )
    if "UNKNOWN_CA" in reason or "CERTIFICATE" in reason or "ACCESS" in reason:
        return (
            f"{where} refuses this box: its certificate is of another central. Enrol the box at the central that "
            "this broker belongs to."
        )
    return f"TLS with {where} fails ({reason.lower().replace('_', ' ') or error}): it may be no MQTT broker with TLS"
