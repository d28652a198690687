"""The tables of Storage Commitment: a row a request, and one for each instance it names.

No patient data: UIDs, AE titles and addresses. `due_s` is of this process's monotonic clock, zero after a start;
`age_s` counts the time the program has run, up to the store's last tick.
"""

from __future__ import annotations

from peewee import AutoField, CompositeKey, FloatField, ForeignKeyField, IntegerField, Model, TextField


class RequestRow(Model):
    number = AutoField()
    transaction_uid = TextField()
    calling_ae_title = TextField()
    called_ae_title = TextField()
    peer_address = TextField()
    state = TextField()
    instances = IntegerField()
    age_s = FloatField()
    due_s = FloatField(default=0.0)  # of the monotonic clock; zero at start-up
    attempts = IntegerField(default=0)
    last_error = TextField(null=True)
    asked_at_utc = TextField()
    ended_at_utc = TextField(null=True)

    class Meta:
        table_name = "commitments"
        indexes = ((("calling_ae_title", "transaction_uid"), True), (("state", "due_s"), False))


class InstanceRow(Model):
    request = ForeignKeyField(RequestRow, on_delete="CASCADE")
    position = IntegerField()
    sop_class_uid = TextField()
    sop_instance_uid = TextField()
    failure_reason = IntegerField(null=True)

    class Meta:
        table_name = "commitment_instances"
        primary_key = CompositeKey("request", "position")
        without_rowid = True
