"""The index: study, series, instance and the ready-made metadata of each instance.

Always true: a row in `instance` means that its file is durable under its content address; counters and
modalities of a study say what its rows say, because both change in one transaction. Columns ending in ``_key``
are folded copies for matching. Models carry no database: queries are executed on one explicitly.
"""

from __future__ import annotations

import logging
from typing import Final, NamedTuple

import peewee

from central.database import Database, Sqlite, grow_table, make_tables, rekey_table
from central.institution import DEFAULT_INSTITUTION

_log = logging.getLogger(__name__)


class Study(peewee.Model):
    """A study as one institution holds it: of another that sends the same Study Instance UID there is a row, too.

    `modalities` is sorted and separated by ``\\``. `referring_physician_key` is access.person_name_key, and
    access.ideographic_key beside it; the keys of requesting service (0032,1033) and institutional department
    (0008,1040) are access.department_key. `arrived_from`
    and `arrived_at_utc` (seconds since 1970) are of the first instance. `mixed`: there is an instance in it that names
    another patient; counts and modalities are of everything, and `central.archive.mixed` says what others are told.
    """

    id = peewee.AutoField()
    study_instance_uid = peewee.TextField()
    patient_name = peewee.TextField()
    patient_name_key = peewee.TextField()
    patient_name_other_keys = peewee.TextField()
    patient_id = peewee.TextField()
    issuer_of_patient_id = peewee.TextField()
    patient_birth_date = peewee.TextField()
    patient_sex = peewee.TextField()
    study_date = peewee.TextField()
    study_time = peewee.TextField()
    accession_number = peewee.TextField(index=True)
    study_description = peewee.TextField()
    study_description_key = peewee.TextField()
    study_id = peewee.TextField()
    referring_physician_name = peewee.TextField()
    referring_physician_key = peewee.TextField()
    referring_physician_ideographic_key = peewee.TextField(default="")
    modalities = peewee.TextField()
    number_of_series = peewee.IntegerField()
    number_of_instances = peewee.IntegerField()
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)
    requesting_service_key = peewee.TextField(default="")
    institutional_department_key = peewee.TextField(default="")
    arrived_from = peewee.TextField(default="")
    arrived_at_utc = peewee.BigIntegerField(default=0)
    mixed = peewee.BooleanField(default=False)

    class Meta:
        table_name = "study"
        indexes = (
            (("study_instance_uid", "institution"), True),
            (("patient_id", "study_date"), False),
            (("patient_name_key", "study_date"), False),
            # In the order of an answer; with what lets SQLite pass over rows without fetching them.
            (("referring_physician_key", "study_date", "study_time", "id", "modalities"), False),
            (("requesting_service_key", "study_date", "study_time", "id", "modalities"), False),
            (("study_date", "study_time", "id"), False),
            (("study_id",), False),
            (("issuer_of_patient_id",), False),
            (("patient_birth_date",), False),
            (("arrived_at_utc",), False),
        )


class Series(peewee.Model):
    """Unique in its study: that two studies claim one series UID must hide neither.

    `request_attributes` is the Request Attributes Sequence as DICOM JSON, "" without one.
    """

    id = peewee.AutoField()
    study = peewee.ForeignKeyField(Study, backref="series")
    series_instance_uid = peewee.TextField(index=True)
    modality = peewee.TextField(index=True)
    series_number = peewee.BigIntegerField(null=True)
    series_description = peewee.TextField()
    series_description_key = peewee.TextField()
    body_part_examined = peewee.TextField()
    series_date = peewee.TextField()
    series_time = peewee.TextField()
    number_of_instances = peewee.IntegerField()
    performed_procedure_step_start_date = peewee.TextField(default="")
    performed_procedure_step_start_time = peewee.TextField(default="")
    request_attributes = peewee.TextField(default="")

    class Meta:
        table_name = "series"
        indexes = ((("study", "series_instance_uid"), True),)


class SeriesRequest(peewee.Model):
    """One item of a series' Request Attributes Sequence (`central.archive.steps`)."""

    series = peewee.ForeignKeyField(Series)
    scheduled_procedure_step_id = peewee.TextField(index=True)
    requested_procedure_id = peewee.TextField(index=True)

    class Meta:
        table_name = "series_request"


class Instance(peewee.Model):
    """One content, for each institution that sent it. `current` is what reads return; of one (series, SOP Instance UID)
    exactly one row is.

    `flagged`: another content exists under this SOP Instance UID. `other_patient`: it names another patient than
    its study does, so only those who may read all patients' images see it. `unread_because` is "" when the whole header
    was understood, else why only its UIDs were.
    """

    id = peewee.AutoField()
    series = peewee.ForeignKeyField(Series, backref="instances")
    sop_instance_uid = peewee.TextField(index=True)
    sop_class_uid = peewee.TextField()
    instance_number = peewee.BigIntegerField(null=True)
    rows = peewee.BigIntegerField(null=True)
    columns = peewee.BigIntegerField(null=True)
    bits_allocated = peewee.BigIntegerField(null=True)
    number_of_frames = peewee.BigIntegerField(null=True)
    transfer_syntax_uid = peewee.TextField()
    sha256 = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    current = peewee.BooleanField()
    flagged = peewee.BooleanField()
    other_patient = peewee.BooleanField()
    unread_because = peewee.TextField()
    gateway_id = peewee.TextField()
    object_id = peewee.TextField()
    received_at_utc = peewee.TextField()

    class Meta:
        table_name = "instance"
        indexes = (
            (("series", "sop_instance_uid", "current"), False),
            (("sha256", "series"), True),
            (
                ("gateway_id", "received_at_utc", "size_bytes"),
                False,
            ),  # answers by itself what a gateway brought
        )


class Metadata(peewee.Model):
    """The instance's DICOM JSON (PS3.18 annex F), zlib-compressed, made once at ingest."""

    instance = peewee.ForeignKeyField(Instance, primary_key=True)
    dicom_json = peewee.BlobField()

    class Meta:
        table_name = "metadata"


class OrderedStudy(peewee.Model):
    """What an order says of a study, whether or not images of it have come."""

    study_instance_uid = peewee.TextField()
    institution = peewee.TextField()
    requesting_service_key = peewee.TextField()

    class Meta:
        table_name = "ordered_study"
        primary_key = peewee.CompositeKey("study_instance_uid", "institution")


class StudyKey(peewee.Model):
    """The key of a study, wrapped under one of central's storage keys: what opens the keys of its objects.

    Institutions that hold the same Study Instance UID share it, since they may share objects; each object has a key of
    its own.
    """

    study_instance_uid = peewee.TextField(primary_key=True)
    storage_key_id = peewee.TextField(index=True)
    wrapped_key = peewee.BlobField()

    class Meta:
        table_name = "study_key"


class SealedContent(peewee.Model):
    """Where a content lies that is encrypted at rest. One without such a row lies plain, under its own SHA-256.

    `address` is the SHA-256 of the sealed bytes. `wrapped_key`: the object's key, under the study's.
    """

    sha256 = peewee.TextField(primary_key=True)
    address = peewee.TextField(unique=True)
    study_instance_uid = peewee.TextField(index=True)
    wrapped_key = peewee.BlobField()

    class Meta:
        table_name = "sealed_content"


class Rendition(peewee.Model):
    """What was made from contents of a study and is kept (`central.archive.renditions`); nothing is lost with it.

    `key`: what it was made from and as what. `address`: its name in the store of renditions. `wrapped_key`: what opens
    it, under the study's key; None where it lies plain.
    """

    key = peewee.TextField(primary_key=True)
    study_instance_uid = peewee.TextField(index=True)
    address = peewee.TextField(index=True)
    sha256 = peewee.TextField()
    size_bytes = peewee.BigIntegerField()
    wrapped_key = peewee.BlobField(null=True)
    used_at_s = peewee.DoubleField(index=True)

    class Meta:
        table_name = "rendition"


class LegalHold(peewee.Model):
    """A study that must not be erased, as one institution holds it."""

    study_instance_uid = peewee.TextField()
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)
    set_by = peewee.TextField()
    reason = peewee.TextField()
    set_at_s = peewee.DoubleField()

    class Meta:
        table_name = "legal_hold"
        primary_key = peewee.CompositeKey("study_instance_uid", "institution")


class ErasedStudy(peewee.Model):
    """A study of an institution that was erased, of which nothing is taken in there any more. Why is on the audit
    record."""

    study_instance_uid = peewee.TextField()
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)
    erased_by = peewee.TextField()
    erased_at_s = peewee.DoubleField()
    objects = peewee.BigIntegerField()

    class Meta:
        table_name = "erased_study"
        primary_key = peewee.CompositeKey("study_instance_uid", "institution")


class DoomedObject(peewee.Model):
    """An object that no row names any more, to be removed from the store once it is due."""

    sha256 = peewee.TextField(primary_key=True)
    due_at_s = peewee.DoubleField(index=True)

    class Meta:
        table_name = "doomed_object"


class ObjectFault(peewee.Model):
    """What is wrong with an object, or with its row (`central.archive.faults`). `told`: it is on the audit record."""

    sha256 = peewee.TextField(primary_key=True)
    kind = peewee.TextField()
    found_at_s = peewee.DoubleField()
    told = peewee.BooleanField(index=True)

    class Meta:
        table_name = "object_fault"


class ScrubState(peewee.Model):
    """One row: where the scrub stands, what the last pass found, and which process does it until when."""

    id = peewee.IntegerField(primary_key=True)
    running = peewee.BooleanField()
    position = peewee.TextField()
    objects = peewee.BigIntegerField()
    bytes = peewee.BigIntegerField()
    finished_at_s = peewee.DoubleField()
    owner = peewee.TextField()
    owned_until_s = peewee.DoubleField()

    class Meta:
        table_name = "scrub_state"


MODELS: Final = (
    Study,
    Series,
    SeriesRequest,
    Instance,
    Metadata,
    OrderedStudy,
    StudyKey,
    SealedContent,
    Rendition,
    LegalHold,
    ErasedStudy,
    DoomedObject,
    ObjectFault,
    ScrubState,
)
_CAME_LATER: Final = {
    "institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'",
    "requesting_service_key": "TEXT NOT NULL DEFAULT ''",
    "institutional_department_key": "TEXT NOT NULL DEFAULT ''",
    "arrived_from": "TEXT NOT NULL DEFAULT ''",
    "arrived_at_utc": "BIGINT NOT NULL DEFAULT 0",
}
_CAME_LAST: Final = {  # to an index of institutions
    "mixed": "BOOLEAN NOT NULL DEFAULT FALSE",
    "referring_physician_ideographic_key": "TEXT NOT NULL DEFAULT ''",
}
_CAME_LATER_IN_SERIES: Final = {
    "performed_procedure_step_start_date": "TEXT NOT NULL DEFAULT ''",
    "performed_procedure_step_start_time": "TEXT NOT NULL DEFAULT ''",
    "request_attributes": "TEXT NOT NULL DEFAULT ''",
}

_OUTGROWN: Final = (
    "study_referring_physician_key_study_date",
    "study_requesting_service_key_study_date",
    "study_institution_study_date_study_time_id",
)


_MIXED: Final = "CREATE INDEX IF NOT EXISTS study_mixed ON study (id) WHERE mixed"
"""Of the few, so that it is known at once whether there are any."""


def _newest_first(db: Database) -> str:
    """The index by which an institution's studies are read from the newest on.

    On SQLite it has every text that a search compares, so that a row is fetched only if it is answered: looking through
    all studies takes a tenth of the time. PostgreSQL fetches the row whatever the index has, and has no room in it for
    the longest texts.
    """
    columns = ["institution", "study_date", "study_time", "id"]
    if isinstance(db, Sqlite):
        columns += [
            "modalities",
            "patient_name_key",
            "study_description_key",
            "patient_id",
            "accession_number",
        ]
        columns += ["referring_physician_key"]
    return f"CREATE INDEX IF NOT EXISTS study_newest_first ON study ({', '.join(columns)})"


class Older(NamedTuple):
    """What an index that was there lacks in its rows: what `central.archive.steps` reads, and what
    `central.archive.refolding` folds. Whoever makes it up does so in the same transaction."""

    steps: bool
    names: bool


def make_index(db: Database) -> Older:
    """Make the tables where they are missing, and bring older ones up: their studies are the default institution's."""
    with db.writing():
        of_study, of_series = (
            {column.name for column in db.get_columns(name)} for name in ("study", "series")
        )
        grow_table(db, "study", _CAME_LAST)
        grow_table(db, "series", _CAME_LATER_IN_SERIES)
        indexes = {index.name for index in db.get_indexes("study")}
        if "study_study_instance_uid" in indexes:  # unique, before there were institutions
            grow_table(db, "study", _CAME_LATER, outgrown=("study_study_instance_uid", "instance_sha256"))
        for model in (LegalHold, ErasedStudy):
            rekey_table(db, model)
        if indexes and "study_newest_first" not in indexes:
            count = Study.select(peewee.fn.COUNT(Study.id)).scalar(db)
            _log.info("event=indexing-for-searches studies=%d about_s=%d", count, count // 50_000)
        make_tables(db, MODELS)
        for statement in (_newest_first(db), _MIXED):
            db.execute(peewee.SQL(statement))  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        for index in _OUTGROWN:
            if index in indexes:
                db.execute(peewee.SQL(f"DROP INDEX {index}"))  # type: ignore[no-untyped-call]  # the stubs leave it untyped
        if of_study and "mixed" not in of_study:
            of_two = Series.select(Series.study).join(Instance).where(Instance.other_patient)
            Study.update(mixed=True).where(Study.id.in_(of_two)).execute(db)
        return Older(
            steps=bool(of_series) and not _CAME_LATER_IN_SERIES.keys() <= of_series,
            names=bool(of_study) and "referring_physician_ideographic_key" not in of_study,
        )
