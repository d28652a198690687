"""``[oidc]``: the providers that people sign on at, and what their claims mean here."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from central.hosts import is_loopback
from central.institution import InstitutionName
from contract.settings import Section


class OidcProvider(Section):
    issuer: str = Field(
        default="", description="issuer of an OpenID Connect provider that people sign on at; empty: none"
    )
    name: str = Field(default="single sign-on", description="what the button on the sign-in page calls it")
    client_id: str = Field(default="", description="central's client id at the provider")
    client_secret: Path | None = Field(
        default=None, description="file that holds the client secret; none: a public client, by PKCE alone"
    )
    public_url: str = Field(
        default="",
        description="how browsers reach central; the provider is told public_url/signin/oidc/callback",
    )
    scopes: str = Field(default="openid profile", description="scopes that are asked for")
    role_claim: str = Field(default="roles", description="claim of the ID token that says the role")
    admin: list[str] = Field(default=[], description="its values that mean an administrator")
    radiologist: list[str] = Field(default=[], description="its values that mean a radiologist")
    doctor: list[str] = Field(default=[], description="its values that mean a referring doctor")
    technician: list[str] = Field(default=[], description="its values that mean a technician")
    patient: list[str] = Field(default=[], description="its values that mean a patient")
    institution: InstitutionName | Literal[""] = Field(
        default="",
        description="whose people sign on there; empty: the default institution's, administrators of the whole central",
    )
    department_claim: str = Field(
        default="", description="for doctors and technicians: claim that holds their departments"
    )
    physician_name_claim: str = Field(
        default="", description="for doctors: claim that holds Referring Physician's Name as on the images"
    )
    patient_id_claim: str = Field(
        default="", description="for patients: claim that holds the verified identifier, as Patient ID has it"
    )
    issuer_of_patient_id: str = Field(
        default="", description="Issuer of Patient ID that qualifies it; needed with patient_id_claim"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if not self.issuer:
            return self
        for url, key in ((self.issuer, "issuer"), (self.public_url, "public_url")):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
                raise ValueError(f"{key} begins with https://")
        if not self.client_id:
            raise ValueError("client_id is missing")
        if self.patient_id_claim and not self.issuer_of_patient_id:
            raise ValueError("an identifier counts with its issuer only: set issuer_of_patient_id")
        return self


class OidcOtherProvider(OidcProvider):
    key: str = Field(
        pattern="^[a-z0-9][a-z0-9-]{0,31}$",
        description="a short name for addresses; this one is told public_url/signin/oidc/callback?provider=KEY",
    )


class OidcSettings(OidcProvider):
    others: list[OidcOtherProvider] = Field(
        default=[],
        description="further providers: one [[oidc.others]] table each, with the same keys and one of its own",
    )

    @model_validator(mode="after")
    def _told_apart(self) -> OidcSettings:
        issuers = [self.issuer, *(one.issuer for one in self.others)]
        keys = [one.key for one in self.others]
        if self.others and not all(issuers):
            raise ValueError("each provider has an issuer, and the first one is [oidc] itself")
        if len(set(issuers)) < len(issuers) or len(set(keys)) < len(keys):
            raise ValueError("two providers have the same issuer, or the same key")
        return self
