"""The ``[dicom]`` section of central's configuration."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, IPvAnyAddress

from contract.identifiers import InvalidIdentifierError, check_ae_title
from contract.settings import Section


def _ae_title(value: str) -> str:
    try:
        return check_ae_title(value)
    except InvalidIdentifierError as error:
        raise ValueError(str(error)) from error


AETitle = Annotated[str, AfterValidator(_ae_title)]


class PeerSettings(Section):
    """An application entity that may query. Both its title and its address must fit."""

    ae_title: AETitle = Field(description="AE title it calls with")
    address: IPvAnyAddress = Field(description="IP address it calls from")


class DimseSettings(Section):
    enabled: bool = Field(True, description="whether central answers DICOM associations at all")
    host: str = Field("127.0.0.1", description="address that DICOM listens on; 0.0.0.0 for all")
    port: int = Field(11114, ge=0, le=65535, description="TCP port; 0 takes a free one (tests)")
    ae_title: AETitle = Field("DICOMNET", description="central's AE title; calls to another one are refused")
    max_associations: int = Field(20, ge=1, le=500, description="associations served at the same time")
    peers: list[PeerSettings] = Field(
        default_factory=list,
        description="who may query: one [[dicom.peers]] table each (C-ECHO is for all)",
    )
