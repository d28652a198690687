"""The index's tables. Nothing here identifies a patient: UIDs, hashes, AE titles, station and department, sizes, times.

`due_s` is read against this process's monotonic clock (a Raspberry Pi has no battery clock, and a wall clock
that jumps must not stall the queue); start-up sets it to zero, so everything is due at once after a restart.
"""

from __future__ import annotations

from datetime import UTC, datetime

from peewee import SQL, AutoField, BooleanField, FloatField, IntegerField, Model, TextField

SCHEMA_VERSION = 1


def utc_text(moment: datetime) -> str:
    """Fixed-width ISO 8601 in UTC: sorts as text, and a technician can read it in sqlite3."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def utc_from_text(text: str) -> datetime:
    return datetime.fromisoformat(text)  # twenty times as fast as strptime, once for each row of a list


class SpoolObject(Model):
    """One sealed file. Freed rows stay a while as proof of the receipt."""

    sequence = AutoField()
    object_id = TextField(unique=True)
    state = TextField()
    success_answered = BooleanField()
    sop_class_uid = TextField(null=True)
    sop_instance_uid = TextField(null=True)
    study_instance_uid = TextField(null=True)
    series_instance_uid = TextField(null=True)
    modality = TextField(null=True)
    transfer_syntax_uid = TextField(null=True)
    calling_ae_title = TextField()
    called_ae_title = TextField()
    peer_address = TextField()
    sha256 = TextField(null=True)
    size_bytes = IntegerField()
    stored_bytes = IntegerField()
    received_at_utc = TextField()
    due_s = FloatField(default=0.0)  # ready: next attempt; sending: end of the lease
    attempts = IntegerField(default=0)
    last_error = TextField(null=True)
    receipt = TextField(null=True)
    freed_at_utc = TextField(null=True)
    # On the disk no more as it was written: nobody may be told that it is safe here.
    damaged = BooleanField(default=False, constraints=[SQL("DEFAULT 0")])
    # contract.priority.Priority, from a rule, an order or a person.
    priority = IntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    # Rises with every receipt; null without one that is in force (edge.buffer.receipts).
    receipt_number = IntegerField(null=True)
    # What rules are asked by, for a dry run (edge.routes).
    station = TextField(null=True)
    department = TextField(null=True)
    # Key ids of whom it is sealed for beside the first central; null: nobody, or nobody knows.
    sealed_for = TextField(null=True)

    class Meta:
        table_name = "objects"


class Scanner(Model):
    """A sender by calling AE title and address."""

    sequence = AutoField()
    calling_ae_title = TextField()
    peer_address = TextField()
    instances = IntegerField(default=0)
    size_bytes = IntegerField(default=0)
    rejected = IntegerField(default=0)
    last_error = TextField(null=True)
    first_seen_at_utc = TextField()
    last_seen_at_utc = TextField()
    last_store_at_utc = TextField(null=True)

    class Meta:
        table_name = "scanners"
        indexes = ((("calling_ae_title", "peer_address"), True),)


class DeliveryRow(Model):
    """What is owed to one destination beside central (edge.buffer.deliveries)."""

    number = AutoField()
    object_id = TextField()
    destination = TextField()
    state = TextField()
    due_s = FloatField(default=0.0)
    attempts = IntegerField(default=0)
    last_error = TextField(null=True)
    # The object's, so that a long backlog is added up from the index below alone.
    stored_bytes = IntegerField()
    # A further central's (edge.buffer.delivery_queue).
    receipt = TextField(null=True)
    # Rises with every receipt of that central; null without one that is in force (edge.buffer.copy_receipts).
    receipt_number = IntegerField(null=True)

    class Meta:
        table_name = "deliveries"
        indexes = ((("object_id", "destination"), True),)


class ReceiptCheckRow(Model):
    """How far receipts were checked with a central: row 1 is the first's (edge.buffer.receipts)."""

    number = IntegerField(primary_key=True)
    checked_through = IntegerField()
    searching_below = IntegerField(null=True)

    class Meta:
        table_name = "receipt_check"


class StudyPriority(Model):
    """What a person decided about a study; it holds for images that come later, too."""

    study_instance_uid = TextField(primary_key=True)
    priority = IntegerField()
    set_at_utc = TextField()

    class Meta:
        table_name = "study_priorities"


# Partial indexes: receipts of a month outnumber what waits by far, and no question about the queue may scan them.
_live = SpoolObject.freed_at_utc.is_null()
SpoolObject.add_index(
    SpoolObject.index(
        SpoolObject.state, SpoolObject.due_s, SpoolObject.stored_bytes, where=_live, name="live_by_state"
    )
)
SpoolObject.add_index(SpoolObject.index(SpoolObject.sequence, where=_live, name="live_by_sequence"))
SpoolObject.add_index(SpoolObject.index(SpoolObject.sop_instance_uid, where=_live, name="live_by_instance"))
SpoolObject.add_index(
    SpoolObject.index(
        SpoolObject.freed_at_utc, where=SpoolObject.freed_at_utc.is_null(False), name="freed_by_time"
    )
)
SpoolObject.add_index(  # for Storage Commitment, which asks for what central has already
    SpoolObject.index(
        SpoolObject.sop_instance_uid, where=SpoolObject.freed_at_utc.is_null(False), name="freed_by_instance"
    )
)
SpoolObject.add_index(
    SpoolObject.index(SpoolObject.sequence, where=SQL("state = 'retained'"), name="retained_by_sequence")
)
SpoolObject.add_index(  # what may be evicted (edge.buffer.quarantine)
    SpoolObject.index(
        SpoolObject.sequence,
        SpoolObject.stored_bytes,
        where=SQL("state = 'quarantined' AND NOT success_answered"),
        name="unanswered_by_sequence",
    )
)
# For the order of claims (edge.buffer.order); the lengths of studies are read from the index alone.
SpoolObject.add_index(
    SpoolObject.index(
        SpoolObject.study_instance_uid,
        SpoolObject.sequence,
        SpoolObject.state,
        SpoolObject.due_s,
        SpoolObject.stored_bytes,
        SpoolObject.priority,
        where=_live,
        name="live_by_study_2",
    )
)
SpoolObject.add_index(
    SpoolObject.index(
        SpoolObject.priority,
        SpoolObject.sequence,
        where=SQL("freed_at_utc IS NULL AND priority > 0"),
        name="live_by_priority_2",
    )
)
FORMER_INDEXES = ("live_by_study", "live_by_priority")
"""An older program that the box is set back to makes them again."""

SpoolObject.add_index(
    SpoolObject.index(
        SpoolObject.receipt_number, where=SQL("receipt_number IS NOT NULL"), name="receipts_by_number"
    )
)
SpoolObject.add_index(
    SpoolObject.index(SpoolObject.sop_instance_uid, where=SQL("state = 'lost'"), name="lost_by_instance")
)

DeliveryRow.add_index(
    DeliveryRow.index(
        DeliveryRow.destination,
        DeliveryRow.state,
        DeliveryRow.number,
        DeliveryRow.stored_bytes,
        where=SQL("state IN ('waiting', 'set-aside')"),
        name="open_deliveries",
    )
)
DeliveryRow.add_index(
    DeliveryRow.index(
        DeliveryRow.destination,
        DeliveryRow.receipt_number,
        where=SQL("receipt_number IS NOT NULL"),
        name="copy_receipts_by_number",
    )
)
DeliveryRow.add_index(
    DeliveryRow.index(DeliveryRow.destination, where=SQL("state = 'lost'"), name="lost_deliveries")
)

TABLES = (SpoolObject, Scanner, DeliveryRow, ReceiptCheckRow, StudyPriority)
