"""What can be set about the worklist and about when a study counts as complete."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from contract.settings import Section
from contract.workflow import MAX_HORIZON_DAYS
from edge.gateway.settings import AeTitle


class UpstreamSettings(Section):
    """A worklist server in the house, asked with C-FIND."""

    ae_title: AeTitle = Field(default="WORKLIST", description="AE title of the worklist server")
    host: str = Field(
        default="",
        max_length=253,
        description="Its host name or address; needed where the source is upstream",
    )
    port: int = Field(default=104, gt=0, lt=65536, description="Its DICOM port")
    tls: bool = Field(
        default=False,
        description="Whether it is asked over TLS: the box shows gateway.tls.certificate, and takes certificates of "
        "gateway.tls.client_ca in the name of host",
    )


class WorklistSettings(Section):
    enabled: bool = Field(
        default=False,
        description="Answer modalities' worklist queries from this box, also while the line is down",
    )
    source: Literal["central", "upstream"] = Field(
        default="central",
        description="Where the worklist comes from: central, or a worklist server in the house",
    )
    refresh_s: float = Field(
        default=60.0, ge=5, le=3600, description="Seconds between two questions to the source"
    )
    horizon_days: int = Field(
        default=3, ge=0, le=MAX_HORIZON_DAYS, description="Days ahead of today that the worklist goes"
    )
    upstream: UpstreamSettings = UpstreamSettings()

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.enabled and self.source == "upstream" and not self.upstream.host:
            raise ValueError('the source is upstream: set worklist.upstream.host, or source = "central"')
        return self


class StudySettings(Section):
    default_idle_s: float = Field(
        default=120.0,
        gt=0,
        le=86_400,
        description="Seconds of silence after which a study is complete, while little is known of its scanner",
    )
    least_idle_s: float = Field(
        default=20.0, gt=0, le=86_400, description="Shortest silence that may be learnt from a scanner"
    )
    longest_idle_s: float = Field(
        default=1800.0, gt=0, le=86_400, description="Longest silence that may be learnt from a scanner"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least_idle_s > self.longest_idle_s:
            raise ValueError("least_idle_s is at most longest_idle_s")
        return self
