"""The ``[hl7]`` section of central's configuration."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, IPvAnyNetwork, model_validator

from central.institution import DEFAULT_INSTITUTION, InstitutionName
from contract.settings import Section


class Hl7InstitutionSettings(Section):
    """The senders of an institution other than the default one."""

    institution: InstitutionName = Field(description="whose orders these senders send")
    senders: list[IPvAnyNetwork] = Field(description="their addresses or networks")


class Hl7Settings(Section):
    enabled: bool = Field(
        False, description="whether central takes HL7 v2 orders (ORM^O01, OMI^O23) over MLLP"
    )
    host: str = Field("127.0.0.1", description="address that MLLP listens on; 0.0.0.0 for all")
    port: int = Field(2575, ge=0, le=65535, description="TCP port; 0 takes a free one (tests)")
    senders: list[IPvAnyNetwork] = Field(
        default_factory=list,
        description="addresses or networks that may send orders; nobody else is listened to",
    )
    institutions: list[Hl7InstitutionSettings] = Field(
        default_factory=list,
        description="senders of other institutions than the default one; they need not stand in senders",
    )
    character_set: str = Field(
        "8859/1", description="of messages without MSH-18, by HL7 table 0211, such as UNICODE UTF-8"
    )
    max_message_bytes: int = Field(1 << 20, ge=1024, le=16 << 20, description="largest message, in bytes")
    max_connections: int = Field(16, ge=1, le=200, description="connections open at the same time")
    idle_timeout_s: float = Field(
        3600.0, gt=0, description="seconds a connection may be silent between messages"
    )
    message_timeout_s: float = Field(
        30.0, gt=0, description="seconds in which a message that began must be there"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM certificate chain; with it MLLP is over TLS only"
    )
    tls_key: Path | None = Field(None, description="PEM private key that belongs to tls_certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the CAs whose certificates senders must show; empty: none is asked for"
    )

    @model_validator(mode="after")
    def _closed(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together or not at all")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self

    def is_sender(self, address: str) -> bool:
        """Whether who calls from there is listened to."""
        caller = _caller(address)
        networks = [*self.senders, *(network for one in self.institutions for network in one.senders)]
        return any(caller in network for network in networks)

    def institution_of(self, address: str) -> str:
        """Whose orders come from there."""
        caller = _caller(address)
        named = (
            one.institution for one in self.institutions if any(caller in network for network in one.senders)
        )
        return next(named, DEFAULT_INSTITUTION)


def _caller(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    caller = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        return caller.ipv4_mapped
    return caller
