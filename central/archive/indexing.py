"""One archived content into the index, in one transaction.

Always true: of one (study, series, SOP Instance UID) the first content stays what reads return; what comes
later under the same UIDs is kept beside it, and both are flagged. The first instance of a study says whose
study it is: a later one may fill in what was empty, never change it. Each institution has its own of everything: what
another one sent neither hides, flags nor changes what this one has (decision 43).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from central.archive.attributes import MAX_INDEXED_BYTES, Attributes, indexed
from central.archive.objects import StoredObject
from central.archive.steps import steps_in
from central.archive.tables import Instance, Metadata, OrderedStudy, Series, Study
from central.database import Database, Unindexed, put
from central.institution import DEFAULT_INSTITUTION
from central.prepared import Prepared, given, insertion
from contract.receipt import Outcome

# Few rows have one content or one UID: that is where SQLite is to begin, not at the institution.
_THEIRS: Final = Unindexed(Study.institution) == given("institution")
_KNOWN: Final = Prepared(
    Instance.select(Instance.id)
    .join(Series)
    .join(Study)
    .where(Instance.sha256 == given("sha256"), _THEIRS)
    .limit(1)
)
_SAME_UID: Final = Prepared(
    Instance.select(Instance.id, Instance.series, Instance.current)
    .join(Series)
    .join(Study)
    .where(Instance.sop_instance_uid == given("sop_instance_uid"), _THEIRS)
)
_ADD_INSTANCE: Final = insertion(Instance)
_ADD_METADATA: Final = Prepared(
    Metadata.insert({Metadata.instance: given("instance"), Metadata.dicom_json: given("dicom_json")})
)
_FIND_STUDY: Final = Prepared(
    Study.select()
    .where(Study.study_instance_uid == given("study_instance_uid"), Study.institution == given("institution"))
    .limit(1)
)
_ORDERED: Final = Prepared(
    OrderedStudy.select(OrderedStudy.requesting_service_key).where(
        OrderedStudy.study_instance_uid == given("study_instance_uid"),
        OrderedStudy.institution == given("institution"),
    )
)
_ADD_STUDY: Final = insertion(Study)
_FIND_SERIES: Final = Prepared(
    Series.select(Series.id)
    .where(Series.study == given("study"), Series.series_instance_uid == given("series_instance_uid"))
    .limit(1)
)
_ADD_SERIES: Final = insertion(Series)
_COUNT_IN_SERIES: Final = Prepared(
    Series.update({Series.number_of_instances: Series.number_of_instances + 1}).where(
        Series.id == given("series")
    )
)
_COUNT_IN_STUDY: Final = Prepared(
    Study.update(
        {
            Study.number_of_instances: Study.number_of_instances + 1,
            Study.number_of_series: Study.number_of_series + given("new_series"),
            Study.modalities: given("modalities"),
        }
    ).where(Study.id == given("study"))
)

_OF_PHYSICIAN: Final = ("referring_physician_key", "referring_physician_ideographic_key")


@dataclass(frozen=True)
class ObjectOrigin:
    """Where an object came from, and whose it is."""

    gateway_id: str
    object_id: str
    received_at_utc: datetime
    institution: str = DEFAULT_INSTITUTION


def add_to_index(
    db: Database,
    attributes: Attributes,
    metadata: bytes,
    stored: StoredObject,
    origin: ObjectOrigin,
) -> Outcome:
    """Insert, inside the caller's transaction. `metadata` is the compressed DICOM JSON."""
    if _KNOWN.first(db, sha256=stored.sha256, institution=origin.institution):
        return Outcome.DUPLICATE
    study, names_other_patient = _study(db, attributes, origin)
    series_id, series_is_new = _series(db, attributes, metadata, study["id"])
    others = _SAME_UID.rows(db, sop_instance_uid=attributes.sop_instance_uid, institution=origin.institution)
    current = not any(other["series_id"] == series_id and other["current"] for other in others)
    made = _ADD_INSTANCE.first(
        db,
        **attributes.instance,
        series=series_id,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
        current=current,
        flagged=bool(others),
        other_patient=names_other_patient,
        gateway_id=origin.gateway_id,
        object_id=origin.object_id,
        received_at_utc=origin.received_at_utc.isoformat(),
    )
    assert made is not None, "an insert gives its key"
    _ADD_METADATA.run(db, instance=made["id"], dicom_json=metadata)
    if others:
        Instance.update(flagged=True).where(Instance.id.in_([other["id"] for other in others])).execute(db)
    if current:
        _count(db, attributes, study, series_id, series_is_new=series_is_new)
    return Outcome.VERSION if others else Outcome.ARCHIVED


def expect_order(
    db: Database, study_instance_uid: str, institution: str, requesting_service_key: str
) -> None:
    """What an order says of a study: of one that is here, and of one that will come. In a transaction of its own.

    An order wins over what the images say: it is what the department itself sent.
    """
    requesting_service_key = indexed(requesting_service_key)
    row = {"study_instance_uid": study_instance_uid, "institution": institution}
    same = (Study.study_instance_uid == study_instance_uid) & (Study.institution == institution)
    with db.writing():
        put(db, OrderedStudy, {**row, "requesting_service_key": requesting_service_key})
        if requesting_service_key:
            Study.update(requesting_service_key=requesting_service_key).where(same).execute(db)


def _study(db: Database, attributes: Attributes, origin: ObjectOrigin) -> tuple[dict[str, Any], bool]:
    """The study's row, made or filled in, and whether the instance names another patient than it does."""
    sent = attributes.study
    theirs = {
        "study_instance_uid": attributes.study_instance_uid,
        "institution": origin.institution,
    }
    row = _FIND_STUDY.first(db, **theirs)
    if row is None:
        row = {
            **sent,
            "modalities": "",
            "mixed": False,
            "number_of_series": 0,
            "number_of_instances": 0,
            "institution": origin.institution,
            "arrived_from": origin.gateway_id,
            "arrived_at_utc": int(origin.received_at_utc.timestamp()),
        }
        ordered = _ORDERED.first(db, **theirs)
        if ordered is not None and ordered["requesting_service_key"]:
            row["requesting_service_key"] = ordered["requesting_service_key"]
        made = _ADD_STUDY.first(db, **row)
        assert made is not None, "an insert gives its key"
        return {**row, **made}, False
    other_patient = any(
        row[name] and sent[name] and row[name] != sent[name]
        for name in ("patient_id", "issuer_of_patient_id")
    )
    if other_patient and not row["mixed"]:
        Study.update(mixed=True).where(Study.id == row["id"]).execute(db)
    if not other_patient:
        filled = {name: value for name, value in sent.items() if value and not row[name]}
        if row["referring_physician_name"]:  # of one name, not of two
            filled = {name: value for name, value in filled.items() if name not in _OF_PHYSICIAN}
        if filled:
            Study.update(**filled).where(Study.id == row["id"]).execute(db)
    return row, other_patient


def _series(db: Database, attributes: Attributes, metadata: bytes, study_id: int) -> tuple[int, bool]:
    row = _FIND_SERIES.first(db, study=study_id, series_instance_uid=attributes.series_instance_uid)
    if row is not None:
        return row["id"], False
    steps = steps_in(metadata)
    made = _ADD_SERIES.first(db, **attributes.series, **steps.columns, study=study_id, number_of_instances=0)
    assert made is not None, "an insert gives its key"
    steps.add_requests(db, made["id"])
    return made["id"], True


def _count(
    db: Database,
    attributes: Attributes,
    study: dict[str, Any],
    series_id: int,
    *,
    series_is_new: bool,
) -> None:
    modalities = "\\".join(sorted({*study["modalities"].split("\\"), attributes.modality} - {""}))
    if len(modalities.encode()) > MAX_INDEXED_BYTES:  # more than the standard has: those that came first
        modalities = study["modalities"]
    _COUNT_IN_SERIES.run(db, series=series_id)
    _COUNT_IN_STUDY.run(
        db,
        study=study["id"],
        new_series=int(series_is_new),
        modalities=modalities,
    )
