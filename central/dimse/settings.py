"""The ``[dicom]`` section of central's configuration."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, IPvAnyNetwork, model_validator

from central.institution import DEFAULT_INSTITUTION, InstitutionName
from contract.identifiers import InvalidIdentifierError, check_ae_title
from contract.settings import Section


def _ae_title(value: str) -> str:
    try:
        return check_ae_title(value)
    except InvalidIdentifierError as error:
        raise ValueError(str(error)) from error


def _fingerprint(value: str) -> str:
    plain = value.replace(":", "").lower()
    if plain and (len(plain) != 64 or not set(plain) <= set("0123456789abcdef")):
        raise ValueError("a certificate's SHA-256 has 64 hexadecimal digits")
    return plain


AETitle = Annotated[str, AfterValidator(_ae_title)]
Fingerprint = Annotated[str, AfterValidator(_fingerprint)]
PduBytes = Annotated[int, Field(ge=4096, le=1 << 20)]


class Service(StrEnum):
    """What a peer may be allowed. C-ECHO needs no permission."""

    QUERY = "query"
    RETRIEVE = "retrieve"
    STORE = "store"
    COMMITMENT = "commitment"
    WORKLIST = "worklist"
    PROCEDURE_STEP = "procedure-step"


class PeerSettings(Section):
    """An application entity. Its title and its address must fit, and its certificate where one is named."""

    ae_title: AETitle = Field(description="AE title it calls with, and is called by")
    address: IPvAnyNetwork = Field(description="IP address it calls from, or a network such as 10.1.2.0/24")
    certificate_sha256: Fingerprint = Field(
        "", description="SHA-256 of the certificate it must show; it is then served on the TLS port only"
    )
    institution: InstitutionName = Field(
        DEFAULT_INSTITUTION,
        description="whose peer it is: it reaches that one's studies, and stores them there",
    )
    may: list[Service] = Field(
        default=[Service.QUERY],
        description="what it may do: query, retrieve, store, commitment, worklist, procedure-step",
    )
    host: str = Field("", description="where C-MOVE and commitment reports go; empty: it is no destination")
    port: int = Field(104, ge=1, le=65535, description="TCP port of host")
    tls: bool = Field(False, description="whether central calls host over TLS, with its own certificate")


class DimseTlsSettings(Section):
    """DICOM over TLS, on a port of its own; off until certificate, key and client_ca are all set."""

    port: int = Field(
        2762, ge=0, le=65535, description="TCP port for DICOM over TLS; 0 takes a free one (tests)"
    )
    certificate: Path | None = Field(
        None, description="PEM file: central's certificate, then the chain above it"
    )
    key: Path | None = Field(None, description="PEM file: its private key, readable by central only")
    client_ca: Path | None = Field(None, description="PEM file: the CAs whose certificates peers must show")
    profile: Literal["bcp195", "modified-bcp195"] = Field(
        "bcp195", description="cipher suites of PS3.15 B.12 (BCP 195) or B.13 (modified BCP 195)"
    )

    @property
    def enabled(self) -> bool:
        return self.certificate is not None

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        missing = [name for name in ("certificate", "key", "client_ca") if getattr(self, name) is None]
        if missing and len(missing) < 3:
            raise ValueError(
                f"{' and '.join(missing)} not set: TLS needs certificate, key and client_ca together"
            )
        return self


class DimseSettings(Section):
    enabled: bool = Field(True, description="whether central answers DICOM associations at all")
    host: str = Field("127.0.0.1", description="address that DICOM listens on; 0.0.0.0 for all")
    port: int = Field(11114, ge=0, le=65535, description="TCP port; 0 takes a free one (tests)")
    ae_title: AETitle = Field("DICOMNET", description="central's AE title; calls to another one are refused")
    max_associations: int = Field(20, ge=1, le=500, description="associations served at the same time")
    max_connections: int = Field(60, ge=2, le=2000, description="connections open at the same time")
    max_connections_per_address: int = Field(
        10, ge=1, le=500, description="connections open at the same time from one address"
    )
    request_timeout_s: float = Field(
        5.0, gt=0, le=60, description="seconds in which the whole A-ASSOCIATE-RQ must have arrived"
    )
    idle_timeout_s: float = Field(60.0, gt=0, le=3600, description="seconds an association may be silent")
    stall_timeout_s: float = Field(
        30.0, gt=0, le=600, description="seconds a peer may stop in the middle of a message or of an answer"
    )
    min_rate_bytes_per_s: int = Field(
        1024, ge=0, description="slower than this inside a PDU for stall_timeout_s: the association ends"
    )
    max_pdu_bytes: PduBytes = Field(131_072, description="largest PDU that is taken, in bytes")
    max_matches: int = Field(
        10_000, ge=1, description="answers of one C-FIND; what is more ends in 0xA700, out of resources"
    )
    commitment_wait_s: float = Field(
        300.0,
        ge=0,
        description="seconds after which an instance that did not come fails its storage commitment",
    )
    tls: DimseTlsSettings = Field(
        default=DimseTlsSettings.model_validate({}), description="DICOM over TLS for peers with certificates."
    )
    peers: list[PeerSettings] = Field(
        default_factory=list,
        description="who may use more than C-ECHO: one [[dicom.peers]] table each",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        destinations = [peer.ae_title for peer in self.peers if peer.host]
        twice = {title for title in destinations if destinations.count(title) > 1}
        if twice:
            raise ValueError(
                f"two peers called {sorted(twice)[0]} have a host: only one can be the destination"
            )
        tls = [peer.ae_title for peer in self.peers if peer.tls or peer.certificate_sha256]
        if tls and not self.tls.enabled:
            raise ValueError(f"{tls[0]} wants TLS: set dicom.tls.certificate, key and client_ca")
        return self
