from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from central.audit.events import Action
from central.audit.reading import Wanted
from central.fleet.view import BoxView, DestinationView, EquipmentView
from central.identity.pairings import PendingBox
from contract.enrolment import Pairing
from tests.central.access.house import STUDY, House
from tests.central.app.house import new_key_and_request

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture
def box(house: House) -> Iterator[BoxView]:
    view = BoxView(
        gateway_id="gw-1",
        name="<script>alert(1)</script>",
        state="lost",
        since_utc=NOON,
        version="0.1.0",
        queue_objects=3,
        queue_bytes=1_000_000,
        quarantined_objects=0,
        oldest_unsent_at_utc=NOON,
        disk_total_bytes=10**11,
        disk_free_bytes=10**10,
        accepting=True,
        last_telemetry_at_utc=NOON,
        certificate_expires_at_utc=NOON,
        revoked=False,
        key_place="tpm",
        equipment=(EquipmentView("CT1", "10.0.0.7", NOON, 12, 1),),
        destinations=(DestinationView("PACS", "dimse", 3, 900, 1, NOON, "PACS cannot be reached"),),
    )
    house.boxes.append(view)
    yield view
    house.boxes.clear()


def test_the_navigation_shows_what_a_role_may_use(house: House) -> None:
    expected = {
        "admin": {"/sharing", "/tokens", "/emergency", "/fleet", "/audit"},
        "radiologist": {"/", "/sharing", "/tokens", "/fleet"},
        "doctor": {"/", "/sharing", "/tokens", "/emergency"},
        "patient": {"/", "/tokens", "/looks"},
    }
    for username, paths in expected.items():
        with house.client(username) as client:
            page = client.get("/", follow_redirects=True).text
        navigation = page.partition("<nav")[2].partition("</nav>")[0]
        pages = ("/", "/sharing", "/tokens", "/emergency", "/looks", "/fleet", "/audit")
        assert {path for path in pages if f'href="{path}"' in navigation} == paths
        assert f">{username}</span>" in page


def test_an_administrators_first_page_is_the_fleet(house: House) -> None:
    with house.client("admin") as client:
        assert client.get("/").headers["location"] == "/fleet"


def test_pages_hold_no_patient_data_and_no_inline_script(house: House) -> None:
    with house.client("radiologist") as client:
        answer = client.get("/")
        page = answer.text
        assert STUDY not in page
        assert "Doe" not in page
        assert "<script>" not in page
        assert "style=" not in page
        assert " on" not in {word[:3] for word in page.replace("\n", " ").split("<")}
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_every_script_and_style_of_the_pages_is_there(house: House) -> None:
    with house.client("admin") as client, house.client() as anonymous:
        for path in ("/fleet", "/audit"):
            page = client.get(path).text
            for part in page.split('"'):
                if part.startswith("/static/"):
                    answer = anonymous.get(part)
                    assert answer.status_code == 200, part
        assert anonymous.get("/static/dom.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path", ["/static/../service.py", "/static/%2e%2e/service.py", "/static//etc/passwd"]
)
def test_static_files_stay_in_their_folder(house: House, path: str) -> None:
    with house.client() as client:
        assert client.get(path).status_code in (303, 401, 404)


def test_the_fleet_as_data(house: House, box: BoxView) -> None:
    with house.client("radiologist") as client:
        [shown] = client.get("/api/fleet").json()["boxes"]
    assert shown["state"] == "lost"
    assert shown["queue_objects"] == 3
    assert shown["key_place"] == "tpm"
    assert shown["since_utc"] == NOON.isoformat()
    assert shown["destinations"] == [
        {
            "name": "PACS",
            "kind": "dimse",
            "waiting_objects": 3,
            "waiting_bytes": 900,
            "set_aside_objects": 1,
            "oldest_at_utc": NOON.isoformat(),
            "last_error": "PACS cannot be reached",
        }
    ]
    assert shown["equipment"] == [
        {
            "ae_title": "CT1",
            "address": "10.0.0.7",
            "last_store_at_utc": NOON.isoformat(),
            "instances": 12,
            "rejected": 1,
            "silence": "learning",
            "echo_ok": None,
        }
    ]


def test_a_pairing_string_is_for_administrators_and_recorded_before_it_is_shown(house: House) -> None:
    with house.client("admin") as client:
        answer = client.post("/api/gateways/pairing", json={"name": "ct-room-2"})
        assert answer.status_code == 201
        token = Pairing.parse(answer.json()["pairing"]).token
        assert datetime.fromisoformat(answer.json()["expires_at_utc"]) > datetime.now(UTC)
    with house.client("radiologist") as client:
        assert client.post("/api/gateways/pairing", json={"name": "x"}).status_code == 403
    refused, made = house.audit.newest(Wanted(action=Action.PAIR), limit=2)
    assert (made.event.actor, made.event.outcome, made.event.detail) == ("admin", "success", "ct-room-2")
    assert (refused.event.actor, refused.event.outcome) == ("radiologist", "refused")
    assert token not in repr(house.audit.newest(Wanted(), limit=100))


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"name": 5}', b"", b"[" * 4000, b" " * 5000])
def test_pairing_with_nonsense_is_refused(house: House, body: bytes) -> None:
    with house.client("admin") as client:
        answer = client.post("/api/gateways/pairing", content=body)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@dataclass(frozen=True)
class Rule:
    """Status by who asks; `anonymous` is what nobody in particular gets."""

    admin: int
    radiologist: int
    doctor: int
    patient: int
    anonymous: int = 303


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/", Rule(303, 200, 200, 200)),
        ("/fleet", Rule(200, 200, 403, 403)),
        ("/audit", Rule(200, 403, 403, 403)),
        ("/api/fleet", Rule(200, 200, 403, 403, 401)),
        ("/api/nothing", Rule(404, 404, 404, 404, 401)),
        ("/nothing", Rule(404, 404, 404, 404)),
    ],
)
def test_who_sees_which_page(house: House, path: str, rule: Rule) -> None:
    for username in ("admin", "radiologist", "doctor", "patient", None):
        with house.client(username) as client:
            assert client.get(path).status_code == getattr(rule, username or "anonymous"), username


def test_who_waits_is_for_administrators_and_a_decision_is_on_record_first(house: House) -> None:
    ticket = house.pairings.new_pairing("ct")
    assert ticket is not None
    waiting = house.pairings.enrol(ticket.token, new_key_and_request()[1], "10.0.0.9")
    assert isinstance(waiting, PendingBox)
    wish = {"fingerprint": waiting.fingerprint, "decision": "accepted"}
    with house.client("radiologist") as client:
        assert client.get("/api/gateways/pending").status_code == 403
        assert client.post("/api/gateways/decision", json=wish).status_code == 403
        for path in ("replacement", "revocation"):
            answer = client.post(f"/api/gateways/{path}", json={"gateway_id": "ct"})
            assert answer.status_code == 403
    with house.client("admin") as client:
        (shown,) = client.get("/api/gateways/pending").json()["boxes"]
        assert (shown["fingerprint"], shown["source_address"]) == (waiting.fingerprint, "10.0.0.9")
        assert client.post("/api/gateways/decision", json=wish).status_code == 200
        assert client.post("/api/gateways/decision", json=wish).status_code == 404
        for path in ("replacement", "revocation"):
            answer = client.post(f"/api/gateways/{path}", json={"gateway_id": "nobody"})
            assert answer.status_code == 404
    not_done, _, decided, refused = house.audit.newest(Wanted(action=Action.ENROL_DECISION), limit=4)
    assert (not_done.event.outcome, not_done.event.detail.rpartition(": ")[2]) == (
        "refused",
        "not done, answered 404",
    )
    assert (decided.event.actor, decided.event.detail) == ("admin", f"accepted: key {waiting.fingerprint}")
    assert (refused.event.actor, refused.event.outcome) == ("radiologist", "refused")


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"fingerprint": 5}', b"[" * 4000, b" " * 5000])
def test_decisions_about_nonsense_are_refused(house: House, body: bytes) -> None:
    with house.client("admin") as client:
        for path in ("decision", "replacement", "revocation"):
            assert client.post(f"/api/gateways/{path}", content=body).status_code == 400
