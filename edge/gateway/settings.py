"""What can be set about the DICOM side of the box."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from contract.errors import ContractError
from contract.identifiers import check_ae_title
from contract.settings import Section


def _ae_title(value: str) -> str:
    try:
        return check_ae_title(value)
    except ContractError as error:
        raise ValueError(str(error)) from error


class GatewaySettings(Section):
    """The association acceptor and its limits; every limit holds per process."""

    host: str = Field(default="0.0.0.0", description="address to listen on; 0.0.0.0 is every interface")  # noqa: S104  # scanners reach the box over the network
    port: int = Field(default=11112, ge=0, le=65535, description="TCP port; 0 picks a free one")
    ae_title: Annotated[str, AfterValidator(_ae_title)] = Field(
        default="DICOMNET", description="AE title of this box"
    )
    require_called_ae_title: bool = Field(
        default=False, description="refuse associations that call another AE title than this box's"
    )
    max_associations: int = Field(default=32, ge=1, le=256, description="associations served at once")
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
    stop_grace_s: float = Field(
        default=10.0, ge=0, description="seconds that instances in progress get to finish when the box stops"
    )
