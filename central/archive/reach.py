"""Which studies somebody reaches, as SQL: the `Scope` of the policy, said of the study's columns.

Always true: what is built here covers what `Scope.why_not` lets in, and no more; every search and read carries it.

There is more than one way to reach studies: an institution, a physician, a department, by name. Each has an index of
its own, and one `OR` of all has none, so that they are given one by one as well (decision 63).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from operator import and_, or_
from typing import Any, NamedTuple

import peewee

from central.access.consent import EVERYWHERE, ConsentWithdrawal
from central.access.policy import Arrivals, PatientKey, PatientOf, Scope, StudyKey
from central.archive.tables import Instance, Series, Study
from central.database import AmongFound, Unindexed


class Way(NamedTuple):
    """How somebody reaches some of the studies. `entered`: by what an index that has them by date is entered, which may
    lead to more than they are; None: there is none."""

    condition: peewee.Expression
    entered: peewee.Expression | None = None

    @property
    def in_order(self) -> bool:
        return self.entered is not None


def within(scope: Scope, *, narrow: bool = False) -> peewee.Expression:
    """What `scope` covers, as SQL on the study's columns. `narrow`: something else leads to few studies, so that SQLite
    is to enter no index here."""
    ways = [way.condition for way in ways_of(scope, Unindexed if narrow else _as_it_is)]
    whole: peewee.Expression = reduce(
        and_, [*limits(scope), reduce(or_, ways)] if ways else [Study.id.is_null()]
    )
    return whole


def limits(scope: Scope) -> list[peewee.Expression]:
    """What holds in every way: withdrawn consent, the one study of a guest, refusals."""
    # Of most patients the first settles it, which PostgreSQL hashes once: it would go through all withdrawals for each
    # study that it looks at.
    consents = [
        ~(_of_withdrawals() & consent_withdrawn()),
        *_of_patients(scope.despite_withdrawal_of, Unindexed),
    ]
    limits: list[peewee.Expression] = [reduce(or_, consents)]
    if scope.only_study is not None:
        limits.append(Study.study_instance_uid == scope.only_study)
    return [*limits, *(~named for named in _named(scope.refused_studies, Unindexed))]


def taken_away(scope: Scope) -> list[peewee.Expression]:
    """All that `limits` takes away, but for what is not the one study of a guest; an index leads to each part of it."""
    excepted = (~patients for patients in _of_patients(scope.despite_withdrawal_of, Unindexed))
    withdrawn = reduce(and_, excepted, _of_withdrawals() & consent_withdrawn())
    return [withdrawn, *_named(scope.refused_studies, _as_it_is)]


def _of_withdrawals() -> peewee.ColumnBase:
    """Of a patient with the ID of one who withdrew consent."""
    named = ConsentWithdrawal.select(ConsentWithdrawal.patient_id).where(
        ConsentWithdrawal.ended_at_utc.is_null()
    )
    return AmongFound(Study.patient_id, named)


Column = Callable[[peewee.Field], peewee.ColumnBase]


def _as_it_is(column: peewee.Field) -> peewee.ColumnBase:
    return column


def ways_of(scope: Scope, column: Column = _as_it_is) -> list[Way]:
    """The ways in which `scope` reaches studies. `column`: how a column is named that has an index."""
    ways = []
    if scope.everything:
        institutions = [None] if scope.institutions is None else sorted(scope.institutions)
        ways += [Way(held, held) for held in (_in(institution, column) for institution in institutions)]
    else:
        for key in sorted(scope.referring_physician_keys):
            name, _, ideographic = key.partition("=")
            theirs = column(Study.referring_physician_key) == name
            written = Study.referring_physician_ideographic_key.in_(["", ideographic])
            ways.append(
                Way((theirs & written if ideographic else theirs) & _among(scope.institutions), theirs)
            )
        for key in sorted(scope.requesting_service_keys):
            theirs = column(Study.requesting_service_key) == key
            ways.append(Way(theirs & _among(scope.institutions), theirs))
        if scope.arrivals is not None:
            ways.append(Way(_arrived(scope.arrivals) & _among(scope.institutions)))
    named = [*_named(scope.studies, column), *_of_patients(scope.patients, column)]
    if named:
        ways.append(Way(reduce(or_, named)))
    return ways


def _in(institution: str | None, column: Column = Unindexed) -> peewee.Expression:
    """Held by it; None: by any. An institution is as a rule most of the archive: its index has only the order."""
    return (
        Study.id.is_null(is_null=False) if institution is None else column(Study.institution) == institution
    )


def _among(institutions: frozenset[str] | None) -> peewee.Expression:
    if institutions is None:
        return _in(None)
    column = Unindexed(Study.institution)
    if len(institutions) == 1:
        (only,) = institutions
        return column == only
    return column.in_(sorted(institutions))


def _named(studies: Iterable[StudyKey], column: Column) -> list[peewee.Expression]:
    """A condition for each institution among them."""
    uids: dict[str, list[str]] = {}
    for institution, uid in sorted(studies):
        uids.setdefault(institution, []).append(uid)
    return [
        column(Study.study_instance_uid).in_(some) & _in(institution) for institution, some in uids.items()
    ]


def _arrived(arrivals: Arrivals) -> peewee.ColumnBase:
    """Found by the time of arrival first: few came since yesterday, wherever they stand in the order by date."""
    come = Study.alias()
    theirs = come.arrived_from.in_(sorted(arrivals.gateway_ids)) | come.institutional_department_key.in_(
        sorted(arrivals.department_keys)
    )
    return AmongFound(Study.id, come.select(come.id).where(come.arrived_at_utc >= arrivals.since_utc, theirs))


def consent_withdrawn() -> Any:
    """Whether the study's patient has withdrawn consent, as SQL."""
    return peewee.fn.EXISTS(
        ConsentWithdrawal.select(ConsentWithdrawal.withdrawal_id).where(
            ConsentWithdrawal.patient_id == Study.patient_id,
            ConsentWithdrawal.issuer_of_patient_id == Study.issuer_of_patient_id,
            ConsentWithdrawal.institution.in_([Study.institution, EVERYWHERE]),
            ConsentWithdrawal.ended_at_utc.is_null(),
        )
    )


def is_patient(patient: PatientKey) -> peewee.Expression:
    """Whether the study carries exactly this Patient ID and issuer, as SQL."""
    return (Study.patient_id == patient.patient_id) & (
        Unindexed(Study.issuer_of_patient_id) == patient.issuer
    )


def _of_patients(patients: Iterable[PatientOf], column: Column) -> list[peewee.Expression]:
    """A condition for each institution and issuer among them."""
    ids: dict[tuple[str, str], list[str]] = {}
    for institution, patient in sorted(patients):
        ids.setdefault((institution, patient.issuer), []).append(patient.patient_id)
    return [
        column(Study.patient_id).in_(some)
        & (Unindexed(Study.issuer_of_patient_id) == issuer)
        & _in(institution)
        for (institution, issuer), some in ids.items()
    ]


def has_readable(scope: Scope) -> Any:
    """Whether a series has contents that reads return; None: every series has. One that only another patient's images
    are in says of them what kind they are."""
    if scope.reads_all_patients:
        return None
    its = Instance.select(Instance.id).where(Instance.series == Series.id, readable(scope))
    return peewee.fn.EXISTS(its)


def readable(scope: Scope, of: Any = Instance) -> peewee.Expression:
    """The contents that reads return; an instance that names another patient only to those who read all patients'."""
    current: peewee.Expression = of.current == True  # noqa: E712  # SQL
    return current if scope.reads_all_patients else current & (of.other_patient == False)  # noqa: E712  # SQL
