"""Everything that can be set on a box: one frozen model, read once at start.

`dicomnet-edge --print-default-config` and docs/operations.md are printed from it. What central decides
(identity, keys, broker) is not here: the box learns it by enrolment and keeps it in its state directory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from contract.identifiers import InvalidIdentifierError, check_ae_title
from contract.settings import Section
from edge.gateway.settings import GatewaySettings

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sockaddr_un.sun_path` holds 108 bytes with the closing zero (unix(7))."""

DEFAULT_STATE_DIRECTORY: Final = Path("/var/lib/dicomnet-edge")


def _ae_title(value: str) -> str:
    try:
        return check_ae_title(value)
    except InvalidIdentifierError as error:
        raise ValueError(str(error)) from error  # the error pydantic collects


AeTitle = Annotated[str, AfterValidator(_ae_title)]


def _socket_path(value: Path | None) -> Path | None:
    if value is not None and len(os.fsencode(value)) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(
            f"a Unix socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes, this one has "
            f"{len(os.fsencode(value))}: choose a shorter one, such as /run/dicomnet-edge.sock"
        )
    return value


class BoxSettings(Section):
    name: str = Field(
        default="",
        max_length=64,
        description='What people call this box, such as "CT room 2"; in its log only',
    )
    state_directory: Path = Field(
        default=DEFAULT_STATE_DIRECTORY,
        description="Directory of the spool and the box's identity; made with mode 0700 if missing",
    )
    control_socket: Annotated[Path | None, AfterValidator(_socket_path)] = Field(
        default=None,
        description="Unix socket for dicomnet-tui and dicomnet-edge status, at most 107 bytes long; "
        "default: control.sock in the state directory, or in a runtime directory where that is too long",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is logged to standard error"
    )


class BufferSettings(Section):
    reserve_bytes: int = Field(
        default=2 << 30,
        ge=0,
        description="Free bytes to keep on the disk; below it scanners are told 0xA700 (out of resources)",
    )
    quarantine_max_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="Bytes kept of what scanners were told had failed; the oldest goes first",
    )


class UplinkSettings(Section):
    connections: int = Field(default=2, ge=1, le=16, description="Objects sent to central at the same time")
    lease_s: float = Field(
        default=3600.0,
        ge=10,
        le=86_400,
        description="Seconds a sender may hold one object; it gives it back at half of them and goes on later",
    )
    backoff_ceiling_s: float = Field(
        default=60.0, gt=0, le=3600, description="Longest wait in seconds before central is tried again"
    )
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        le=600,
        description="Seconds without any progress after which a line counts as broken",
    )


class HeartbeatSettings(Section):
    enabled: bool = Field(
        default=True, description="Report to the MQTT broker that central named at enrolment"
    )


class ScannerSettings(Section):
    ae_title: AeTitle = Field(description="Its AE title, as called by a C-ECHO from here")
    host: str = Field(min_length=1, max_length=253, description="Its host name or address")
    port: int = Field(default=104, gt=0, lt=65536, description="Its DICOM port")


class Settings(Section):
    """The configuration of one box."""

    box: BoxSettings = BoxSettings()
    gateway: GatewaySettings = GatewaySettings()
    buffer: BufferSettings = BufferSettings()
    uplink: UplinkSettings = UplinkSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    scanners: list[ScannerSettings] = Field(
        default=[],
        max_length=256,
        description="Scanners that can be asked with C-ECHO; none needs to be listed to send",
    )

    @property
    def spool_directory(self) -> Path:
        return self.box.state_directory / "spool"

    @property
    def identity_directory(self) -> Path:
        return self.box.state_directory / "identity"

    @property
    def control_socket_path(self) -> Path:
        """Where the control socket is: as set, else in the state directory, else where its path is short."""
        if self.box.control_socket is not None:
            return self.box.control_socket
        path = self.box.state_directory.absolute() / "control.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        return _runtime_directory() / f"edge-{name}.sock"


def _runtime_directory() -> Path:
    """A short directory of this user's own; the control socket's server makes it with mode 0700."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / "dicomnet"
    return Path(tempfile.gettempdir()) / f"dicomnet-{os.getuid()}"
