"""Erasing by two people, from the look at what it would take to the word that is left; and what a legal hold keeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from central.access.policy import Role
from central.archive import second_person
from central.archive.indexing import ObjectOrigin
from central.audit.events import Action
from central.audit.reading import Wanted
from tests.browser import Browser
from tests.central.access.house import (
    ORIGIN,
    OTHER_STUDY,
    PASSWORD,
    STUDY,
    House,
    house_of_two_patients,
    pydicom_file,
)
from tests.central.databases import contents_in
from tests.central.portal.test_in_browser import READY, sign_in

WHY = "asked for by the patient"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_of_two_patients(tmp_path) as opened:
        opened.accounts.create_user("admin-two", PASSWORD, Role.ADMIN)
        yield opened


def wish(**changes: object) -> dict[str, object]:
    return {"study_instance_uid": STUDY, "instances": 1, "reason": WHY, **changes}


def ask(client: httpx.Client, **changes: object) -> str:
    answer = client.post("/api/erasures", json=wish(**changes))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["request_id"])


def confirm(client: httpx.Client, request_id: str, instances: int = 1) -> httpx.Response:
    return client.post(f"/api/erasures/{request_id}/confirmation", json={"instances": instances})


def listed(client: httpx.Client, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/erasures").json()[kind]
    return found


def recorded(house: House, *actions: Action) -> list[tuple[str, str, str | None, str]]:
    wanted = Wanted(actions=actions or (Action.ERASE_REQUEST, Action.ERASE))
    return [
        (row.event.actor, row.event.outcome, row.event.study_instance_uid, row.event.detail)
        for row in reversed(house.audit.newest(wanted, limit=50))
    ]


def test_what_it_would_take_is_shown_without_anything_of_the_patient(
    house: House, admin: httpx.Client
) -> None:
    answer = admin.post("/api/erasures/preview", json={"study_instance_uid": STUDY})
    assert answer.json() == {
        "study_instance_uid": STUDY,
        "institution": "default",
        "study_date": "20260102",
        "modalities": ["CT"],
        "series": 1,
        "instances": 1,
        "hold": None,
    }
    assert recorded(house, Action.SEARCH) == [("admin", "success", STUDY, "what erasing would take")]


def test_one_asks_and_another_confirms(house: House, admin: httpx.Client, second: httpx.Client) -> None:
    request_id = ask(admin)
    assert admin.get("/api/erasures/waiting").json() == {"waiting": 0}
    assert second.get("/api/erasures/waiting").json() == {"waiting": 1}
    (waiting,) = listed(second, "waiting")
    assert (waiting["asked_by"], waiting["reason"], waiting["is_mine"]) == ("admin", WHY, False)
    assert "asked_by_id" not in waiting

    own = confirm(admin, request_id)
    assert (own.status_code, "somebody else confirms it" in own.json()["detail"]) == (409, True)
    assert house.archive.reading.facts(STUDY) is not None
    assert confirm(second, request_id).json() == {"objects": 1}
    assert house.archive.reading.facts(STUDY) is None
    assert house.archive.reading.facts(OTHER_STUDY) is not None
    assert confirm(second, request_id).status_code == 404

    (erased,) = listed(admin, "erased")
    assert (erased["study_instance_uid"], erased["erased_by"]) == (STUDY, "admin, admin-two")
    assert listed(admin, "waiting") == []
    assert admin.post("/api/erasures/preview", json={"study_instance_uid": STUDY}).status_code == 404
    assert [row[:3] for row in recorded(house)] == [
        ("admin", "success", STUDY),
        ("admin", "refused", STUDY),
        ("admin-two", "success", STUDY),
        ("admin-two", "refused", None),
    ]
    assert recorded(house)[0][3] == f"asked: 1 instances: {WHY}"
    # What a restore from an older backup has to erase again is told from what was only asked for.
    tried, erased_then = recorded(house, Action.ERASE)
    assert (tried[0], tried[1]) == ("admin", "refused")
    assert erased_then == ("admin-two", "success", STUDY, f"confirmed: 1 instances, asked by admin: {WHY}")


def test_the_objects_leave_the_store(house: House, admin: httpx.Client, second: httpx.Client) -> None:
    assert len(contents_in(house.root)) == 2
    confirm(second, ask(admin))
    # The answer has come; the connection serves the next request once what follows it is done.
    second.get("/api/erasures/waiting")
    assert len(contents_in(house.root)) == 1


def test_until_it_is_confirmed_it_can_be_taken_back(
    house: House, admin: httpx.Client, second: httpx.Client
) -> None:
    request_id = ask(admin)
    again = second.post("/api/erasures", json=wish())
    assert (again.status_code, "asked for this already" in again.json()["detail"]) == (409, True)
    assert [client.delete(f"/api/erasures/{request_id}").status_code for client in (admin, second)] == [
        204,
        404,
    ]
    assert confirm(second, request_id).status_code == 404
    assert house.archive.reading.facts(STUDY) is not None
    assert recorded(house)[2] == (
        "admin", "success", STUDY, f"taken back: asked by admin: {WHY}",
    )  # fmt: skip
    by_another = ask(admin)
    assert second.delete(f"/api/erasures/{by_another}").status_code == 204, "that is how one says no"


def test_a_hold_keeps_a_study_and_is_said_in_words(
    house: House, admin: httpx.Client, second: httpx.Client
) -> None:
    request_id = ask(admin)
    held = {"study_instance_uid": STUDY, "reason": "court 17"}
    assert second.post("/api/legal-holds", json=held).status_code == 204
    assert second.post("/api/legal-holds", json=held).status_code == 409
    refused = confirm(second, request_id)
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "the study is under legal hold, set by admin-two: court 17",
    )
    assert recorded(house)[-1][1:] == (
        "refused",
        STUDY,
        "the study is under legal hold, set by admin-two: court 17; "
        f"confirmed: 1 instances, asked by admin: {WHY}",
    )
    (waiting,) = listed(admin, "waiting")
    assert waiting["is_held"] is True
    (hold,) = listed(admin, "holds")
    assert (hold["set_by"], hold["reason"]) == ("admin-two", "court 17")
    shown = admin.post("/api/erasures/preview", json={"study_instance_uid": STUDY}).json()
    assert shown["hold"]["reason"] == "court 17"
    assert admin.delete(f"/api/erasures/{request_id}").status_code == 204
    assert admin.post("/api/erasures", json=wish()).status_code == 409

    assert admin.post("/api/legal-holds/end", json={**held, "reason": "ruled"}).status_code == 204
    assert admin.post("/api/legal-holds/end", json={**held, "reason": "ruled"}).status_code == 404
    assert confirm(second, ask(admin)).status_code == 200
    assert [row[1:] for row in recorded(house, Action.LEGAL_HOLD)][::3] == [
        ("success", STUDY, "set: court 17"),
        ("success", STUDY, "ended: ruled"),
    ]


def test_what_is_erased_is_what_both_saw(house: House, admin: httpx.Client, second: httpx.Client) -> None:
    assert admin.post("/api/erasures", json=wish(instances=2)).status_code == 409
    request_id = ask(admin)
    assert confirm(second, request_id, instances=7).status_code == 409
    house.put(pydicom_file("CT_small.dcm", SOPInstanceUID="1.2.3.4.5"))
    late = confirm(second, request_id, instances=1)
    assert (late.status_code, "has got or lost instances" in late.json()["detail"]) == (409, True)
    assert confirm(second, request_id, instances=2).status_code == 409
    assert house.archive.reading.facts(STUDY) is not None
    assert admin.delete(f"/api/erasures/{request_id}").status_code == 204
    request_id = ask(admin, instances=2)
    house.put(
        pydicom_file("CT_small.dcm", SOPInstanceUID="1.2.3.4.5", StudyID="another content under its UID")
    )
    assert confirm(second, request_id, instances=2).status_code == 409
    assert admin.delete(f"/api/erasures/{request_id}").status_code == 204
    assert confirm(second, ask(admin, instances=3), instances=3).json() == {"objects": 3}


def test_a_request_ends_by_itself(
    house: House, admin: httpx.Client, second: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id = ask(admin)
    with monkeypatch.context() as later:
        later.setattr(second_person, "LIFE_S", 0)
        assert listed(second, "waiting") == []
        assert confirm(second, request_id).status_code == 404
        ask(admin)  # which takes the place of the old one
    (waiting,) = listed(second, "waiting")
    assert waiting["request_id"] != request_id


def test_another_institutions_studies_are_not_there(house: House, admin: httpx.Client) -> None:
    request_id = ask(admin)
    with house.client("north-admin") as north:
        for path in ("/api/erasures/preview", "/api/erasures", "/api/legal-holds", "/api/legal-holds/end"):
            for named in ({}, {"institution": "default"}):
                assert north.post(path, json=wish(**named)).status_code == 404, path
        assert confirm(north, request_id).status_code == 404
        assert north.delete(f"/api/erasures/{request_id}").status_code == 404
        assert north.get("/api/erasures").json() == {
            "waiting": [],
            "holds": [],
            "erased": [],
            "readmissions": [],
        }
        house.put(
            pydicom_file("CT_small.dcm"),
            ObjectOrigin("gw-north", "0" * 32, ORIGIN.received_at_utc, "north"),
        )
        several = admin.post("/api/erasures/preview", json={"study_instance_uid": STUDY})
        assert (several.status_code, "(default, north)" in several.json()["detail"]) == (409, True)
        theirs = ask(north)
    assert confirm(admin, theirs).status_code == 200, "an administrator of the whole central is another one"
    assert house.archive.erasures.holders(STUDY) == ["default"]


def test_it_takes_an_administrator(house: House, admin: httpx.Client) -> None:
    request_id = ask(admin)
    for who in ("radiologist", "doctor", "technician", "patient", "service"):
        with house.client(who) as client:
            for path in (
                "/api/erasures/preview", "/api/erasures", "/api/legal-holds", "/api/legal-holds/end",
            ):  # fmt: skip
                assert client.post(path, json=wish()).status_code == 403, path
            assert confirm(client, request_id).status_code == 403
            assert client.delete(f"/api/erasures/{request_id}").status_code == 403
        assert {row[1] for row in recorded(house) if row[0] == who} == {"refused"}
    assert house.archive.reading.facts(STUDY) is not None


def test_what_cannot_be_is_said(house: House, admin: httpx.Client) -> None:
    for wrong in ({"reason": " x "}, {"reason": "two\nlines"}, {"instances": True}, {"instances": "1"}):
        assert admin.post("/api/erasures", json=wish(**wrong)).status_code == 400
    assert admin.post("/api/legal-holds", json=wish(study_instance_uid="../x")).status_code == 400
    assert recorded(house) == []


def test_without_the_record_nothing_is_done(house: House, admin: httpx.Client, second: httpx.Client) -> None:
    request_id = ask(admin)
    house.audit.close()
    assert confirm(second, request_id).status_code == 503
    assert second.delete(f"/api/erasures/{request_id}").status_code == 503
    assert admin.post("/api/legal-holds", json=wish()).status_code == 503
    assert admin.post("/api/erasures/preview", json=wish()).status_code == 503
    assert house.archive.reading.facts(STUDY) is not None
    assert house.archive.erasures.holds() == []


@pytest.mark.needs("chromium")
def test_two_administrators_erase_a_study_in_a_browser(house: House) -> None:
    markup = "<img src=x onerror=document.title=1>"
    with Browser(width=390, height=844) as browser:
        sign_in(browser, house, "admin", "/erasing")
        browser.wait_for(f"location.pathname === '/erasing' && {READY}")
        browser.type_into("#study [name=study_instance_uid]", STUDY)
        browser.press("Enter")
        browser.wait_for("!document.getElementById('found').hidden && document.activeElement.id === 'found'")
        shown = browser.eval("document.getElementById('found').innerText")
        assert all(text in shown for text in ("2026-01-02", "CT", "1, in 1 series"))
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
        browser.type_into("#wish [name=reason]", f"{markup} {WHY}")
        browser.press("Enter")
        browser.wait_for("document.querySelectorAll('#waiting [data-withdraw]').length === 1")
        assert browser.eval("document.querySelectorAll('#waiting [data-confirm]').length") == 0
        assert "Nothing is erased until" in browser.eval("document.getElementById('done').textContent")
    with Browser(width=1280, height=720) as browser:
        sign_in(browser, house, "admin-two", "/erasing")
        browser.wait_for(f"location.pathname === '/erasing' && {READY}")
        browser.wait_for("document.querySelector('nav .badge')?.ariaLabel === '1 to confirm'")
        assert markup in browser.eval("document.getElementById('waiting').textContent")
        assert browser.eval("document.querySelectorAll('#waiting img').length") == 0
        assert (
            browser.eval("document.querySelector('[data-confirm]').ariaLabel") == f"Erase for good: {STUDY}"
        )
        browser.eval("window.confirm = () => true")
        browser.click("[data-confirm]")
        browser.wait_for(f"document.getElementById('erased').textContent.includes('{STUDY}')")
        browser.wait_for("document.querySelector('nav .badge') === null")
        assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
    assert house.archive.reading.facts(STUDY) is None
