"""The services of central's application entity, put together: which message of which SOP class goes where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE, N_ACTION, N_CREATE, N_SET

from central.archive.archive import Archive
from central.audit.record import Audit
from central.dimse.association import (
    PATIENT_ROOT_FIND,
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    Routes,
)
from central.dimse.commitment import STORAGE_COMMITMENT, Commitments
from central.dimse.echo import Echo
from central.dimse.find import Query
from central.dimse.peers import Peers
from central.dimse.procedure_step import PERFORMED_PROCEDURE_STEP, ProcedureSteps, StepKeeper
from central.dimse.retrieve import Convert, Retrieve
from central.dimse.server import VERIFICATION
from central.dimse.settings import DimseSettings, Service
from central.dimse.store import Store, StoreService
from central.dimse.worklist import MODALITY_WORKLIST_FIND, Worklist, WorklistItems


@dataclass(frozen=True)
class Rooms:
    """What the services stand on. `has_room` says whether the archive may take more."""

    archive: Archive
    audit: Audit
    convert: Convert
    has_room: Callable[[], bool]
    worklist: WorklistItems
    steps: StepKeeper
    commitments: Commitments


def routes_for(settings: DimseSettings, rooms: Rooms) -> Routes:
    """Every service that central offers by DIMSE."""
    archive, audit = rooms.archive, rooms.audit
    routes = Routes()
    query = Query(archive.reading, audit, ae_title=settings.ae_title, max_matches=settings.max_matches)
    retrieve = Retrieve(settings, Peers(settings.peers), archive.reading, audit, rooms.convert)
    routes.add(C_ECHO, Echo(), None, VERIFICATION)
    routes.add(C_FIND, query, Service.QUERY, PATIENT_ROOT_FIND, STUDY_ROOT_FIND)
    routes.add(C_MOVE, retrieve, Service.RETRIEVE, PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE)
    routes.add(C_GET, retrieve, Service.RETRIEVE, PATIENT_ROOT_GET, STUDY_ROOT_GET)
    routes.add(C_STORE, StoreService(Store(archive.receiving, rooms.has_room), audit), Service.STORE)
    routes.add(N_ACTION, rooms.commitments, Service.COMMITMENT, STORAGE_COMMITMENT)
    worklist = Worklist(rooms.worklist, audit, settings.max_matches)
    routes.add(C_FIND, worklist, Service.WORKLIST, MODALITY_WORKLIST_FIND)
    steps = ProcedureSteps(rooms.steps, audit)
    for message in (N_CREATE, N_SET):
        routes.add(message, steps, Service.PROCEDURE_STEP, PERFORMED_PROCEDURE_STEP)
    return routes
