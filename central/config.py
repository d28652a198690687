"""Central's settings: one frozen model for one TOML file. What a key means stands in its description.

From here come the validation, ``--print-default-config`` and the table in docs/operations.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from central.access.oidc_settings import OidcSettings
from central.archive.settings import StorageSettings
from central.audit.settings import AuditSettings
from central.dimse.settings import DimseSettings
from central.hosts import EVERYWHERE, is_address, is_loopback
from central.workflow.hl7_settings import Hl7Settings
from contract.settings import Section

Port = Annotated[int, Field(ge=0, le=65535)]


class PeopleSettings(Section):
    host: str = Field(default="127.0.0.1", description="address the portal, viewer and DICOMweb listen on")
    port: Port = Field(
        default=8080, description="TCP port for people and programs; 0 takes a free one (tests)"
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM certificate chain for HTTPS; needed unless host is loopback or behind_proxy",
    )
    tls_key: Path | None = Field(default=None, description="PEM private key that belongs to tls_certificate")
    behind_proxy: bool = Field(
        default=False,
        description="true: a reverse proxy on this machine does TLS in front; its X-Forwarded-* count",
    )
    allowed_origins: list[str] = Field(
        default=[],
        description="origins of other viewers, such as https://ohif.example, whose pages may use DICOMweb by token",
    )

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, values: list[str]) -> list[str]:
        for value in values:
            url = urlsplit(value)
            closed = url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or ""))
            as_shown = url.hostname and value == f"{url.scheme}://{url.netloc}".lower()
            if not closed or not as_shown or "*" in value or "@" in value or url.port in (80, 443):
                raise ValueError(
                    f"{value} is no origin: write https://HOST or https://HOST:PORT, as the browser shows it, "
                    "without a path; http:// for loopback only"
                )
        return values

    public_url: str = Field(
        default="",
        description="how browsers reach central, such as https://central.example; passkeys hold for it; empty: none",
    )

    @field_validator("public_url")
    @classmethod
    def _fit_for_passkeys(cls, value: str) -> str:
        if not value:
            return value
        url = urlsplit(value)
        host = url.hostname or ""
        if not host or url.path.strip("/") or url.query or url.fragment or url.username or url.password:
            raise ValueError("a public_url is https://NAME or https://NAME:PORT")
        if is_address(host) or not host.isascii():
            raise ValueError(
                "passkeys hold for a name in ASCII (xn--…), not for an address: give central one"
            )
        if url.scheme != "https" and not (url.scheme == "http" and host == "localhost"):
            raise ValueError("public_url begins with https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _closed(self) -> PeopleSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key are given together or not at all")
        if self.tls_certificate is None and not self.behind_proxy and not is_loopback(self.host):
            raise ValueError(
                "passwords and images do not travel in clear: give tls_certificate and tls_key, "
                "or set behind_proxy = true, or keep host on 127.0.0.1"
            )
        return self


class GatewaySettings(Section):
    host: str = Field(
        default="127.0.0.1", description="address the gateways' HTTPS listens on; 0.0.0.0 for all"
    )
    port: Port = Field(
        default=8443, description="TCP port of the gateways' HTTPS; 0 takes a free one (tests)"
    )
    public_host: str = Field(
        default="",
        description="name or address by which the boxes reach this central; empty: the same as host",
    )
    public_port: Port = Field(default=0, description="port by which the boxes reach it; 0: the same as port")

    acceptance: Literal["administrator", "pairing-string"] = Field(
        default="administrator",
        description="who lets a box in: administrator, who compares its key's fingerprint; or pairing-string alone",
    )

    @model_validator(mode="after")
    def _reachable(self) -> GatewaySettings:
        if not self.public_host and self.host in EVERYWHERE:
            raise ValueError("set public_host: the boxes cannot be told to call every address")
        return self

    @property
    def called_host(self) -> str:
        return self.public_host or self.host


class MqttSettings(Section):
    host: str = Field(default="", description="address of the MQTT broker; empty: no broker, no heartbeats")
    port: Port = Field(default=8883, description="TCP port of the broker")
    tls: bool = Field(
        default=True, description="mutual TLS with central's CA; false only where host is loopback"
    )
    public_host: str = Field(
        default="", description="address by which the boxes reach the broker; empty: the same as host"
    )
    public_port: Port = Field(default=0, description="port by which the boxes reach it; 0: the same as port")
    directory: Path | None = Field(
        default=None,
        description="folder that mqtt-config wrote, where the broker runs on this machine: revocations go there",
    )

    @model_validator(mode="after")
    def _closed(self) -> MqttSettings:
        if self.host and not self.tls and not (is_loopback(self.host) and is_loopback(self.called_host)):
            raise ValueError("tls = false is for a broker on loopback only")
        return self

    @property
    def called_host(self) -> str:
        return self.public_host or self.host

    @property
    def called_port(self) -> int:
        return self.public_port or self.port


class SessionSettings(Section):
    browser_life_s: int = Field(
        default=12 * 3600, ge=60, description="seconds after which a browser must sign in again"
    )
    token_life_s: int = Field(
        default=3600, ge=60, description="seconds a bearer token of /api/auth/token is valid"
    )


class AccessSettings(Section):
    emergency: bool = Field(
        default=True,
        description="a doctor may open a study that is not theirs, with a reason that is reviewed afterwards",
    )
    emergency_minutes: int = Field(
        default=60, ge=5, le=1440, description="minutes for which such a study stays open"
    )
    second_factor_roles: list[Literal["admin", "radiologist", "doctor", "patient"]] = Field(
        default=[],
        description="roles whose local accounts reach nothing until they have an authenticator app or a passkey",
    )


class GatewayLimitSettings(Section):
    day_bytes: int = Field(ge=0, description="what this gateway may bring in 24 hours")


class LimitSettings(Section):
    max_object_bytes: int = Field(
        default=8 << 30, ge=1 << 20, description="largest object, sealed and opened, in bytes"
    )
    max_uploads_per_gateway: int = Field(
        default=64,
        ge=1,
        description="unfinished uploads a gateway may have; the one left for longest makes way for another",
    )
    gateway_day_bytes: int = Field(
        default=1 << 40, ge=0, description="what a gateway may bring in 24 hours; the rest waits on the box"
    )
    ingest_workers: int = Field(
        default=2, ge=1, le=64, description="threads that open, verify and index objects"
    )
    render_workers: int = Field(
        default=2, ge=1, le=64, description="processes that draw images for the browser"
    )
    gateway: dict[str, GatewayLimitSettings] = Field(
        default={}, description="Other limits for one gateway, under its id."
    )


class Settings(Section):
    """Everything that can be set."""

    people: PeopleSettings = Field(
        default=PeopleSettings(), description="Where people sign in, and programs ask by DICOMweb."
    )
    gateways: GatewaySettings = Field(
        default=GatewaySettings(), description="Where the boxes enrol and deliver."
    )
    dicom: DimseSettings = Field(
        default=DimseSettings.model_validate({}),
        description="DICOM upper layer services, for configured peers.",
    )
    hl7: Hl7Settings = Field(
        default=Hl7Settings.model_validate({}), description="Orders for the worklist, by HL7 v2 over MLLP."
    )
    storage: StorageSettings = Field(default=StorageSettings(), description="What is kept, and where.")
    audit: AuditSettings = Field(
        default=AuditSettings.model_validate({}),
        description="How long the audit record is kept, who is told.",
    )
    mqtt: MqttSettings = Field(default=MqttSettings(), description="The broker of the heartbeats.")
    sessions: SessionSettings = Field(
        default=SessionSettings(), description="How long somebody stays signed in."
    )
    access: AccessSettings = Field(
        default=AccessSettings(), description="What people may do beyond their role."
    )
    oidc: OidcSettings = Field(default=OidcSettings(), description="Signing on at the house's own provider.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What is refused or put off.")
