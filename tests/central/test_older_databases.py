"""A database from before there were institutions goes on as it was: everything in it is the default institution's."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime
from pathlib import Path

from pydicom import Dataset

from central.access.doorkeeper import Doorkeeper
from central.access.policy import Action, Grant, PatientKey, Scope, StudyKey, authorize, scope_of
from central.archive.archive import Archive
from central.archive.erasure import Erased, Hold
from central.archive.indexing import ObjectOrigin
from central.archive.query import SeriesQuery, StudyQuery
from central.archive.tables import Study
from central.audit.events import AuditEvent
from central.audit.reading import Wanted
from central.database import Database
from central.dimse.commitment_store import CommitmentStore
from central.identity.authority import CertificateAuthority
from central.identity.gateways import Gateways
from central.identity.pairings import Pairings
from central.institution import WHOLE_CENTRAL
from central.postgres import Postgres
from central.workflow.data_sets import scheduled_item
from central.workflow.worklist import Entry, WorklistStore
from contract.receipt import Outcome
from tests.central.access.house import CHEAP, FACTOR_KEY, ORIGIN, PASSWORD, STUDY, people_in, pydicom_file
from tests.central.databases import open_archive_in, open_index, open_record, put_in
from tests.central.workflow.test_people_routes import item_json

_CAME_LATER = {
    "user_account": ("institution", "departments", "gateway_ids"),
    "study": (
        "institution",
        "requesting_service_key",
        "institutional_department_key",
        "arrived_from",
        "arrived_at_utc",
        "mixed",
        "referring_physician_ideographic_key",
    ),
    "series": (
        "performed_procedure_step_start_date",
        "performed_procedure_step_start_time",
        "request_attributes",
    ),
    "study_rule": ("institution",),
    "consent_withdrawal": ("institution",),
    "worklist_entry": ("institution", "order_id"),
    "gateway": ("institution",),
    "pairing_token": ("institution",),
    "pairing_request": ("decided_at", "certificate_pem"),
    "commitment_request": ("institution",),
}
_INDEXES_THEN = (
    "CREATE UNIQUE INDEX study_study_instance_uid ON study (study_instance_uid)",
    "CREATE UNIQUE INDEX instance_sha256 ON instance (sha256)",
    "CREATE UNIQUE INDEX commitmentrequest_ae_title_transaction_uid "
    "ON commitment_request (ae_title, transaction_uid)",
)
_TABLES_THEN = {
    "legal_hold": "set_by TEXT NOT NULL, reason TEXT NOT NULL, set_at_s DOUBLE PRECISION NOT NULL",
    "erased_study": "erased_by TEXT NOT NULL, erased_at_s DOUBLE PRECISION NOT NULL, objects BIGINT NOT NULL",
}


def open_all(root: Path, db: Database) -> tuple[Doorkeeper, Archive, WorklistStore, Gateways]:
    gateways = Gateways(db, CertificateAuthority.open(root))
    Pairings(db, gateways)
    CommitmentStore(db)
    return (
        Doorkeeper.open(db, hashes=CHEAP, factor_key=FACTOR_KEY),
        open_archive_in(root, db),
        WorklistStore(db),
        gateways,
    )


def put(archive: Archive, content: bytes, institution: str) -> Outcome:
    return put_in(archive, content, ObjectOrigin("gw", "0" * 32, datetime.now(UTC), institution))


def _requested() -> bytes:
    item = Dataset()
    item.ScheduledProcedureStepID, item.RequestedProcedureID = "SPS7", "RP7"
    return pydicom_file(
        "CT_small.dcm", RequestAttributesSequence=[item], PerformedProcedureStepStartDate="20260102"
    )


def make_older(db: Database) -> None:
    """Take away what came with institutions, and the sets of studies that came after them."""
    of_study = " ON study" if isinstance(db, Postgres) else ""
    for what in ("insert", "update", "delete"):
        db.execute_sql(f"DROP TRIGGER study_unfolded_{what}{of_study}")
    for table in ("study_unfolded", "study_posting"):
        db.execute_sql(f"DROP TABLE {table}")
    for name in ("instance_sha256_series_id", "study_mixed"):
        db.execute_sql(f"DROP INDEX {name}")
    for table, columns in _CAME_LATER.items():
        for index in db.get_indexes(table):
            if set(index.columns) & set(columns):
                db.execute_sql(f"DROP INDEX {index.name}")
        for column in columns:
            db.execute_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    for table in ("series_request", "ordered_study", "institution", "institution_agreement", "assignment"):
        db.execute_sql(f"DROP TABLE {table}")
    for statement in _INDEXES_THEN:
        db.execute_sql(statement)
    for table, columns in _TABLES_THEN.items():
        db.execute_sql(f"DROP TABLE {table}")
        db.execute_sql(f"CREATE TABLE {table} (study_instance_uid TEXT NOT NULL PRIMARY KEY, {columns})")
    db.execute_sql(f"INSERT INTO legal_hold VALUES ('{STUDY}', 'eve', 'court 17', 1.5)")
    db.execute_sql("INSERT INTO erased_study VALUES ('1.9.9', 'ann', 2.5, 7)")


def test_everything_is_the_default_institutions_and_reached_as_before(tmp_path: Path) -> None:
    db = open_index(tmp_path)
    door, archive, worklist, _ = open_all(tmp_path, db)
    people_in(door.accounts)
    put(archive, _requested(), ORIGIN.institution)
    put(archive, pydicom_file("MR_small.dcm", SeriesInstanceUID="1.2.3", PatientID="X"), ORIGIN.institution)
    door.rules.add("refusal", STUDY, "doctor", until_utc=None, reason="x", made_by="admin")
    withdrawn = door.consents.withdraw(PatientKey("HOSP", "P1"), "admin", ["radiologist"])
    worklist.put(Entry("RIS-1", (), item_json()), scheduled_item(item_json()), date(2026, 1, 5))
    make_older(db)
    db.end()

    db = open_index(tmp_path)
    for _ in range(2):  # as several programs do at once
        door, archive, worklist, _ = open_all(tmp_path, db)
    admin, radiologist, doctor = (
        admitted.principal
        for name in ("admin", "radiologist", "doctor")
        if (admitted := door.accounts.passwords.verify(name, PASSWORD, "::1")) is not None
    )
    assert (admin.institution, radiologist.institution) == (WHOLE_CENTRAL, "default")
    excepted = door.principal(radiologist.user_id)
    assert excepted is not None
    (row,) = archive.reading.find_studies(scope_of(excepted, Action.VIEW), StudyQuery())
    assert (row.institution, row.study_instance_uid, row.mixed) == ("default", STUDY, True)
    (series,) = archive.reading.find_series(
        scope_of(excepted, Action.VIEW), SeriesQuery(request_requested_procedure_id="RP7")
    )
    assert series.performed_procedure_step_start_date == "20260102"
    assert "SPS7" in series.request_attributes
    facts = archive.reading.facts(STUDY)
    assert facts is not None
    assert isinstance(authorize(excepted, Action.VIEW, facts), Grant)
    refused = door.principal(doctor.user_id)
    assert refused is not None
    assert refused.refused_studies == {StudyKey("default", STUDY)}
    assert [one.withdrawal_id for one in door.consents.listed()] == [withdrawn]
    assert [entry.item_id for entry in worklist.entries(limit=9)] == ["RIS-1"]
    assert archive.erasures.holds() == [Hold(STUDY, "default", "eve", "court 17", 1.5)]
    assert archive.erasures.erased() == [Erased("1.9.9", "default", "ann", 2.5, 7)]
    # What was unique in all of it is so in each institution from now on.
    assert put(archive, _requested(), "default") is Outcome.DUPLICATE
    assert put(archive, _requested(), "north") is Outcome.ARCHIVED
    assert put(archive, _requested(), "north") is Outcome.DUPLICATE
    db.end()


def test_names_that_were_folded_too_far_are_folded_again(tmp_path: Path) -> None:
    db = open_index(tmp_path)
    archive = open_archive_in(tmp_path, db)
    said = {"ReferringPhysicianName": "ナガタ^ケン=永田^健", "RequestingService": "リハビリ"}
    put(archive, pydicom_file("CT_small.dcm", **said, InstitutionalDepartmentName="ビル"), "default")
    put(archive, pydicom_file("MR_small.dcm", StudyInstanceUID="1.2.3"), "default")
    was = {"referring_physician_key": "ナカタ^ケン", "requesting_service_key": "リハヒリ"}
    # What an order says is in no image.
    Study.update(**was, institutional_department_key="ヒカシ").where(
        Study.study_instance_uid == STUDY
    ).execute(db)
    db.execute_sql("ALTER TABLE study DROP COLUMN referring_physician_ideographic_key")
    db.end()

    db = open_index(tmp_path)
    for _ in range(2):  # as several programs do at once
        reading = open_archive_in(tmp_path, db).reading
    columns = (
        Study.referring_physician_key,
        Study.referring_physician_ideographic_key,
        Study.requesting_service_key,
        Study.institutional_department_key,
    )
    rows = Study.select(*columns).order_by(Study.id).tuples().execute(db)
    assert [tuple(map(normal, row)) for row in rows] == [
        ("ナガタ^ケン", "永田^健", "リハビリ", "ヒカシ"),
        ("house^gregory", "", "", ""),
    ]
    query = StudyQuery(referring_physician_name="ナガタ*")
    (found,) = reading.find_studies(Scope(everything=True), query)
    assert found.study_instance_uid == STUDY
    db.end()


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def test_what_was_recorded_concerns_the_default_institution(tmp_path: Path) -> None:
    record = open_record(tmp_path)
    record.record(AuditEvent("ann", "doctor", Action.VIEW, "success", "::1", STUDY))
    record._db.execute_sql("DROP TABLE audit_concern")
    record.close()
    record = open_record(tmp_path)
    record.record(AuditEvent("bob", "doctor", Action.VIEW, "success", "::1", STUDY))
    (row,) = record.newest(Wanted(institutions=("default",)), limit=9)
    assert row.event.actor == "ann"
    assert record.verify().problems == []
    record.close()
