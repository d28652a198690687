"""The ``[audit]`` section of central's configuration."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from contract.settings import Section


class AuditSettings(Section):
    """How long the record is kept, and what others are told of it."""

    retention_years: int = Field(
        default=10,
        ge=0,
        le=200,
        description="years that records are kept at least; audit prune alone removes older ones. 0: for ever",
    )
    institution: str = Field(
        default="this institution",
        min_length=1,
        max_length=128,
        description="what a patient is told of who looked, besides the role: no names of staff",
    )
    syslog_host: str = Field(
        default="",
        description="name or address of an audit record repository, by syslog over TLS (RFC 5425); empty: none",
    )
    syslog_port: int = Field(default=6514, ge=1, le=65535, description="TCP port of syslog_host")
    syslog_ca: Path | None = Field(
        default=None,
        description="PEM file of the CAs that may vouch for syslog_host; empty: those of this machine",
    )
    syslog_certificate: Path | None = Field(
        default=None, description="PEM certificate chain that central shows there; empty: none"
    )
    syslog_key: Path | None = Field(
        default=None, description="PEM private key, not encrypted, that belongs to syslog_certificate"
    )

    @model_validator(mode="after")
    def _whole(self) -> AuditSettings:
        if (self.syslog_certificate is None) != (self.syslog_key is None):
            raise ValueError("syslog_certificate and syslog_key are given together or not at all")
        return self
