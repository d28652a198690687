"""What can be set about the DICOM side of the box."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contract.errors import ContractError
from contract.identifiers import check_ae_title
from contract.settings import Section


def _ae_title(value: str) -> str:
    try:
        return check_ae_title(value)
    except ContractError as error:
        raise ValueError(str(error)) from error


AeTitle = Annotated[str, AfterValidator(_ae_title)]


def plain_address(text: str) -> str:
    """An address as the lists have it: an IPv4 address that came over IPv6 as IPv4, without a zone."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _network(value: str) -> str:
    try:
        network = ipaddress.ip_network(value.strip(), strict=False)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an IP address or network such as 10.1.2.0/24") from error
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


Network = Annotated[str, AfterValidator(_network)]


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").strip().lower()
    if plain and not re.fullmatch("[0-9a-f]{64}", plain):
        raise ValueError("a SHA-256 fingerprint has 64 hexadecimal digits; colons between them do no harm")
    return plain


class ScannerSettings(Section):
    """One scanner that may send, by the AE title it calls with."""

    ae_title: AeTitle = Field(description="AE title it calls with, and is called by for a C-ECHO from here")
    name: str = Field(default="", max_length=64, description='What people call it, such as "CT room 2"')
    addresses: list[Network] = Field(
        default=[],
        max_length=32,
        description="IP addresses or networks (10.1.2.0/24) it may call from; empty: any",
    )
    called_ae_titles: list[AeTitle] = Field(
        default=[],
        max_length=32,
        description="AE titles it may call this box by; empty: gateway.ae_title only",
    )
    tls: Literal["off", "allowed", "required"] = Field(
        default="allowed",
        description="off: it may use the plain port only; required: the TLS port only; allowed: either",
    )
    certificate_sha256: Annotated[str, AfterValidator(_fingerprint)] = Field(
        default="",
        description="SHA-256 fingerprint of its certificate; empty: any that the client CA issued",
    )
    quirks: str | None = Field(
        default=None,
        max_length=64,
        description="Profile of what is done otherwise for it: see [quirks.<name>]",
    )
    host: str = Field(
        default="",
        max_length=253,
        description="Host name or address for C-ECHO and reports to it; empty: none",
    )
    port: int = Field(default=104, gt=0, lt=65536, description="Its DICOM port")
    call_over: Literal["auto", "plain", "tls"] = Field(
        default="auto",
        description="What host and port are called over: auto: TLS where tls is required, else plain. Over TLS "
        "the box shows gateway.tls.certificate, and takes of gateway.tls.client_ca the pinned certificate, or one in "
        "the name of host",
    )

    @property
    def is_called_over_tls(self) -> bool:
        return self.call_over == "tls" or (self.call_over == "auto" and self.tls == "required")

    @model_validator(mode="after")
    def _pinned_means_tls(self) -> Self:
        if self.certificate_sha256 and self.tls != "required":
            raise ValueError(
                'certificate_sha256 needs tls = "required": over the plain port nobody shows a certificate'
            )
        return self


def check_scanners(scanners: Sequence[ScannerSettings], profiles: Container[str]) -> None:
    """Raise ValueError, with a sentence for a person, if two share an AE title or one names no profile."""
    seen: set[str] = set()
    for scanner in scanners:
        if scanner.ae_title in seen:
            raise ValueError(
                f"two scanners have the AE title {scanner.ae_title}: one entry with both addresses does it"
            )
        seen.add(scanner.ae_title)
        if scanner.quirks is not None and scanner.quirks not in profiles:
            raise ValueError(
                f"{scanner.ae_title} names the quirks {scanner.quirks}, and no such profile is there"
            )


class TlsSettings(Section):
    """DIMSE over TLS, on a port of its own; off until certificate, key and client CA are all set."""

    port: int = Field(
        default=2762, ge=0, le=65535, description="TCP port for DICOM over TLS; 0 picks a free one"
    )
    certificate: Path | None = Field(
        default=None, description="PEM file: this box's certificate, then the chain above it"
    )
    key: Path | None = Field(default=None, description="PEM file: its private key, readable by the box only")
    client_ca: Path | None = Field(
        default=None, description="PEM file: the CAs whose certificates scanners must show"
    )
    profile: Literal["bcp195", "modified-bcp195"] = Field(
        default="bcp195",
        description="Cipher suites of PS3.15 B.12 (BCP 195) or B.13 (modified BCP 195)",
    )

    @property
    def enabled(self) -> bool:
        return self.certificate is not None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        parts = {"certificate": self.certificate, "key": self.key, "client_ca": self.client_ca}
        missing = [name for name, value in parts.items() if value is None]
        if missing and len(missing) < len(parts):
            raise ValueError(
                f"{' and '.join(missing)} not set: TLS needs certificate, key and client_ca together"
            )
        return self


class GatewaySettings(Section):
    """The association acceptor and its limits; every limit holds for the box."""

    host: str = Field(default="0.0.0.0", description="address to listen on; 0.0.0.0 is every interface")  # noqa: S104  # scanners reach the box over the network
    port: int = Field(default=11112, ge=0, le=65535, description="TCP port; 0 picks a free one")
    ae_title: AeTitle = Field(default="DICOMNET", description="AE title of this box")
    require_called_ae_title: bool = Field(
        default=False, description="refuse associations that call another AE title than this box's"
    )
    unknown_scanners: Literal["auto", "refuse", "hold", "accept"] = Field(
        default="auto",
        description="What a scanner that is neither configured nor approved gets: accept; refuse; hold: put off "
        "until a technician approves it; auto: accept until there is a first scanner, then refuse",
    )
    max_associations: int = Field(
        default=32,
        ge=1,
        le=256,
        description="associations served at once; an address gets one more while it holds fewer than are left",
    )
    max_connections: int = Field(
        default=64, ge=1, le=1024, description="TCP connections open at once, associated or not"
    )
    max_connections_per_address: int = Field(
        default=16, ge=1, le=1024, description="TCP connections open at once from one address"
    )
    request_timeout_s: float = Field(
        default=5.0, gt=0, le=60, description="seconds from connecting to the last byte of the A-ASSOCIATE-RQ"
    )
    idle_timeout_s: float = Field(
        default=300.0, gt=0, description="seconds an association may stay silent between messages"
    )
    stall_timeout_s: float = Field(
        default=30.0,
        gt=0,
        description="seconds a peer may stay silent inside a message, or not take an answer",
    )
    min_rate_bytes_per_s: int = Field(
        default=1024,
        ge=0,
        description="bytes per second a peer must reach inside a message, averaged over stall_timeout_s of waiting",
    )
    max_pdu_bytes: int = Field(
        default=262_144,
        ge=16_384,
        le=524_288,
        description="largest P-DATA-TF PDU announced and taken, in bytes",
    )
    receiving_processes: int = Field(
        default=0,
        ge=0,
        le=16,
        description="processes that receive, when several scanners send at once; 0: one for each core, at most 4",
    )
    stop_grace_s: float = Field(
        default=10.0, ge=0, description="seconds that instances in progress get to finish when the box stops"
    )
    tls: TlsSettings = TlsSettings()
