"""What is asked of one study, before the policy grants it and after: SQL that is put together once (decision 48).

Always true: of instances only those are found that `readable` lets whoever was granted the study read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import peewee

from central.access.policy import Scope
from central.archive.object_names import NAME, SEALED
from central.archive.reach import consent_withdrawn, readable
from central.archive.tables import Instance, ObjectFault, SealedContent, Series, Study, StudyKey
from central.database import Unindexed
from central.prepared import Prepared, given

BY_NUMBER: Final = (Series.series_number.asc(nulls="FIRST"), Series.id)
IN_STUDY: Final = (*BY_NUMBER, Instance.instance_number.asc(nulls="FIRST"), Instance.id)
"""Order of a study's instances: by Series and Instance Number, what has none first."""

FACTS: Final = Prepared(
    Study.select(
        Study.study_instance_uid,
        Study.patient_id,
        Study.issuer_of_patient_id,
        Study.referring_physician_name,
        consent_withdrawn().alias("consent_withdrawn"),
        Study.institution,
        Study.requesting_service_key.alias("requesting_service"),
        Study.institutional_department_key.alias("institutional_department_name"),
        Study.arrived_from,
        Study.arrived_at_utc,
    )
    .where(Study.study_instance_uid == given("study_instance_uid"))
    .order_by(Study.institution)
)
"""What `StudyFacts` says of a study, as each institution holds it."""


def held_by(institutions: Iterable[object]) -> dict[str, object]:
    """What is given for the `holders` of a query: ``institution_0`` and so on."""
    return {f"institution_{number}": held for number, held in enumerate(institutions)}


@functools.cache
def in_study(*, all_patients: bool, holders: int, one_series: bool, one_instance: bool) -> Prepared:
    """The readable instances of a study that was granted, in `IN_STUDY`: all, or what the given UIDs name.

    `holders`: how many institutions' holding of it was granted, given as ``institution_0`` and so on. The row says
    which one's an instance is (``held_by``).
    """
    query = (
        Instance.select(
            Instance.id,
            Instance.sha256,
            Instance.size_bytes,
            Instance.sop_class_uid,
            Instance.sop_instance_uid,
            Instance.transfer_syntax_uid,
            Series.series_instance_uid,
            Study.institution.alias("held_by"),
            ObjectFault.kind,
            SealedContent.address,
            SealedContent.wrapped_key,
            SealedContent.study_instance_uid,
            StudyKey.storage_key_id,
            StudyKey.wrapped_key.alias("wrapped_study_key"),
        )
        .join(Series)
        .join(Study)
        .join_from(Instance, SealedContent, peewee.JOIN.LEFT_OUTER, on=SEALED)
        .join(
            StudyKey,
            peewee.JOIN.LEFT_OUTER,
            on=(StudyKey.study_instance_uid == SealedContent.study_instance_uid),
        )
        .join_from(Instance, ObjectFault, peewee.JOIN.LEFT_OUTER, on=(ObjectFault.sha256 == NAME))
    )
    return granted_in(
        query, all_patients=all_patients, holders=holders, one_series=one_series, one_instance=one_instance
    )


def granted_in(
    query: peewee.ModelSelect[Instance],
    *,
    all_patients: bool,
    holders: int,
    one_series: bool,
    one_instance: bool,
    order: Sequence[Any] = IN_STUDY,
) -> Prepared:
    """`query` of instances, joined with series and study, kept to what `in_study` says, in that `order`."""
    granted = [given(name) for name in held_by(range(holders))]
    query = query.where(
        Study.study_instance_uid == given("study_instance_uid"),
        Unindexed(Study.institution).in_(granted),
        readable(Scope(everything=all_patients)),
    ).order_by(*order)
    if one_series:
        query = query.where(Series.series_instance_uid == given("series_instance_uid"))
    if one_instance:
        query = query.where(Instance.sop_instance_uid == given("sop_instance_uid"))
    return Prepared(query)
