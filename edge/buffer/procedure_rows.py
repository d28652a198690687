"""The tables of performed procedure steps: a row a step, and one for each message that central does not have.

What a message says is sealed under the device key; beside it stand UIDs, AE titles and times.
"""

from __future__ import annotations

from enum import StrEnum

from peewee import AutoField, BlobField, IntegerField, Model, TextField


class MessageState(StrEnum):
    WAITING = "waiting"
    REFUSED = "refused"  # central will not have it: kept, sealed, for a person


class ProcedureStep(Model):
    """One step. `messages` counts what was accepted for it; the next message has that number."""

    sop_instance_uid = TextField(primary_key=True)
    status = TextField()
    supplied = IntegerField()  # of FinalAttribute
    messages = IntegerField()
    calling_ae_title = TextField()
    changed_at_utc = TextField(index=True)

    class Meta:
        table_name = "procedure_step"


class ProcedureMessage(Model):
    """One accepted message that central does not have yet."""

    sequence = AutoField()
    sop_instance_uid = TextField()
    number = IntegerField()
    operation = TextField()
    state = TextField()
    transfer_syntax_uid = TextField()
    calling_ae_title = TextField()
    received_at_utc = TextField()
    sealed = BlobField()
    size_bytes = IntegerField()
    reason = TextField(null=True)

    class Meta:
        table_name = "procedure_message"
        indexes = ((("sop_instance_uid", "number"), True), (("state", "sequence"), False))
