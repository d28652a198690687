"""Everything that can be set on a box: one frozen model, read once at start.

`dicomnet-edge --print-default-config` and docs/operations.md are printed from it. What central decides
(identity, keys, broker) is not here: the box learns it by enrolment and keeps it in its state directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contract.settings import Section
from edge.buffer.coding_pace import Coding
from edge.destination_settings import DestinationsSettings, Name, RuleSettings, check_routing
from edge.gateway.quirks import Quirks, profiles
from edge.gateway.service_settings import CommitmentSettings, QuerySettings
from edge.gateway.settings import GatewaySettings, ScannerSettings, check_scanners
from edge.workflow_settings import StudySettings, WorklistSettings

MAX_SOCKET_PATH_BYTES: Final = 107
"""`sockaddr_un.sun_path` holds 108 bytes with the closing zero (unix(7))."""

DEFAULT_STATE_DIRECTORY: Final = Path("/var/lib/dicomnet-edge")


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


class IdentitySettings(Section):
    key: Literal["auto", "tpm", "file"] = Field(
        default="auto",
        description="Where the private key of the next certificate is made: auto (in a TPM 2.0 that can be used, else "
        "in a file), tpm (there or nowhere), file; a key that exists stays where it is until then",
    )
    tpm: str = Field(
        default="device:/dev/tpmrm0",
        pattern=r"^[a-z]{1,16}(:[ -~]{1,200})?$",
        description="The TPM, as tpm2-tss names it (TCTI)",
    )


class BufferSettings(Section):
    reserve_bytes: int = Field(
        default=2 << 30,
        ge=0,
        description="Free bytes to keep on the disk; below it scanners are told 0xA700 (out of resources)",
    )
    coding: Coding = Field(
        default=Coding.PACE,
        description="Whether pixels are coded as images, which shrinks them to a quarter: "
        "pace (when the scanner leaves time for it and a processor is idle, or the line is slow), "
        "always (also right for a slow SD card), never",
    )
    quarantine_max_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="Bytes on the disk kept of what scanners were told had failed, and 10,000 files at most; "
        "the oldest goes first",
    )
    retain_hours: float = Field(
        default=0.0,
        ge=0,
        le=87_600,
        description="Hours from its arrival that an image stays on the box although central has it; 0 frees it at once",
    )
    low_water_bytes: int = Field(
        default=4 << 30,
        ge=0,
        description="Free bytes below which images that central has are freed before their time, oldest first; "
        "never less than reserve_bytes",
    )
    scrub_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="Days between two passes that read everything on the disk to find damage",
    )
    scrub_bytes_per_s: int = Field(
        default=4 << 20,
        ge=1 << 16,
        description="Bytes read in a second by such a pass; at most 262144 while images are received",
    )


class LimitSettings(Section):
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        default=["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
        min_length=1,
        description="Weekdays on which the limit begins",
    )
    from_hour: int = Field(
        default=0, ge=0, le=23, description="Hour from which it holds, in the box's local time"
    )
    to_hour: int = Field(
        default=24, ge=1, le=24, description="Hour before which it ends; less than from_hour: on the next day"
    )
    kbit_per_s: int = Field(ge=16, le=100_000_000, description="Kilobits that may be sent in a second")


def _proxy_url(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"http://[^/\s]+:[0-9]{1,5}/?", value):
        raise ValueError("a proxy is http://host:port or http://user:password@host:port")
    return value


class UplinkSettings(Section):
    further_centrals: list[Name] = Field(
        default=[],
        max_length=4,
        description="Names of centrals beside the first, in their order; each is enrolled under its name",
    )
    mode: Literal["copy", "fail-over"] = Field(
        default="fail-over",
        description="What further centrals are for: copy (each gets every image), or fail-over (one gets what those "
        "before it cannot be sent)",
    )
    fail_over_after_s: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="Seconds that a central is out before the next one takes its place",
    )
    connections: int = Field(
        default=4, ge=1, le=16, description="Connections on which objects and packs are sent at the same time"
    )
    proxy: Annotated[str | None, AfterValidator(_proxy_url)] = Field(
        default=None,
        repr=False,
        description="HTTP proxy that leads to central, such as http://proxy.example:3128; "
        "all but MQTT goes through it, in central's own TLS, and heartbeats then go over HTTPS",
    )
    limits: list[LimitSettings] = Field(
        default=[],
        max_length=64,
        description="How much of the line images may use at which hour; of several that fit the first counts",
    )
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
        default=True,
        description="Report to the MQTT broker that central named at enrolment, or over HTTPS where there is none",
    )
    https_after_s: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="Seconds the broker may be out of reach before heartbeats go over the upload connection",
    )
    echo_interval_s: int = Field(
        default=300,
        ge=30,
        le=86_400,
        description="Seconds between two C-ECHO to a scanner that has a host; central may change it",
    )


class Settings(Section):
    """The configuration of one box."""

    box: BoxSettings = BoxSettings()
    identity: IdentitySettings = IdentitySettings()
    gateway: GatewaySettings = GatewaySettings()
    buffer: BufferSettings = BufferSettings()
    uplink: UplinkSettings = UplinkSettings()
    heartbeat: HeartbeatSettings = HeartbeatSettings()
    commitment: CommitmentSettings = CommitmentSettings()
    query: QuerySettings = QuerySettings()
    worklist: WorklistSettings = WorklistSettings()
    studies: StudySettings = StudySettings()
    destinations: DestinationsSettings = DestinationsSettings()
    routing: list[RuleSettings] = Field(
        default=[],
        max_length=256,
        description="Which images go to which destinations, and how urgent they are; those of all rules that fit are "
        "added up, and central gets every image in any case",
    )
    scanners: list[ScannerSettings] = Field(
        default=[],
        max_length=256,
        description="Scanners that may send, and what holds for each; more can be approved in dicomnet-tui",
    )
    quirks: dict[str, Quirks] = Field(
        default={},
        max_length=64,
        description="Profiles for scanners that need to be treated otherwise, beside those that come with the box",
    )

    @model_validator(mode="after")
    def _scanners_fit(self) -> Self:
        check_scanners(self.scanners, profiles(self.quirks))
        return self

    @model_validator(mode="after")
    def _calls_over_tls_have_a_certificate(self) -> Self:
        over_tls = [one.ae_title for one in self.scanners if one.call_over == "tls"]
        over_tls += [one.ae_title for one in self.query.destinations if one.tls]
        over_tls += [self.worklist.upstream.ae_title] if self.worklist.upstream.tls else []
        if over_tls and not self.gateway.tls.enabled:
            raise ValueError(
                f"{over_tls[0]} is to be called over TLS: that needs certificate, key and client_ca of gateway.tls"
            )
        return self

    @model_validator(mode="after")
    def _centrals_have_names_of_their_own(self) -> Self:
        taken = [one.name.lower() for one in self.destinations.all]
        for name in self.uplink.further_centrals:
            if name.lower() in taken:
                raise ValueError(f"two destinations or centrals are called {name}")
            taken.append(name.lower())
        return self

    @model_validator(mode="after")
    def _routing_fits(self) -> Self:
        check_routing(self.destinations, self.routing, has_key=self.query.enabled)
        return self

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
