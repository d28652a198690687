"""What others see of a study, what a procedure step says of it, and the digest that stands for an instance.

Always true: nothing here identifies a patient; a digest is of series and instance together, so that the same
instance under two series is two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from contract.workflow import StepStatus
from edge.buffer.completeness_rows import Evidence, StudyRow, StudyState


@dataclass(frozen=True)
class StepReport:
    """What one accepted message about a procedure step says, in UIDs.

    Attributes
    ----------
    status : None where the message leaves it.
    study_instance_uids : empty where the message does not repeat them.
    series : SOP Instance UIDs by Series Instance UID; None where the message says nothing of them.
    """

    sop_instance_uid: str
    calling_ae_title: str
    status: StepStatus | None
    study_instance_uids: frozenset[str]
    series: Mapping[str, frozenset[str]] | None


@dataclass(frozen=True)
class StudyStanding:
    """How a study stands.

    Attributes
    ----------
    evidence : by which it counts as complete; None while it does not.
    expected : instances its procedure steps counted; None if no step said so.
    received : different instances that arrived here.
    late : those of them that came after the study had first been complete.
    """

    study_instance_uid: str
    calling_ae_title: str
    state: StudyState
    evidence: Evidence | None
    expected: int | None
    received: int
    late: int
    first_at_utc: datetime
    last_at_utc: datetime
    completed_at_utc: datetime | None


class SeenInstance(Protocol):
    """A row of the spool, as far as it matters here."""

    @property
    def calling_ae_title(self) -> str: ...
    @property
    def study_instance_uid(self) -> str | None: ...
    @property
    def series_instance_uid(self) -> str | None: ...
    @property
    def sop_instance_uid(self) -> str | None: ...


def digest_of(series_instance_uid: str, sop_instance_uid: str) -> int:
    """64 bits that stand for an instance in its series: the same instance under two series is two."""
    name = f"{series_instance_uid}\0{sop_instance_uid}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


def standing_of(row: StudyRow) -> StudyStanding:
    return StudyStanding(
        study_instance_uid=row.study_instance_uid,
        calling_ae_title=row.calling_ae_title,
        state=row.state,
        evidence=row.evidence,
        expected=row.expected,
        received=row.received,
        late=row.late,
        first_at_utc=row.first_at_utc,
        last_at_utc=row.last_at_utc,
        completed_at_utc=row.completed_at_utc,
    )
