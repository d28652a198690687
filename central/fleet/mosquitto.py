"""A configuration for mosquitto that holds the promises of contract.heartbeat, written from central's own keys.

A box may write below its own ``up/`` and read below its own ``down/`` and nothing else, by the name in its
certificate, which is its client id, too: no box can push another off. Central may read the one and write the other.
Nobody comes in without a certificate of our CA that is not on the revocation list. What one client can make the
broker hold is bounded. The optional watch listener is for demonstrations: plain, loopback only, read only.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization

from central.identity.authority import BROKER_COMMON_NAME
from central.identity.identity import Identity
from central.identity.keyfiles import make_private_folder, write_whole
from contract.heartbeat import MAX_PAYLOAD_BYTES, TOPIC_ROOT

ACL = f"""\
# Central hears every box, and speaks to every box.
user {BROKER_COMMON_NAME}
topic read {TOPIC_ROOT}/+/up/#
topic write {TOPIC_ROOT}/+/down/#

# A box speaks for itself alone, and hears what is meant for it: %u is the common name of its certificate.
pattern write {TOPIC_ROOT}/%u/up/#
pattern read {TOPIC_ROOT}/%u/down/#
"""
WATCH_ACL = f"# Whoever is on this machine may look on.\ntopic read {TOPIC_ROOT}/+/up/#\n"
PID_FILE: Final = "mosquitto.pid"

_MAX_CONNECTIONS: Final = 4096
_MAX_QUEUED_MESSAGES: Final = 20_000  # for central, when all boxes speak at once
_MAX_QUEUED_BYTES: Final = 64 << 20
_MEMORY_LIMIT_BYTES: Final = 512 << 20


@dataclass(frozen=True)
class BrokerPlan:
    """Where the broker listens. `watch_port` None: no watch listener."""

    folder: Path
    host: str
    port: int
    watch_port: int | None = None


def write_configuration(plan: BrokerPlan, identity: Identity, revoked_serials: Iterable[int]) -> Path:
    """Write ``mosquitto.conf`` and all it names into the plan's folder; returns its path.

    Raises
    ------
    OSError : the folder cannot be written.
    """
    folder = plan.folder.resolve()
    make_private_folder(folder)
    write_whole(folder / "ca.pem", identity.authority.pem)
    take_over_certificate(folder, identity)
    write_revocations(folder, identity, revoked_serials)
    write_whole(folder / "acl", ACL.encode())
    if plan.watch_port is not None:
        write_whole(folder / "watch.acl", WATCH_ACL.encode())
    path = folder / "mosquitto.conf"
    write_whole(path, _configuration(plan, folder).encode())
    return path


def take_over_certificate(folder: Path, identity: Identity) -> bool:
    """Write central's server certificate and its key as the broker's; whether that was news. The broker reads them at
    its start and at SIGHUP. OSError: they cannot be written."""
    server = folder / "server.pem"
    certificate = identity.server.certificate.read_bytes()
    if server.exists() and server.read_bytes() == certificate:
        return False
    write_whole(folder / "server.key", identity.server.key.read_bytes())
    write_whole(server, certificate)
    return True


def write_revocations(folder: Path, identity: Identity, revoked_serials: Iterable[int]) -> None:
    """Write ``crl.pem``. The broker reads it at SIGHUP; a live session goes on until it is kicked."""
    revocations = identity.authority.revocation_list(revoked_serials)
    write_whole(folder / "crl.pem", revocations.public_bytes(serialization.Encoding.PEM))


def _configuration(plan: BrokerPlan, folder: Path) -> str:
    watch = ""
    if plan.watch_port is not None:
        watch = f"""
listener {plan.watch_port} 127.0.0.1
allow_anonymous true
acl_file {folder}/watch.acl
"""
    return f"""\
# Written by dicomnet-central mqtt-config; run it again instead of editing.
# Keys in this folder are readable by their owner only, so mosquitto runs as that user.
user {pwd.getpwuid(os.geteuid()).pw_name}
per_listener_settings true
persistence true
persistence_location {folder}/
pid_file {folder}/{PID_FILE}
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true
max_keepalive 120
max_packet_size {2 * MAX_PAYLOAD_BYTES}
message_size_limit {MAX_PAYLOAD_BYTES}
max_inflight_messages 64
max_queued_messages {_MAX_QUEUED_MESSAGES}
max_queued_bytes {_MAX_QUEUED_BYTES}
persistent_client_expiration 1d
memory_limit {_MEMORY_LIMIT_BYTES}

listener {plan.port} {plan.host}
max_connections {_MAX_CONNECTIONS}
allow_anonymous false
cafile {folder}/ca.pem
certfile {folder}/server.pem
keyfile {folder}/server.key
crlfile {folder}/crl.pem
require_certificate true
use_identity_as_username true
use_username_as_clientid true
acl_file {folder}/acl
{watch}"""
