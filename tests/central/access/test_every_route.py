"""Every route of the people listener, as central itself wires it, for every kind of caller.

The table is compared with the router's own list: a new route without a rule here fails.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from starlette.routing import BaseRoute, Mount, Route

from central.access.doorkeeper import Doorkeeper, guest_user_id
from central.access.policy import Action
from central.access.web import COOKIE_NAME, PUBLIC, PUBLIC_FOLDERS
from central.app import Central
from central.archive.archive import Archive
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.config import Settings
from central.postgres import AUDIT_LOCK
from tests.central.access.house import (
    CHEAP,
    FACTOR_KEY,
    ORIGIN,
    PASSWORD,
    STUDY,
    people_in,
    pydicom_file,
    served,
)
from tests.central.databases import open_archive_in, open_index, open_record, put_in, storage_keys

CALLERS = (
    "anonymous",
    "admin",
    "radiologist",
    "doctor",
    "doctor-other",
    "patient",
    "patient-other",
    "guest",
    "token",
)
PAGE, DATA = 303, 401  # what an anonymous caller gets: the sign-in page, or a problem

# A status for each of CALLERS. Denied images are 404, as if they were not there.
IMAGES = (DATA, 404, 200, 200, 404, 200, 404, 200, 200)
# A guest looks, and takes nothing away; neither does the token, which a radiologist made for searching and viewing.
FILES = (DATA, 404, 200, 200, 404, 200, 404, 404, 404)
SEARCH = (DATA, 204, 200, 200, 204, 200, 204, 200, 200)  # 204: nothing is found
STORES = (DATA, 415, 415, 403, 403, 403, 403, 403, 403)  # no body: who may store is told what to send
RULES: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/healthz"): (200,) * 9,
    ("GET", "/signin"): (200,) * 9,
    ("POST", "/signin"): (400,) * 9,  # an empty form
    ("GET", "/signin/oidc"): (404,) * 9,  # without a provider
    ("GET", "/signin/oidc/callback"): (404,) * 9,
    ("GET", "/signin/oidc/out"): (404,) * 9,
    ("POST", "/signin/oidc/back-channel"): (404,) * 9,
    ("POST", "/api/signin/passkey"): (400,) * 9,  # an empty body
    ("POST", "/api/signin/passkey/options"): (404,) * 9,  # without people.public_url
    ("GET", "/account"): (PAGE, 200, 200, 200, 200, 200, 200, 403, 403),
    ("GET", "/api/account"): (DATA, 200, 200, 200, 200, 200, 200, 403, 403),
    ("POST", "/api/account/password"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("DELETE", "/api/account/sessions/{session_id}"): (DATA, 404, 404, 404, 404, 404, 404, 404, 403),
    ("POST", "/api/account/app"): (DATA, 201, 201, 201, 201, 201, 201, 403, 403),
    ("POST", "/api/account/app/confirmation"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/account/app/recovery-codes"): (DATA, 409, 409, 409, 409, 409, 409, 403, 403),
    ("DELETE", "/api/account/app"): (DATA, 204, 204, 204, 204, 204, 204, 403, 403),
    ("POST", "/api/account/passkeys"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/account/passkeys/options"): (DATA, 409, 409, 409, 409, 409, 409, 403, 403),
    ("DELETE", "/api/account/passkeys/{passkey_id}"): (DATA, 404, 404, 404, 404, 404, 404, 403, 403),
    ("POST", "/api/factor-resets"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # the rest: test_account
    ("POST", "/signout"): (DATA, 303, 303, 303, 303, 303, 303, 303, 403),
    ("POST", "/api/auth/token"): (400,) * 9,
    ("DELETE", "/api/me/sessions"): (DATA, 204, 204, 204, 204, 204, 204, 204, 403),
    ("GET", "/api/me"): (DATA, 200, 200, 200, 200, 200, 200, 200, 200),
    ("GET", "/"): (PAGE, 303, 200, 200, 200, 200, 200, 200, 403),
    ("GET", "/guest"): (200,) * 9,
    ("POST", "/api/guest/session"): (400,) * 9,  # an empty body
    ("GET", "/api/guest-links"): (DATA, 200, 200, 200, 200, 403, 403, 403, 403),
    ("POST", "/api/guest-links"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("DELETE", "/api/guest-links/{link_id}"): (DATA, 404, 404, 404, 404, 404, 404, 404, 403),
    ("GET", "/sharing"): (PAGE, 200, 200, 200, 200, 403, 403, 403, 403),
    ("GET", "/api/study-rules"): (DATA, 200, 200, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/study-rules"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("DELETE", "/api/study-rules/{rule_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/consent-withdrawals"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/consent-withdrawals"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("DELETE", "/api/consent-withdrawals/{withdrawal_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/access"): (PAGE, 200, 403, 403, 403, 403, 403, 403, 403),
    # The rest: test_study_onlookers.
    ("POST", "/api/study-access"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/accounts"): (PAGE, 200, 403, 403, 403, 403, 403, 403, 403),
    # The rest: test_accounts.
    ("POST", "/api/accounts/search"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/accounts/sessions"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/accounts/sign-out"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/accounts/block"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/accounts/unblock"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/accounts/places"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/emergency"): (PAGE, 200, 403, 200, 200, 403, 403, 403, 403),
    ("GET", "/api/emergencies"): (DATA, 200, 403, 200, 200, 403, 403, 403, 403),
    ("POST", "/api/emergencies"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("GET", "/api/emergencies/unreviewed"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/emergencies/{opening_id}/review"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/api/assignments"): (DATA, 200, 200, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/assignments"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("DELETE", "/api/assignments/{assignment_id}"): (DATA, 404, 404, 403, 403, 403, 403, 403, 403),
    ("GET", "/station"): (PAGE, 403, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/station"): (DATA, 403, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/institutions"): (PAGE, 200, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/institutions"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/institutions"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/api/gateways/institutions"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    # The rest: test_gateway_moves.
    ("POST", "/api/gateways/institution"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/api/agreements"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/agreements"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("DELETE", "/api/agreements/{agreement_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/erasing"): (PAGE, 200, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/erasures"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/erasures/waiting"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/erasures"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body; the rest:
    ("POST", "/api/erasures/preview"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # test_erasures
    ("POST", "/api/erasures/{request_id}/confirmation"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("DELETE", "/api/erasures/{request_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/readmissions"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("DELETE", "/api/readmissions/{request_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/readmissions/{request_id}/confirmation"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/legal-holds"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/legal-holds/end"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/tokens"): (PAGE, 200, 200, 200, 200, 200, 200, 403, 403),
    ("GET", "/api/tokens"): (DATA, 200, 200, 200, 200, 200, 200, 403, 403),
    ("POST", "/api/tokens"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("DELETE", "/api/tokens/{token_id}"): (DATA, 404, 404, 404, 404, 404, 404, 404, 403),
    ("GET", "/fleet"): (PAGE, 200, 200, 403, 403, 403, 403, 403, 403),
    ("GET", "/audit"): (PAGE, 200, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/fleet"): (DATA, 200, 200, 403, 403, 403, 403, 403, 403),
    ("GET", "/looks"): (PAGE, 403, 403, 403, 403, 200, 200, 403, 403),
    ("GET", "/api/looks"): (DATA, 403, 403, 403, 403, 200, 200, 403, 403),  # of the own studies: test_looks
    # No form; the rest: test_looks.
    ("POST", "/api/audit/records"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/audit/records.csv"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/audit/records.ndjson"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/audit/records.fhir"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/gateways/pairing"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/gateways/command"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),  # for no box
    ("POST", "/api/gateways/settings"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("GET", "/api/gateways/support/{gateway_id}/{command_id}"): (
        DATA,
        404,
        403,
        403,
        403,
        403,
        403,
        403,
        403,
    ),
    ("GET", "/api/gateways/pending"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("POST", "/api/gateways/decision"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),  # an empty body
    ("POST", "/api/gateways/revocation"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("POST", "/api/gateways/replacement"): (DATA, 400, 400, 400, 400, 400, 400, 400, 403),
    ("GET", "/api/worklist"): (DATA, 200, 403, 403, 403, 403, 403, 403, 403),
    ("PUT", "/api/worklist/{item_id}"): (DATA, 400, 403, 403, 403, 403, 403, 403, 403),  # an empty body
    ("DELETE", "/api/worklist/{item_id}"): (DATA, 404, 403, 403, 403, 403, 403, 403, 403),
    ("OPTIONS", "/dicom-web/"): (DATA, 200, 200, 200, 200, 200, 200, 200, 200),
    ("GET", "/dicom-web/openapi.json"): (DATA, 200, 200, 200, 200, 200, 200, 200, 200),
    ("GET", "/dicom-web/wado"): (DATA, 400, 400, 400, 400, 400, 400, 400, 400),  # the rest: test_wado_uri
    ("POST", "/dicom-web/studies"): STORES,
    ("POST", "/dicom-web/studies/{study}"): STORES,
    ("GET", "/dicom-web/studies"): SEARCH,
    ("GET", "/dicom-web/series"): SEARCH,
    ("GET", "/dicom-web/instances"): SEARCH,
    ("GET", "/dicom-web/studies/{study}/series"): SEARCH,
    ("GET", "/dicom-web/studies/{study}/instances"): SEARCH,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances"): SEARCH,
    ("GET", "/dicom-web/studies/{study}"): FILES,
    ("GET", "/dicom-web/studies/{study}/metadata"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}"): FILES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/metadata"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/rendered"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/thumbnail"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}"): FILES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/metadata"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/rendered"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/thumbnail"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/bulkdata"): FILES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/bulkdata"): FILES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/bulkdata"): FILES,
    ("GET", "/dicom-web/studies/{study}/rendered"): IMAGES,
    ("GET", "/dicom-web/studies/{study}/thumbnail"): IMAGES,
    (
        "GET",
        "/dicom-web/studies/{study}/series/{series}/instances/{instance}/bulkdata/{element:path}",
    ): IMAGES,
    ("GET", "/dicom-web/studies/{study}/series/{series}/instances/{instance}/frames/{frames}"): IMAGES,
    (
        "GET",
        "/dicom-web/studies/{study}/series/{series}/instances/{instance}/frames/{frame}/thumbnail",
    ): IMAGES,
    (
        "GET",
        "/dicom-web/studies/{study}/series/{series}/instances/{instance}/frames/{frames}/rendered",
    ): IMAGES,
}
NOBODYS = (IMAGES, FILES)  # what somebody gets who has nothing to do with the study: 404
LIKE = {
    "technician": "guest",
    "technician-other": "guest",
    "service": "guest",
    # Of another institution, where they are what their likes are here. The study is not there for them.
    "north-admin": "admin",
    "north-radiologist": "radiologist",
    "north-doctor": "doctor",
    "north-guest": "guest",
}
# Whoever has an account has the page for it.
OWN_ACCOUNT = {
    (method, path): rule[CALLERS.index("doctor")]
    for (method, path), rule in RULES.items()
    if path.startswith(("/account", "/api/account"))
}
STATION = {
    **OWN_ACCOUNT,
    ("GET", "/station"): 200,
    ("GET", "/api/station"): 200,
    ("GET", "/fleet"): 200,
    ("GET", "/api/fleet"): 200,
    ("GET", "/api/worklist"): 200,
}
EXCEPT: dict[str, dict[tuple[str, str], int]] = {
    "technician": STATION,
    "technician-other": STATION,
    "service": {
        **OWN_ACCOUNT,
        ("GET", "/api/worklist"): 200,
        ("PUT", "/api/worklist/{item_id}"): 400,
        ("DELETE", "/api/worklist/{item_id}"): 404,
        ("POST", "/dicom-web/studies"): 415,
        ("POST", "/dicom-web/studies/{study}"): 415,
    },
    "north-admin": {("DELETE", "/api/agreements/{agreement_id}"): 403},  # made by who is of the whole central
}
EVERYBODY = (*CALLERS, *LIKE)
SEES_THE_STUDY = {"radiologist", "doctor", "patient", "guest", "token", "technician"}


def expected_of(caller: str, method: str, path: str) -> int:
    rule = RULES[method, path]
    if caller in CALLERS:
        return rule[CALLERS.index(caller)]
    if rule is SEARCH:
        return 200 if caller in SEES_THE_STUDY else 204
    if rule in NOBODYS and not (caller in SEES_THE_STUDY and rule is IMAGES):
        return 404
    return EXCEPT.get(caller, {}).get((method, path), rule[CALLERS.index(LIKE[caller])])


@dataclass(frozen=True)
class Running:
    base_url: str
    routes: list[BaseRoute]
    doorkeeper: Doorkeeper
    tokens: dict[str, str]
    client: httpx.Client
    audit: Audit

    def ask(self, caller: str, method: str, path: str) -> httpx.Response:
        token = self.tokens.get(caller)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return self.client.request(method, path, headers=headers)

    def last_record(self) -> tuple[str, str, str]:
        """Outcome, action and detail."""
        (row,) = self.audit.newest(Wanted(), limit=1)
        return row.event.outcome, row.event.action.value, row.event.detail


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("central")
    settings = Settings.model_validate(
        {
            "storage": storage_keys(root),
            "people": {"port": 0},
            "gateways": {"port": 0},
            "dicom": {"port": 0},
        }
    )
    with ExitStack() as closing:
        opened = Central.open(settings, closing)
        db = open_index(root)
        closing.callback(db.close)
        doorkeeper = Doorkeeper.open(db, hashes=CHEAP, factor_key=FACTOR_KEY)
        people_in(doorkeeper.accounts)
        put(open_archive_in(root, db))
        base_url = closing.enter_context(served(opened.people.app))
        client = closing.enter_context(httpx.Client(base_url=base_url, timeout=60))
        routes = opened.people.app.routes  # type: ignore[attr-defined]
        audit = open_record(root)
        closing.callback(audit.close)
        yield Running(base_url, routes, doorkeeper, tokens_of(doorkeeper), client, audit)


def tokens_of(doorkeeper: Doorkeeper) -> dict[str, str]:
    """A bearer token for each of CALLERS but nobody."""
    accounts, tokens = doorkeeper.accounts, {}
    for username in {*EVERYBODY[1:]} - {"guest", "token", "north-guest"}:
        admitted = accounts.passwords.verify(username, PASSWORD, "127.0.0.1")
        assert admitted is not None
        tokens[username] = accounts.sessions.start(admitted.principal, "bearer", 3600)
    for name, username in (("guest", "doctor"), ("north-guest", "north-doctor")):
        host = accounts.passwords.verify(username, PASSWORD, "127.0.0.1")
        assert host is not None
        link, _ = doorkeeper.guests.make(STUDY, host.principal.user_id)
        guest = doorkeeper.principal(guest_user_id(link.link_id))
        assert guest is not None
        tokens[name] = accounts.sessions.start(guest, "bearer", 3600)
    owner = accounts.passwords.verify("radiologist", PASSWORD, "127.0.0.1")
    assert owner is not None
    looks = frozenset({Action.SEARCH, Action.VIEW})
    _, tokens["token"] = doorkeeper.tokens.make(owner.principal.user_id, "a script", looks, 1)
    return tokens


def put(archive: Archive) -> None:
    put_in(archive, pydicom_file("CT_small.dcm"), ORIGIN)


@cache
def uids() -> dict[str, str]:
    dataset = dcmread(BytesIO(pydicom_file("CT_small.dcm")))
    return {
        "study": STUDY,
        "series": dataset.SeriesInstanceUID,
        "instance": dataset.SOPInstanceUID,
        "frames": "1",
        "frame": "1",
        "element": "7FE00010",
        "item_id": "RIS-1",
        "gateway_id": "gw-1",
        "command_id": "0" * 32,
        "rule_id": "0" * 32,
        "link_id": "0" * 16,
        "token_id": "0" * 16,
        "session_id": "0" * 16,
        "passkey_id": "0" * 16,
        "opening_id": "0" * 32,
        "withdrawal_id": "0" * 32,
        "assignment_id": "0" * 32,
        "agreement_id": "0" * 32,
        "request_id": "0" * 32,
    }


def filled(path: str) -> str:
    return path.replace(":path}", "}").format(**uids())


def listed(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route; folders of public files count as public by the middleware's own list."""
    for route in routes:
        if isinstance(route, Mount):
            if (prefix + route.path + "/") in PUBLIC_FOLDERS:
                continue
            assert route.routes, f"a mounted application whose routes cannot be seen: {route.path}"
            yield from listed(route.routes, prefix + route.path)
        else:
            assert isinstance(route, Route), route
            if (prefix + route.path).startswith(PUBLIC_FOLDERS):
                assert route.methods <= {"GET", "HEAD"}
                continue
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, prefix + route.path


def test_every_route_has_a_rule(central: Running) -> None:
    found = set(listed(central.routes))
    viewer = {(method, path) for method, path in found if path.rstrip("/") == "/viewer"}
    assert found - viewer == set(RULES)


@pytest.mark.parametrize(("method", "path"), list(RULES))
def test_who_gets_what(central: Running, method: str, path: str) -> None:
    for caller in EVERYBODY:
        expected = expected_of(caller, method, path)
        got = central.ask(caller, method, filled(path))
        assert got.status_code == expected, f"{caller}: {got.text[:200]}"
        if expected in (DATA, 403, 404) and path.startswith(("/api", "/dicom-web")):
            assert got.headers["content-type"] == "application/problem+json"
            assert STUDY not in got.text
        if expected == 403:  # also where the route itself says nothing, like a page
            assert central.last_record()[0] == "refused", caller
        if caller == "anonymous" and expected == DATA:
            assert got.headers["www-authenticate"].startswith("Bearer")
    if path == "/api/me/sessions":  # which ended them all
        assert central.ask("doctor", "GET", "/api/me").status_code == 401
        central.tokens.update(tokens_of(central.doorkeeper))


@pytest.mark.parametrize("path", [path for (_, path), rule in RULES.items() if rule is SEARCH])
def test_a_search_shows_what_may_be_seen(central: Running, path: str) -> None:
    for caller in EVERYBODY[1:]:
        found = central.ask(caller, "GET", filled(path))
        assert len(found.json() if found.content else []) == (1 if caller in SEES_THE_STUDY else 0), caller


def test_only_public_routes_answer_nobody(central: Running) -> None:
    anonymous = {(method, path) for (method, path), rule in RULES.items() if rule[0] not in (PAGE, DATA)}
    assert anonymous == {(method, path) for path, methods in PUBLIC.items() for method in methods - {"HEAD"}}


@pytest.mark.parametrize(
    "path",
    [
        "/dicom-web",
        "/dicom-web/",
        "//dicom-web/studies",
        "/static/../dicom-web/studies",
        "/static/..%2fdicom-web/studies",
        "/viewer/../dicom-web/studies",
        "/signin/../dicom-web/studies",
        "/healthz%3f/../dicom-web/studies",
        "/DICOM-WEB/studies",
        "/dicom-web/studies%00",
        "/%64icom-web/studies",
    ],
)
def test_no_spelling_of_a_path_gets_past(central: Running, path: str) -> None:
    """Sent raw, since clients tidy paths up. Nobody is answered 200, or anything of the study."""
    host, port = central.base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.split()[1] in (b"303", b"307", b"400", b"401", b"404"), answer[:200]
    assert STUDY.encode() not in answer


def test_what_is_refused_at_the_door_is_on_record(central: Running) -> None:
    assert central.ask("doctor", "GET", "/audit").status_code == 403
    assert central.last_record() == ("refused", "request-refused", "GET /audit")
    assert central.ask("token", "POST", "/api/erasures/preview").status_code == 403
    outcome, action, detail = central.last_record()
    assert (outcome, action) == ("refused", "request-refused")
    assert detail.startswith("API token ")
    assert detail.endswith(": POST /api/erasures/preview")
    accounts = central.doorkeeper.accounts
    doctor = accounts.passwords.verify("doctor", PASSWORD, "127.0.0.1")
    assert doctor is not None
    cookie = accounts.sessions.start(doctor.principal, "cookie", 3600)
    forged = {"Cookie": f"{COOKIE_NAME}={cookie}", "Origin": "https://elsewhere.example"}
    assert central.client.post("/signout", headers=forged).status_code == 403
    assert central.last_record() == ("refused", "request-refused", "POST /signout")


def test_what_was_to_be_done_and_could_not_be_is_on_record_as_refused(central: Running) -> None:
    wish = {"label": "x", "actions": ["search"], "days": 4000}
    headers = {"Authorization": f"Bearer {central.tokens['doctor']}"}
    assert central.client.post("/api/tokens", json=wish, headers=headers).status_code == 400
    assert central.last_record() == (
        "refused",
        "token-change",
        "make for 4000 days to search: x: not done, answered 400",
    )


def test_nul_which_postgresql_refuses_gets_nowhere(central: Running) -> None:
    asked = {"Authorization": f"Bearer {central.tokens['admin']}"}
    assert central.client.delete("/api/tokens/0%00", headers=asked).status_code == 404
    wishes: tuple[dict[str, object], ...] = (
        {"patient_id": "a\0"},
        {"patient_id": "a", "exceptions": ["\0"]},
        {"patient_id": "a", "\0": 1},
    )
    for wish in wishes:
        refused = central.client.post("/api/consent-withdrawals", json=wish, headers=asked)
        assert (refused.status_code, refused.json()["detail"].startswith("send ")) == (400, True)
    as_typed = {"patient_id": r"a\u0000", "exceptions": ["nobody-of-that-name"]}  # a backslash and a u
    refused = central.client.post("/api/consent-withdrawals", json=as_typed, headers=asked)
    assert refused.json()["detail"] == "there is no user nobody-of-that-name"


def test_no_page_of_another_origin_is_let_in_unless_named(central: Running) -> None:
    asked = {"Origin": "https://ohif.example", "Access-Control-Request-Method": "GET"}
    with httpx.Client(headers=asked) as client:
        answer = client.options(f"{central.base_url}/dicom-web/studies")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/dicom-web/studies/1%0A2", "/dicom-web/nothing", "/api/nothing", "/nothing"]
)
def test_a_path_without_a_route_is_a_problem(central: Running, path: str) -> None:
    got = central.ask("admin", "GET", path)
    assert (got.status_code, got.headers["content-type"]) == (404, "application/problem+json")
    wrong = central.ask("admin", "PATCH", "/api/study-rules")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")


def test_a_revoked_token_is_nobody(central: Running, tmp_path: Path) -> None:
    assert central.ask("nobody", "GET", "/api/me").status_code == 401


@pytest.mark.parametrize(
    ("method", "path"), [route for route, rule in RULES.items() if "{study" in route[1] and rule[1] == 404]
)
def test_what_is_not_theirs_takes_the_same_way_as_what_is_not_there(
    central: Running, method: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not only the same answer: the database is asked the same questions, so that time tells nothing either."""
    absent = "1.2.826.0.1.3680043.8.498.9"

    def way(caller: str, study: str) -> tuple[object, ...]:
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "peewee"):
            got = central.ask(caller, method, path.replace(":path}", "}").format(**uids() | {"study": study}))
        asked = [
            record.msg
            for record in caplog.records
            # Not the scrub's, and what else is done behind the answers.
            if record.name == "peewee" and str(record.threadName).startswith("AnyIO")
        ]
        # The record is written for either, by this thread or by its own, and now and then signed behind it.
        questions = [
            sql for sql, values in asked if '"audit_' not in sql and tuple(values or ()) != (AUDIT_LOCK,)
        ]
        assert questions
        headers = {name: value for name, value in got.headers.items() if name != "date"}
        return got.status_code, got.text.replace(study, "…"), headers, questions

    for caller in {*EVERYBODY[1:]} - SEES_THE_STUDY:
        assert way(caller, STUDY) == way(caller, absent), caller
