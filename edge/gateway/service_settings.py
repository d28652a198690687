"""What can be set about the services beside storage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from contract.settings import Section
from edge.gateway.settings import AeTitle


class CommitmentSettings(Section):
    policy: Literal["on_box", "at_central"] = Field(
        default="on_box",
        description="When a scanner is told that its images are safe: on_box: durable here; at_central: central "
        "has signed for every one",
    )
    wait_hours: float = Field(
        default=24.0,
        gt=0,
        le=720,
        description="Hours a request waits for images that are not that safe yet; then they are reported as failed",
    )
    report_days: float = Field(
        default=7.0,
        gt=0,
        le=90,
        description="Days after the request at which an unreachable scanner is no longer told",
    )


class DestinationSettings(Section):
    """A workstation or archive that may ask this box, and to which it may have images sent."""

    ae_title: AeTitle = Field(description="Its AE title: by which it calls, and is called by C-MOVE")
    host: str = Field(min_length=1, max_length=253, description="Its host name or address")
    port: int = Field(default=104, gt=0, lt=65536, description="Its DICOM port")
    tls: bool = Field(
        default=False,
        description="Whether C-MOVE calls it over TLS: the box shows gateway.tls.certificate, and takes "
        "certificates of gateway.tls.client_ca in the name of host",
    )


class QuerySettings(Section):
    enabled: bool = Field(
        default=False,
        description="C-FIND, C-MOVE and C-GET over what is still on the box; seals for a key of the box as well "
        "as for central from then on, so whoever has both key and disk can open what it holds",
    )
    destinations: list[DestinationSettings] = Field(
        default=[],
        max_length=64,
        description="Who may query and retrieve, and the only AE titles a C-MOVE may send to",
    )
