"""One archived content into the index, in one transaction.

Always true: of one (study, series, SOP Instance UID) the first content stays what reads return; what comes
later under the same UIDs is kept beside it, and both are flagged. The first instance of a study says whose
study it is: a later one may fill in what was empty, never change it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from central.archive.attributes import Attributes
from central.archive.objects import StoredObject
from central.archive.tables import Instance, Metadata, Series, Study
from central.database import Database
from contract.receipt import Outcome


@dataclass(frozen=True)
class ObjectOrigin:
    """Where an object came from."""

    gateway_id: str
    object_id: str
    received_at_utc: datetime


def add_to_index(
    db: Database,
    attributes: Attributes,
    metadata: bytes,
    stored: StoredObject,
    origin: ObjectOrigin,
) -> Outcome:
    """Insert, inside the caller's transaction. `metadata` is the compressed DICOM JSON."""
    if _first(db, Instance.select(Instance.id).where(Instance.sha256 == stored.sha256)):
        return Outcome.DUPLICATE
    study, names_other_patient = _study(db, attributes)
    series_id, series_is_new = _series(db, attributes, study["id"])
    same_uid = Instance.sop_instance_uid == attributes.sop_instance_uid
    others = list(Instance.select(Instance.series, Instance.current).where(same_uid).dicts().execute(db))
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
        Instance.update(flagged=True).where(same_uid).execute(db)
    if current:
        _count(db, attributes, study, series_id, series_is_new=series_is_new)
    return Outcome.VERSION if others else Outcome.ARCHIVED


def _study(db: Database, attributes: Attributes) -> tuple[dict[str, Any], bool]:
    """The study's row, made or filled in, and whether the instance names another patient than it does."""
    same = Study.study_instance_uid == attributes.study_instance_uid
    row = _first(db, Study.select().where(same))
    if row is None:
        empty = {"modalities": "", "number_of_series": 0, "number_of_instances": 0}
        study_id = Study.insert(**attributes.study, **empty).execute(db)
        return {**attributes.study, **empty, "id": study_id}, False
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


def _first(db: Database, query: Any) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(db))
    return rows[0] if rows else None
