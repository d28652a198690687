"""What can be set about destinations beside central, and which images go there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from contract.settings import Section
from edge.gateway.settings import AeTitle, Network

CENTRAL: Final = "central"
_MOST: Final = 32


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}", value):
        raise ValueError(
            "a destination's name has 1 to 32 letters, digits, spaces, dots, dashes and underscores"
        )
    if value.lower() == CENTRAL:
        raise ValueError("central is what the first central is called: it gets everything")
    return value


Name = Annotated[str, AfterValidator(_name)]
Pattern = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]


def _service_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("a DICOMweb service is https://host/path, without what follows a ? or #")
    if parts.username or parts.password:
        raise ValueError("user and password go into their own keys, not into the address")
    return value.rstrip("/")


class _DestinationSettings(Section):
    """What every destination has."""

    name: Name = Field(description="What people and rules call it, such as PACS")
    gets_all: bool = Field(
        default=False, description="It gets every image; else what a rule of [[routing]] sends there"
    )
    ca: Path | None = Field(
        default=None, description="PEM file: the CAs whose certificates it may show over TLS"
    )
    certificate: Path | None = Field(
        default=None, description="PEM file: this box's certificate, where it wants one over TLS"
    )
    key: Path | None = Field(default=None, description="PEM file: the private key of that certificate")

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError(f"destination {self.name}: certificate and key go together")
        return self


class DimseDestinationSettings(_DestinationSettings):
    """A node that takes C-STORE."""

    ae_title: AeTitle = Field(description="Its AE title")
    host: str = Field(min_length=1, max_length=253, description="Its host name or address")
    port: int = Field(default=104, gt=0, lt=65536, description="Its DICOM port")
    calling_ae_title: AeTitle | None = Field(
        default=None, description="AE title this box calls with; without it gateway.ae_title"
    )
    tls: bool = Field(default=False, description="Whether it is called over TLS; needs ca")
    tls_name: str = Field(
        default="", max_length=253, description="The name in its certificate, where that is not host"
    )

    @model_validator(mode="after")
    def _tls_whole(self) -> Self:
        if self.tls and self.ca is None:
            raise ValueError(
                f"destination {self.name}: tls = true needs ca, by which its certificate is checked"
            )
        if not self.tls and (self.ca or self.certificate or self.tls_name):
            raise ValueError(
                f"destination {self.name}: ca, certificate and tls_name are of use only with tls = true"
            )
        return self


class StowDestinationSettings(_DestinationSettings):
    """A DICOMweb service that takes STOW-RS (PS3.18 section 10.5)."""

    url: Annotated[str, AfterValidator(_service_url)] = Field(
        description="Where its DICOMweb service is, without /studies, such as https://pacs.example/dicom-web"
    )
    plain_http: bool = Field(
        default=False, description="Allow http://, where names and images cross in the clear"
    )
    username: str = Field(default="", max_length=256, description="For HTTP Basic; empty: none")
    password: str = Field(default="", max_length=256, repr=False, description="The password to it")
    token: str = Field(default="", max_length=4096, repr=False, description="Bearer token; empty: none")

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.url.startswith("http://"):
            if not self.plain_http:
                raise ValueError(
                    f"destination {self.name}: {self.url} is not encrypted: use https://, or set plain_http = true"
                )
            if self.password or self.token or self.certificate:
                raise ValueError(
                    f"destination {self.name}: password, token and certificate are for https:// only"
                )
        if self.username and self.token:
            raise ValueError(f"destination {self.name}: either username and password, or a token")
        return self


class DestinationsSettings(Section):
    backoff_ceiling_s: float = Field(
        default=300.0,
        gt=0,
        le=3600,
        description="Longest wait in seconds before a destination is tried again",
    )
    dimse: list[DimseDestinationSettings] = Field(
        default=[], max_length=_MOST, description="Nodes that take C-STORE, beside central"
    )
    stow: list[StowDestinationSettings] = Field(
        default=[], max_length=_MOST, description="DICOMweb services that take STOW-RS, beside central"
    )

    @property
    def all(self) -> list[DimseDestinationSettings | StowDestinationSettings]:
        return [*self.dimse, *self.stow]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [one.name for one in self.all]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two destinations are called {min(twice)}")
        if len(names) > _MOST:
            raise ValueError(f"{len(names)} destinations; {_MOST} are the most")
        return self


class RuleSettings(Section):
    """A rule adds destinations and may name a priority: of several that fit all count, and central gets everything."""

    modalities: list[str] = Field(
        default=[], max_length=64, description="Modality (0008,0060), such as CT; empty: any"
    )
    calling_ae_titles: list[AeTitle] = Field(
        default=[], max_length=64, description="AE titles the images come from; empty: any"
    )
    called_ae_titles: list[AeTitle] = Field(
        default=[], max_length=64, description="AE titles by which this box was called; empty: any"
    )
    addresses: list[Network] = Field(
        default=[], max_length=64, description="IP addresses or networks they come from; empty: any"
    )
    stations: list[Pattern] = Field(
        default=[],
        max_length=64,
        description="Station Name (0008,1010), with * and ? as wildcards, whatever the case; empty: any",
    )
    departments: list[Pattern] = Field(
        default=[],
        max_length=64,
        description="Who asked: Requesting Service (0032,1033) of the image, or of its order in the worklist, with "
        "* and ? as wildcards, whatever the case; empty: any",
    )
    destinations: list[Name] = Field(
        default=[], max_length=_MOST, description="Where what fits goes, beside central"
    )
    priority: Literal["", "stat", "high", "routine", "low"] = Field(
        default="",
        description="How urgent what fits is; of several rules that fit, and of the order in the worklist, the highest "
        "counts",
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.destinations and not self.priority:
            raise ValueError("a rule of routing names destinations, a priority, or both")
        return self


def check_routing(destinations: DestinationsSettings, rules: list[RuleSettings], *, has_key: bool) -> None:
    """Raise ValueError, with a sentence for a person, if a rule leads nowhere or nothing could be opened."""
    known = {one.name for one in destinations.all}
    for number, rule in enumerate(rules, 1):
        for name in rule.destinations:
            if name not in known:
                raise ValueError(
                    f"rule {number} of routing names {name}, and no destination is called that: "
                    f"there are {', '.join(sorted(known)) or 'none'}"
                )
    if known and not has_key:
        raise ValueError(
            f"the destination {min(known)} needs query.enabled = true: without a key of its own this box cannot open "
            "what it holds, and only central gets it"
        )
