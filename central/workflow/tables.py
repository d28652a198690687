"""The tables of this room, in central's index database.

Always true: a worklist entry and the version that names the state of the worklist change in one transaction, so
that a box which knows the newest version has the newest worklist.
"""

from __future__ import annotations

from typing import Final

import peewee

from central.database import Database, grow_table, make_tables
from central.institution import DEFAULT_INSTITUTION


class WorklistEntry(peewee.Model):
    """One scheduled procedure step of an institution. `gateway_ids` is JSON, empty for every box of it; `data_set` is
    what they are sent. `item_id` is with the institution before it, but for the default one; `order_id` is of the HL7
    order that it came with, "" without one."""

    item_id = peewee.CharField(primary_key=True)
    gateway_ids = peewee.TextField()
    study_instance_uid = peewee.TextField(index=True)
    scheduled_date = peewee.TextField()
    scheduled_time = peewee.TextField()
    item_json = peewee.TextField()
    data_set = peewee.BlobField()
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)
    order_id = peewee.TextField(default="")

    class Meta:
        table_name = "worklist_entry"
        indexes = ((("scheduled_date", "scheduled_time"), False),)


class WorklistVersion(peewee.Model):
    """One row. `epoch` is random: a database that was restored from a backup does not repeat a version."""

    id = peewee.IntegerField(primary_key=True)
    epoch = peewee.TextField()
    version = peewee.IntegerField()

    class Meta:
        table_name = "worklist_version"


class PerformedProcedure(peewee.Model):
    """One step, as its messages left it."""

    id = peewee.AutoField()
    gateway_id = peewee.TextField()
    sop_instance_uid = peewee.TextField()
    status = peewee.TextField()
    calling_ae_title = peewee.TextField()
    first_at_utc = peewee.TextField()
    changed_at_utc = peewee.TextField()

    class Meta:
        table_name = "performed_procedure"
        indexes = ((("gateway_id", "sop_instance_uid"), True),)


class PerformedProcedureEntry(peewee.Model):
    """One N-CREATE or N-SET, in the bytes of the modality. `number` counts them by step."""

    id = peewee.AutoField()
    procedure = peewee.ForeignKeyField(PerformedProcedure, on_delete="CASCADE")
    number = peewee.IntegerField()
    operation = peewee.TextField()
    received_at_utc = peewee.TextField()
    transfer_syntax_uid = peewee.TextField()
    data_set = peewee.BlobField()
    sha256 = peewee.TextField()

    class Meta:
        table_name = "performed_procedure_entry"
        indexes = ((("procedure", "number"), True),)


_MODELS: Final = (
    WorklistEntry,
    WorklistVersion,
    PerformedProcedure,
    PerformedProcedureEntry,
)


def make_workflow_tables(db: Database) -> None:
    """Make the tables where they are missing, and bring older ones up."""
    came_later = {
        "institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'",
        "order_id": "TEXT NOT NULL DEFAULT ''",
    }
    grow_table(db, "worklist_entry", came_later)
    make_tables(db, _MODELS)
