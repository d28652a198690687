"""`dicomnet-central audit …`: verify the record, give it out, and show the key it is verified with.

Looking is an event as well: each command is recorded before it reads.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from central.access.policy import PatientKey
from central.audit.delivery import DeliveryBook, receiver_of
from central.audit.events import Action
from central.audit.formats import Format, lines
from central.audit.pruning import PruningError, cutoff, prune
from central.audit.reading import Wanted
from central.command_group import AddCommand, CommandGroup
from central.config import Settings
from central.errors import StartError
from central.fleet.heartbeats import Heartbeats
from central.foundation import Foundation, open_archive, open_record_beside


class AuditCommands(CommandGroup):
    """The commands."""

    def add(self, add: AddCommand) -> None:
        add(
            "verify",
            "follow the record's hash chain and compare it with the signed checkpoints, and with what boxes witnessed",
            self._verify,
        )
        prune = add(
            "prune",
            "export what is older than audit.retention_years to a file, verify the file, and remove it here",
            self._prune,
        )
        prune.add_argument(
            "--export", type=Path, required=True, metavar="FILE", help="a file that is not there yet"
        )
        add("key", "print the public key that checkpoints are signed with, in PEM", self._key)
        export = add("export", "write records to standard output, the oldest first", self._export)
        export.add_argument(
            "--format",
            choices=[form.value for form in Format],
            default=Format.NDJSON.value,
            help="ndjson: a JSON object a line, with checkpoints, for tools/verify_audit.py; csv; fhir: AuditEvent "
            "resources (R4), one a line",
        )
        export.add_argument("--actor", metavar="WHO", help="only of this person, gateway or AE title")
        export.add_argument("--action", choices=[action.value for action in Action], help="only this action")
        export.add_argument("--study", metavar="UID", help="only on this study: who has seen it?")
        export.add_argument(
            "--patient", metavar="ID", help="only on this patient's studies: who has seen them?"
        )
        export.add_argument(
            "--issuer", default="", metavar="I", help="Issuer of Patient ID that goes with it"
        )
        export.add_argument(
            "--since", metavar="TIME", help="from this time on, UTC: 2026-01-31 or 2026-01-31T08:00"
        )
        export.add_argument("--until", metavar="TIME", help="before this time, UTC")

    def _verify(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            foundation.audit.record(self._event(Action.READ_AUDIT, "verify"))
            witnessed = [(f"box {box}", word) for box, word in Heartbeats(foundation.db).witnessed()]
            verdict = foundation.audit.verify(witnessed)
        print(
            f"{verdict.records} records, {verdict.checkpoints} checkpoints, signed up to {verdict.signed_upto_id}"
        )
        if (removal := verdict.pruned) is not None:
            print(
                f"records up to {removal.through_id}, from before {removal.before_utc:%Y-%m-%d}, were pruned on "
                f"{removal.at_utc:%Y-%m-%d}: the export with SHA-256 {removal.export_sha256} holds them"
            )
        print(f"{verdict.witnessed} words kept by boxes, witnessed up to {verdict.witnessed_upto_id}")
        for problem in [*verdict.remarks, *verdict.problems]:
            print(problem)
        if verdict.problems:
            raise StartError(
                "the audit record was changed: keep this file as it is, and compare it with exports and backups"
            )
        print("nothing was changed")

    def _prune(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        years = settings.audit.retention_years
        if years == 0:
            raise StartError("audit.retention_years is 0: the record is kept for ever")
        with closing(Foundation.open(settings)) as foundation:
            audit = foundation.audit

            def announce(through_id: int) -> None:
                audit.record(self._event(Action.PRUNE_AUDIT, f"through {through_id} into {options.export}"))

            try:
                removal = prune(
                    audit,
                    before_utc=cutoff(datetime.now(UTC), years),
                    delivered_id=_delivered_id(settings),
                    export=options.export,
                    announce=announce,
                )
            except PruningError as error:
                raise StartError(str(error)) from error
        if removal is None:
            print(f"nothing is older than {years} years")
            return
        print(
            f"{removal.records} records, up to {removal.through_id}, are in {removal.export} and no longer here; "
            "keep that file, and tools/verify_audit.py verifies it"
        )

    def _key(self, options: argparse.Namespace) -> None:
        with closing(Foundation.open(self._settings(options))) as foundation:
            key = foundation.identity.receipt_key.public_key()
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        print(pem.decode("ascii"), end="")

    def _export(self, options: argparse.Namespace) -> None:
        wanted = Wanted(options.actor, options.action, options.study, options.since, options.until)
        with closing(Foundation.open(self._settings(options))) as foundation:
            said = dict(vars(wanted))
            if options.patient:
                said |= {"patient": options.patient, "issuer": options.issuer}
            asked = " ".join(f"{name}={value}" for name, value in said.items() if value)
            foundation.audit.record(
                self._event(Action.EXPORT, f"audit record, {options.format} {asked}".strip())
            )
            if options.patient:
                wanted = replace(wanted, studies=_studies_of(foundation, options.patient, options.issuer))
            central_id = foundation.identity.central_id
            sys.stdout.writelines(lines(foundation.audit, wanted, Format(options.format), central_id))


def _delivered_id(settings: Settings) -> int | None:
    if not settings.audit.syslog_host:
        return None
    db = open_record_beside(settings.storage)
    try:
        return DeliveryBook(db, receiver_of(settings.audit)).arrived_id()
    finally:
        db.end()


def _studies_of(foundation: Foundation, patient_id: str, issuer: str) -> list[str]:
    archive = open_archive(foundation.settings.storage, foundation.db)
    return archive.reading.studies_of(PatientKey(issuer, patient_id))
