"""What people and their programs reach: sign-on, portal, DICOMweb and viewer, behind one check of who calls.

Wiring only: which room gets what.
"""

from __future__ import annotations

from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import central.viewer
from central.access.claims import ClaimRules
from central.access.cross_origin import CrossOrigin
from central.access.oidc import Client, Provider
from central.access.oidc_settings import OidcProvider, OidcSettings
from central.access.onlookers import HousePeer
from central.access.policy import Action, Role
from central.access.problems import router_problem
from central.access.sign_in import sign_in_routes
from central.access.web import RequireSignIn
from central.archive.archive import Archive
from central.archive.erasure_requests import ErasureRequests
from central.archive.readmissions import Readmissions
from central.audit.delivery import SyslogDelivery
from central.dicomweb.deposit import DepositLimits
from central.dicomweb.render import Renderer
from central.dicomweb.service import at_once
from central.dicomweb.service import routes as dicomweb_routes
from central.dimse.peers import Peer
from central.dimse.settings import Service
from central.errors import StartError
from central.fleet.opening import FleetRooms
from central.fleet.support import SupportBundles
from central.foundation import Foundation, has_room
from central.portal.accounts import routes as accounts_routes
from central.portal.assignments import routes as assignment_routes
from central.portal.box_commands import routes as box_command_routes
from central.portal.emergencies import EmergencyTerms
from central.portal.emergencies import routes as emergency_routes
from central.portal.enrolments import routes as enrolment_routes
from central.portal.erasures import routes as erasure_routes
from central.portal.gateway_moves import routes as gateway_move_routes
from central.portal.guests import routes as guest_routes
from central.portal.institutions import routes as institution_routes
from central.portal.looks import routes as looks_routes
from central.portal.readmissions import routes as readmission_routes
from central.portal.service import routes as portal_routes
from central.portal.sign_in import at_provider
from central.portal.single_sign_on import SignOn
from central.portal.station import routes as station_routes
from central.portal.study_access import routes as study_access_routes
from central.portal.study_onlookers import routes as study_onlooker_routes
from central.portal.tokens import routes as token_routes
from central.revocation import revoke
from central.viewer.delivery import routes as viewer_routes
from central.workflow.ordering import Ordering
from central.workflow.people_routes import people_routes as worklist_routes
from central.workflow.worklist import WorklistStore
from contract.enrolment import Pairing


def people_app(
    foundation: Foundation,
    archive: Archive,
    rooms: FleetRooms,
    renderer: Renderer,
    gateway_port: int,
    syslog: SyslogDelivery | None,
) -> Starlette:
    """The application of the people's listener."""
    accounts, audit, sessions = foundation.accounts, foundation.audit, foundation.settings.sessions
    gateways_settings, access = foundation.settings.gateways, foundation.settings.access

    worklist = WorklistStore(foundation.db)
    erasure_requests = ErasureRequests(foundation.db, archive.erasures)
    readmissions = Readmissions(foundation.db, archive.erasures)

    def pair(name: str, institution: str | None, replaces: str | None = None) -> Pairing | None:
        ticket = foundation.pairings.new_pairing(name, replaces=replaces, institution=institution)
        if ticket is None:
            return None
        return Pairing(
            gateways_settings.called_host, gateway_port, foundation.identity.ca_fingerprint, ticket.token
        )

    def pair_new(name: str, institution: str | None) -> Pairing:
        pairing = pair(name, institution)
        assert pairing is not None, "None is for replacements alone"
        return pairing

    async def health(_request: Request) -> Response:
        audit_messages = "none" if syslog is None else syslog.word()
        faults = await run_in_threadpool(archive.faults.count)
        return JSONResponse(
            {
                "status": "ok",
                "broker": rooms.fleet.broker_state(),
                "audit_messages": audit_messages,
                "objects": "faulty" if faults else "ok",
            }
        )

    dicomweb = dicomweb_routes(
        archive,
        audit,
        renderer,
        DepositLimits(foundation.settings.limits.max_object_bytes, has_room(foundation.settings.storage)),
    )
    return Starlette(
        routes=[
            # The first, because it is asked the most, and routes are looked through one after the other.
            *dicomweb,
            Route("/healthz", health, methods=["GET"]),
            *sign_in_routes(accounts, audit, sessions.token_life_s),
            *portal_routes(
                foundation.doorkeeper,
                audit,
                rooms.fleet.boxes,
                pair_new,
                sessions.browser_life_s,
                sign_ons_of(foundation.settings.oidc),
            ),
            *looks_routes(
                archive.reading,
                audit,
                foundation.settings.audit.institution,
                lambda: vars(syslog.state()) if syslog else None,
                foundation.identity.central_id,
            ),
            *enrolment_routes(
                audit,
                foundation.pairings,
                foundation.gateways.is_known,
                foundation.gateways.institution_of,
                lambda gateway_id: pair("", None, gateway_id),
                lambda gateway_id: revoke(foundation, gateway_id),
            ),
            *study_access_routes(foundation.doorkeeper, archive.reading, audit),
            *study_onlooker_routes(
                foundation.doorkeeper,
                archive.reading,
                audit,
                erasure_requests.extent,
                lambda: peers_of(foundation),
            ),
            *accounts_routes(foundation.doorkeeper, audit, foundation.gateways.is_known),
            *emergency_routes(
                foundation.doorkeeper,
                archive.reading,
                audit,
                EmergencyTerms(access.emergency, access.emergency_minutes * 60),
            ),
            *assignment_routes(foundation.doorkeeper, archive.reading, audit),
            *token_routes(foundation.doorkeeper, audit),
            *guest_routes(foundation.doorkeeper, archive.reading, audit, sessions.browser_life_s),
            *box_command_routes(
                audit,
                is_admitted=foundation.gateways.is_admitted,
                institution_of=foundation.gateways.institution_of,
                command=rooms.correspondence.command,
                desire=rooms.correspondence.desire,
                bundle=SupportBundles(foundation.settings.storage.support_folder).find,
            ),
            *worklist_routes(worklist, audit, Ordering(foundation.doorkeeper.assignments, archive.receiving)),
            *station_routes(worklist.entries, archive.reading, audit),
            *institution_routes(foundation.doorkeeper, audit),
            *gateway_move_routes(foundation.doorkeeper.institutions, foundation.gateways, audit),
            *erasure_routes(erasure_requests, readmissions, archive, audit),
            *readmission_routes(readmissions, archive.erasures, audit),
            *viewer_routes(Path(central.viewer.__file__).parent / "dist"),
        ],
        middleware=[
            Middleware(CrossOrigin, origins=foundation.settings.people.allowed_origins),
            Middleware(
                RequireSignIn, doorkeeper=foundation.doorkeeper, audit=audit, at_once=at_once(dicomweb)
            ),
        ],
        exception_handlers={HTTPException: router_problem},
    )


def peers_of(foundation: Foundation) -> list[HousePeer]:
    """The DICOM peers of the settings, and what each may ask for of studies."""
    asks = {Service.QUERY: Action.SEARCH, Service.RETRIEVE: Action.EXPORT}
    opened_to = foundation.doorkeeper.institutions.opened_to
    return [
        HousePeer(
            Peer(one.ae_title, "", one, opened_to).principal,
            frozenset(asks[service] for service in one.may if service in asks),
        )
        for one in foundation.settings.dicom.peers
    ]


def sign_ons_of(oidc: OidcSettings) -> list[SignOn]:
    """How people sign on at each provider of the house."""
    first = [sign_on_of(oidc, "")] if oidc.issuer else []
    return first + [sign_on_of(one, one.key) for one in oidc.others]


def sign_on_of(oidc: OidcProvider, key: str) -> SignOn:
    """How people sign on at one of them. StartError: its secret cannot be read."""
    try:
        secret = oidc.client_secret.read_text().strip() if oidc.client_secret else ""
    except OSError as error:
        raise StartError(f"oidc.client_secret {oidc.client_secret}: {error.strerror}") from error
    public_url = oidc.public_url.rstrip("/")
    redirect_uri = public_url + at_provider("/signin/oidc/callback", key)
    values = {
        Role.ADMIN: oidc.admin,
        Role.RADIOLOGIST: oidc.radiologist,
        Role.DOCTOR: oidc.doctor,
        Role.TECHNICIAN: oidc.technician,
        Role.PATIENT: oidc.patient,
    }
    rules = ClaimRules(
        oidc.role_claim,
        {role: frozenset(said) for role, said in values.items()},
        oidc.physician_name_claim,
        oidc.patient_id_claim,
        oidc.issuer_of_patient_id,
        oidc.department_claim,
        oidc.institution,
    )
    client = Client(oidc.issuer, oidc.client_id, secret, redirect_uri, oidc.scopes)
    return SignOn(key, Provider(client), rules, oidc.name, public_url)
