"""The archive as readers see it: studies are found, and what was granted is described and opened.

Always true: what reads return is byte for byte what was written; every read takes a `Scope` or a `Grant` of the policy.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from central.access.policy import Grant, PatientKey, Scope, StudyFacts, scope_of
from central.archive import finding, granted
from central.archive.dicom_json import with_bulk_data_at
from central.archive.errors import NoSuchInstanceError
from central.archive.included import Element, included
from central.archive.opening import Opening
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.archive.reach import is_patient
from central.archive.rows import InstanceRow, SeriesRow, StoredInstance, StudyRow
from central.archive.sources import Source, Sources, sources_in_study
from central.archive.tables import Metadata, Study
from central.database import Database

Row = TypeVar("Row")
_METADATA_BATCH: Final = 64  # rows in memory at a time


class Reading:
    """Safe to call from many threads."""

    def __init__(self, db: Database, opening: Opening) -> None:
        self._db = db
        self._opening = opening

    def find_studies(self, scope: Scope, query: StudyQuery) -> list[StudyRow]:
        """Studies within `scope` that match, newest first. QueryError for a malformed key."""
        with self._db.keeping():
            return finding.find_studies(self._db, scope, query)

    def find_series(self, scope: Scope, query: SeriesQuery) -> list[SeriesRow]:
        """Series within `scope` that match. QueryError for a malformed key."""
        return finding.find_series(self._db, scope, query)

    def find_instances(self, scope: Scope, query: InstanceQuery) -> list[InstanceRow]:
        """Instances within `scope` that match. QueryError for a malformed key."""
        return finding.find_instances(self._db, scope, query)

    def included(
        self, scope: Scope, rows: Sequence[StudyRow | SeriesRow | InstanceRow], tags: Collection[str]
    ) -> Iterator[dict[str, Element]]:
        """Of each of `rows`, all of one kind and found with `scope`, further elements by tag, as DICOM JSON."""
        return included(self._db, scope, rows, tags)

    def facts(self, study_instance_uid: str) -> StudyFacts | None:
        """What the policy needs to know of a study, as each institution holds it; None when it is not here."""
        held = [
            StudyFacts(**{**row, "consent_withdrawn": bool(row["consent_withdrawn"])})
            for row in granted.FACTS.rows(self._db, study_instance_uid=study_instance_uid)
        ]
        return replace(held[0], elsewhere=tuple(held[1:])) if held else None

    def arrival(self, study_instance_uid: str, institution: str) -> tuple[int, int, int] | None:
        """Series, instances and the time of the first of them (seconds since 1970) of a study of `institution`; None
        when nothing has come. No more than that: it is for who waits for images and may not look at them."""
        its = (Study.study_instance_uid == study_instance_uid) & (Study.institution == institution)
        columns = (Study.number_of_series, Study.number_of_instances, Study.arrived_at_utc)
        found = next(iter(Study.select(*columns).where(its).tuples().execute(self._db)), None)
        return (int(found[0]), int(found[1]), int(found[2])) if found is not None else None

    def studies_of(self, patient: PatientKey, institution: str | None = None) -> list[str]:
        """Study Instance UIDs that carry exactly this Patient ID and issuer, in one institution or in all."""
        query = Study.select(Study.study_instance_uid).where(is_patient(patient)).distinct()
        if institution is not None:
            query = query.where(Study.institution == institution)
        return [uid for (uid,) in query.tuples().execute(self._db)]

    def series_of(self, grant: Grant) -> list[SeriesRow]:
        """The series of the granted study, by Series Number."""
        query = SeriesQuery(study=StudyQuery(study_instance_uid=grant.study_instance_uid), limit=None)
        found = finding.find_series(self._db, _scope(grant), query)
        return _once(grant, found, lambda row: row.study.institution, lambda row: row.series_instance_uid)

    def instances_of(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[InstanceRow]:
        """The instances of the granted study, or those that the UIDs name, by Series and Instance Number."""
        series = SeriesQuery(
            series_instance_uid=series_instance_uid or "",
            study=StudyQuery(study_instance_uid=grant.study_instance_uid),
        )
        query = InstanceQuery(sop_instance_uid=sop_instance_uid or "", series=series, limit=None)
        found = finding.find_instances(self._db, _scope(grant), query)
        return _once(
            grant,
            found,
            lambda row: row.series.study.institution,
            lambda row: (row.series.series_instance_uid, row.sop_instance_uid),
        )

    def metadata(
        self,
        grant: Grant,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        *,
        studies_url: str = "",
    ) -> Iterator[bytes]:
        """DICOM JSON objects in UTF-8, one an instance, in the order of `instances_of`; none if none is there.

        Parameters
        ----------
        studies_url : where the studies are served, for BulkDataURIs; empty: they stay relative to their instance.
        """
        return self.metadata_of(
            self.sources(grant, series_instance_uid, sop_instance_uid), studies_url=studies_url
        )

    def sources(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> Sources:
        """What renditions of the granted study, or of what the UIDs name, are made from; ordered as `instances_of`."""
        query = sources_in_study(
            all_patients=_scope(grant).reads_all_patients,
            holders=len(grant.institutions),
            one_series=series_instance_uid is not None,
            one_instance=sop_instance_uid is not None,
        )
        found = query.tuples(self._db, **_granted_values(grant, series_instance_uid, sop_instance_uid))
        instances = _once(
            grant,
            [Source(*row) for row in found],
            lambda row: row.held_by,
            lambda row: (row.series_instance_uid, row.sop_instance_uid),
        )
        return Sources(grant.study_instance_uid, tuple(instances))

    def metadata_of(self, sources: Sources, *, studies_url: str = "") -> Iterator[bytes]:
        """As `metadata`, of these instances exactly.

        Raises
        ------
        NoSuchInstanceError : one of them was erased meanwhile.
        """
        for at in range(0, len(sources.instances), _METADATA_BATCH):
            batch = sources.instances[at : at + _METADATA_BATCH]
            query = Metadata.select().where(Metadata.instance.in_([one.id for one in batch])).dicts()
            made = {row["instance"]: row["dicom_json"] for row in query.execute(self._db)}
            for one in batch:
                if one.id not in made:
                    raise NoSuchInstanceError("an instance was erased meanwhile")
                text = zlib.decompress(made[one.id])
                if not studies_url:
                    yield text
                    continue
                instance_url = (
                    f"{studies_url}/{sources.study_instance_uid}/series/{one.series_instance_uid}"
                    f"/instances/{one.sop_instance_uid}"
                )
                yield with_bulk_data_at(text, instance_url)

    def open_instance(
        self, grant: Grant, series_instance_uid: str, sop_instance_uid: str, *, compared: bool = False
    ) -> StoredInstance:
        """One instance, whose bytes may be read.

        Parameters
        ----------
        compared : what is made of it is kept, so it is always read and compared first, unless it is very large.

        Raises
        ------
        NoSuchInstanceError : the granted study has no such instance.
        """
        for row in self._granted(grant, series_instance_uid, sop_instance_uid):
            return self._opening.stored(row, compared=compared)
        raise NoSuchInstanceError("no such instance in this study")

    def open_instances(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[StoredInstance]:
        """Those of the granted study whose bytes may be read, in the order of `instances_of`; none if none is there."""
        return [
            self._opening.stored(row) for row in self._granted(grant, series_instance_uid, sop_instance_uid)
        ]

    def _granted(
        self, grant: Grant, series_instance_uid: str | None, sop_instance_uid: str | None
    ) -> list[dict[str, Any]]:
        query = granted.in_study(
            all_patients=_scope(grant).reads_all_patients,
            holders=len(grant.institutions),
            one_series=series_instance_uid is not None,
            one_instance=sop_instance_uid is not None,
        )
        found = query.rows(self._db, **_granted_values(grant, series_instance_uid, sop_instance_uid))
        return _once(
            grant,
            found,
            lambda row: row["held_by"],
            lambda row: (row["series_instance_uid"], row["sop_instance_uid"]),
        )


def _once(
    grant: Grant, found: list[Row], held_by: Callable[[Row], str], named: Callable[[Row], object]
) -> list[Row]:
    """Of what several granted institutions hold under one name the first one's, in the order in which it was found."""
    preference = {institution: place for place, institution in enumerate(grant.institutions)}
    found = [row for row in found if held_by(row) in preference]
    if len(preference) == 1:
        return found
    best: dict[object, str] = {}
    for row in found:
        held = best.setdefault(named(row), held_by(row))
        best[named(row)] = min(held, held_by(row), key=preference.__getitem__)
    return [row for row in found if best[named(row)] == held_by(row)]


def _granted_values(
    grant: Grant, series_instance_uid: str | None, sop_instance_uid: str | None
) -> dict[str, object]:
    """What is given to a query for granted instances."""
    return {
        "study_instance_uid": grant.study_instance_uid,
        "series_instance_uid": series_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        **granted.held_by(grant.institutions),
    }


def _scope(grant: Grant) -> Scope:
    return scope_of(grant.principal, grant.action)
