"""The services of central's application entity, put together: which message of which SOP class goes where."""

from __future__ import annotations

from collections.abc import Callable

from pynetdicom.dimse_primitives import C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE

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
from central.dimse.echo import Echo
from central.dimse.find import Query
from central.dimse.peers import Peers
from central.dimse.retrieve import Convert, Retrieve
from central.dimse.server import VERIFICATION
from central.dimse.settings import DimseSettings, Service
from central.dimse.store import Store


def routes_for(
    settings: DimseSettings,
    archive: Archive,
    audit: Audit,
    convert: Convert,
    has_room: Callable[[], bool] = lambda: True,
) -> Routes:
    """Every service that central offers by DIMSE."""
    routes = Routes()
    query = Query(archive, audit, ae_title=settings.ae_title, max_matches=settings.max_matches)
    retrieve = Retrieve(settings, Peers(settings.peers), archive, audit, convert)
    routes.add(C_ECHO, Echo(), None, VERIFICATION)
    routes.add(C_FIND, query, Service.QUERY, PATIENT_ROOT_FIND, STUDY_ROOT_FIND)
    routes.add(C_MOVE, retrieve, Service.RETRIEVE, PATIENT_ROOT_MOVE, STUDY_ROOT_MOVE)
    routes.add(C_GET, retrieve, Service.RETRIEVE, PATIENT_ROOT_GET, STUDY_ROOT_GET)
    routes.add(C_STORE, Store(archive, has_room), Service.STORE)
    return routes
