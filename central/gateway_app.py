"""What boxes reach: enrolment, uploads, the exchange of keys, receipts, heartbeats and worklist.

Wiring only: which room gets what.
"""

from __future__ import annotations

import base64
from contextlib import ExitStack
from dataclasses import replace

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from central.archive.archive import Archive
from central.audit.refusals import Refusals
from central.fleet.https import GatewayDesk
from central.fleet.opening import FleetRooms
from central.fleet.support import SupportBundles
from central.foundation import Foundation
from central.ingest.acceptance import Acceptance
from central.ingest.caller import Callers
from central.ingest.enrolment import EnrolmentDesk
from central.ingest.errors import IngestError
from central.ingest.pack_acceptance import PackAcceptance
from central.ingest.packs import Packs
from central.ingest.partial import PartialUploads, UploadLimits
from central.ingest.problems import http_error, ingest_error, unexpected_error
from central.ingest.quota import DayQuota
from central.ingest.receipt_check import ReceiptDesk
from central.ingest.shared_turns import SharedTurns
from central.ingest.standing import StandingDesk
from central.ingest.turns import Turns
from central.ingest.tus import PATIENCE_S
from central.ingest.uploads import Uploads
from central.revocation import end_session_of
from central.workflow.gateway_routes import gateway_routes as workflow_routes
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import WorklistStore
from contract.enrolment import BrokerAddress, Introduction
from contract.pack import MAX_PACK_BYTES


def gateway_app(
    foundation: Foundation,
    archive: Archive,
    rooms: FleetRooms,
    quota: DayQuota,
    refusals: Refusals,
    closing: ExitStack,
) -> Starlette:
    """The application of the gateways' listener; `closing` lets what is being archived finish."""
    settings, identity = foundation.settings, foundation.identity
    limits = UploadLimits(
        max_object_bytes=settings.limits.max_object_bytes,
        max_uploads_per_gateway=settings.limits.max_uploads_per_gateway,
        reserve_bytes=settings.storage.reserve_bytes,
        spend=quota.spend,
    )
    acceptance = Acceptance(
        foundation.db,
        archive.receiving,
        central_id=identity.central_id,
        sealing_keys=identity.sealing_keys,
        receipt_keys=identity.receipt_keys,
        max_object_bytes=limits.max_object_bytes,
        institution_of=foundation.gateways.institution_of,
    )
    callers = Callers(foundation.gateways, refusals)
    storage = settings.storage

    def turns(of: str) -> Turns:
        shared = SharedTurns(storage.arriving_folder / "turns" / of) if storage.arriving is not None else None
        return Turns(PATIENCE_S, shared)

    uploads = Uploads(
        callers,
        PartialUploads.open(storage.uploads_folder, limits),
        acceptance,
        refusals,
        settings.limits.ingest_workers,
        turns("uploads"),
    )
    closing.callback(uploads.close)
    packs = Packs(
        callers,
        PartialUploads.open(storage.packs_folder, replace(limits, max_object_bytes=MAX_PACK_BYTES)),
        PackAcceptance(foundation.db, acceptance, refusals),
        settings.limits.ingest_workers,
        turns("packs"),
    )
    closing.callback(packs.close)
    desk = EnrolmentDesk(
        foundation.gateways,
        foundation.pairings,
        foundation.standings,
        callers,
        lambda: _introduction(foundation),
        identity.authority.certificate,
        foundation.audit,
        refusals,
        lambda gateway_id: end_session_of(foundation, gateway_id),
    )
    standing = StandingDesk(
        callers,
        foundation.standings,
        identity.sealing_keys.signed_set,
        refusals,
        central_id=identity.central_id,
        receipt_keys=identity.receipt_keys,
    )
    bundles = SupportBundles(foundation.settings.storage.support_folder)
    heartbeats = GatewayDesk(callers.gateway_of, rooms.correspondence, rooms.commands, bundles)
    return Starlette(
        routes=[
            *desk.routes(),
            *standing.routes(),
            *ReceiptDesk(callers, acceptance, refusals).routes(),
            *uploads.routes(),
            *packs.routes(),
            *heartbeats.routes(),
            *workflow_routes(
                WorklistStore(foundation.db),
                ProcedureStore(foundation.db),
                foundation.audit,
                callers.gateway_of,
                foundation.gateways.institution_of,
            ),
        ],
        exception_handlers={
            IngestError: ingest_error,
            HTTPException: http_error,
            Exception: unexpected_error,
        },
    )


def _introduction(foundation: Foundation) -> Introduction:
    identity, mqtt = foundation.identity, foundation.settings.mqtt
    broker = BrokerAddress(host=mqtt.called_host, port=mqtt.called_port, tls=mqtt.tls) if mqtt.host else None
    return Introduction(
        central_id=identity.central_id,
        receipt_keys=[_base64(key.public_bytes_raw()) for key in identity.receipt_keys.verifying().values()],
        root_key=_base64(identity.sealing_keys.root_public().public_bytes_raw()),
        key_set=identity.sealing_keys.signed_set(),
        broker=broker,
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
