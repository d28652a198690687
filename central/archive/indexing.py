"""One archived content into the index, in one transaction.

Always true: of one (study, series, SOP Instance UID) the first content stays what reads return; what comes
later under the same UIDs is kept beside it, and both are flagged. The first instance of a study says whose
study it is: a later one may fill in what was empty, never change it. Each institution has its own of everything: what
another one sent neither hides, flags nor changes what this one has (decision 43).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import peewee

from central.archive.attributes import Attributes
from central.archive.objects import StoredObject
from central.archive.tables import Instance, Metadata, OrderedStudy, Series, Study
from central.database import Database, put
from central.institution import DEFAULT_INSTITUTION
from contract.receipt import Outcome


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
    theirs = Study.institution == origin.institution
    same_content = _of_studies(Instance.id).where(Instance.sha256 == stored.sha256, theirs)
    if _first(db, same_content):
        return Outcome.DUPLICATE
    study, names_other_patient = _study(db, attributes, origin)
    series_id, series_is_new = _series(db, attributes, study["id"])
    same_uid = Instance.sop_instance_uid == attributes.sop_instance_uid
    named_alike = _of_studies(Instance.id, Instance.series, Instance.current).where(same_uid, theirs)
    others = list(named_alike.dicts().execute(db))
    current = not any(other["series"] == series_id and other["current"] for other in others)
    instance_id = Instance.insert(
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
    ).execute(db)
    Metadata.insert(instance=instance_id, dicom_json=metadata).execute(db)
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
    row = {"study_instance_uid": study_instance_uid, "institution": institution}
    same = (Study.study_instance_uid == study_instance_uid) & (Study.institution == institution)
    with db.writing():
        put(db, OrderedStudy, {**row, "requesting_service_key": requesting_service_key})
        if requesting_service_key:
            Study.update(requesting_service_key=requesting_service_key).where(same).execute(db)


def _study(db: Database, attributes: Attributes, origin: ObjectOrigin) -> tuple[dict[str, Any], bool]:
    """The study's row, made or filled in, and whether the instance names another patient than it does."""
    uid = attributes.study_instance_uid
    same = (Study.study_instance_uid == uid) & (Study.institution == origin.institution)
    row = _first(db, Study.select().where(same))
    if row is None:
        ordered = OrderedStudy.select(OrderedStudy.requesting_service_key).where(
            OrderedStudy.study_instance_uid == uid, OrderedStudy.institution == origin.institution
        )
        new = {
            **attributes.study,
            "modalities": "",
            "number_of_series": 0,
            "number_of_instances": 0,
            "institution": origin.institution,
            "arrived_from": origin.gateway_id,
            "arrived_at_utc": int(origin.received_at_utc.timestamp()),
        }
        new["requesting_service_key"] = ordered.scalar(db) or new["requesting_service_key"]
        return {**new, "id": Study.insert(**new).execute(db)}, False
    sent = attributes.study
    other_patient = any(
        row[name] and sent[name] and row[name] != sent[name]
        for name in ("patient_id", "issuer_of_patient_id")
    )
    if not other_patient:
        filled = {name: value for name, value in sent.items() if value and not row[name]}
        if filled:
            Study.update(**filled).where(same).execute(db)
    return row, other_patient


def _series(db: Database, attributes: Attributes, study_id: int) -> tuple[int, bool]:
    same = (Series.study == study_id) & (Series.series_instance_uid == attributes.series_instance_uid)
    row = _first(db, Series.select(Series.id).where(same))
    if row is not None:
        return row["id"], False
    return Series.insert(**attributes.series, study=study_id, number_of_instances=0).execute(db), True


def _count(
    db: Database,
    attributes: Attributes,
    study: dict[str, Any],
    series_id: int,
    *,
    series_is_new: bool,
) -> None:
    modalities = {*study["modalities"].split("\\"), attributes.modality} - {""}
    Series.update(number_of_instances=Series.number_of_instances + 1).where(Series.id == series_id).execute(
        db
    )
    Study.update(
        number_of_instances=Study.number_of_instances + 1,
        number_of_series=Study.number_of_series + int(series_is_new),
        modalities="\\".join(sorted(modalities)),
    ).where(Study.id == study["id"]).execute(db)


def _of_studies(*columns: peewee.Field) -> Any:
    return Instance.select(*columns).join(Series).join(Study)


def _first(db: Database, query: Any) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(db))
    return rows[0] if rows else None
