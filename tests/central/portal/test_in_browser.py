"""The pages in a real browser, under the real content security policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from central.fleet.view import BoxView
from central.identity.pairings import Enrolment, PendingBox
from central.workflow.data_sets import scheduled_item
from central.workflow.worklist import Entry, WorklistStore
from contract.enrolment import Pairing
from tests.browser import Browser
from tests.central.access.house import PASSWORD, STUDY, House, pydicom_file
from tests.central.app.house import new_key_and_request
from tests.central.workflow.test_people_routes import item_json

pytestmark = pytest.mark.needs("chromium")
READY = "document.documentElement.dataset.state === 'ready'"
MARKUP = "<img src=x onerror=document.title=1>"


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser(width=1280, height=720) as opened:
        yield opened


def sign_in(browser: Browser, house: House, username: str, path: str = "/") -> None:
    browser.open(f"{house.base_url}{path}")
    browser.wait_for("location.pathname === '/signin'")
    browser.type_into("[name=username]", username)
    browser.type_into("[name=password]", PASSWORD)
    browser.press("Enter")
    browser.wait_for(READY)


def put(house: House, number: int, date: str, **changes: object) -> str:
    uid = f"1.2.55.{number}"
    house.put(
        pydicom_file(
            "MR_small.dcm",
            StudyInstanceUID=uid,
            SeriesInstanceUID=f"{uid}.1",
            SOPInstanceUID=f"{uid}.1.1",
            StudyDate=date,
            **changes,
        )
    )
    return uid


def test_the_study_list(house: House, browser: Browser) -> None:
    hostile = put(
        house, 1, "20260301", PatientName=f"{MARKUP}^X", StudyDescription=MARKUP, AccessionNumber="A1"
    )
    sign_in(browser, house, "radiologist")
    rows = "[...document.querySelectorAll('#studies tbody tr')].map(row => row.dataset.study)"
    assert browser.eval(rows)[0] == hostile
    # Markup in a name is text, and nothing ran.
    assert MARKUP in browser.eval("document.querySelector('#studies tbody tr').textContent")
    assert browser.eval("document.querySelectorAll('#studies img, #studies script').length") == 0
    assert browser.eval("document.title") == "Studies · DICOM Network"
    assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
    link = browser.eval("document.querySelector('#studies tbody a[download]').getAttribute('href')")
    assert link == f"/dicom-web/studies/{hostile}?accept=application%2Fzip"

    # Keys: down from the search field to the second row; a study that arrives meanwhile does not move the focus.
    for _ in range(2):
        browser.press("ArrowDown")
    focused = "document.activeElement.closest('tr')?.dataset.study"
    chosen = browser.eval(focused)
    assert chosen == browser.eval(rows)[1]
    newest = put(house, 2, "20260401")
    browser.eval("document.dispatchEvent(new Event('visibilitychange'))")  # what happens every 15 s, now
    browser.wait_for(f"{rows}[0] === '{newest}'")
    assert browser.eval(focused) == chosen

    # Search narrows; the empty list says so.
    browser.type_into("[name=accession]", "A1")
    browser.press("Enter")
    browser.wait_for(f"{rows}.length === 1 && {rows}[0] === '{hostile}'")
    browser.type_into("[name=id]", "nobody has this")
    browser.press("Enter")
    browser.wait_for("!document.getElementById('empty').hidden")
    browser.click("button[type=reset]")
    browser.wait_for(f"{rows}.length > 2")

    # Enter opens the study.
    browser.eval("document.querySelector('#studies tbody a').focus()")
    browser.press("Enter")
    browser.wait_for(f"location.pathname === '/viewer/' && location.search === '?study={newest}'")


def test_somebody_without_studies_is_told(house: House, browser: Browser) -> None:
    sign_in(browser, house, "patient-other")
    assert "appear here" in browser.eval("document.getElementById('empty').textContent")


def test_a_session_that_ended_leads_back(house: House, browser: Browser) -> None:
    sign_in(browser, house, "radiologist")
    browser.eval("fetch('/signout', {method: 'POST', redirect: 'manual'}).then(() => true)")
    browser.eval("document.dispatchEvent(new Event('visibilitychange'))")
    browser.wait_for("location.pathname === '/signin' && location.search === '?next=%2F'")


def test_the_fleet_and_a_new_box(house: House, browser: Browser) -> None:
    now = datetime.now(UTC)
    lost = BoxView("gw-1", MARKUP, "lost", now, "1", 2, 10, 1, now, 100, 5, False, now, now, False, ())
    house.boxes.append(replace(lost, key_place="file"))
    try:
        sign_in(browser, house, "admin")
        browser.wait_for("location.pathname === '/fleet'")
        browser.wait_for(READY)
        card = browser.eval("document.querySelector('[data-gateway=gw-1]').textContent")
        assert MARKUP in card
        assert "Lost" in card
        assert "disk reserve" in card
        assert "its key is in a file" in card
        assert browser.eval("document.querySelectorAll('#boxes img').length") == 0
        assert browser.eval("document.querySelectorAll('#boxes [data-command=pause]').length") == 1
        browser.click("#add")
        browser.type_into("#pair [name=name]", "ct-room-2")
        browser.click("#make")
        browser.wait_for("!document.getElementById('answer').hidden")
        assert Pairing.parse(browser.eval("document.getElementById('secret').value"))
        assert browser.eval("document.querySelector('#qr svg .qrline').getTotalLength() > 500")
        browser.click("#close")
        browser.wait_for("document.getElementById('secret').value === ''")
    finally:
        house.boxes.clear()


def test_a_waiting_box_is_accepted_by_its_fingerprint_and_revoked_again(
    house: House, browser: Browser
) -> None:
    ticket = house.pairings.new_pairing(MARKUP)
    assert ticket is not None
    _, request = new_key_and_request()
    waiting = house.pairings.enrol(ticket.token, request, "10.0.0.9")
    assert isinstance(waiting, PendingBox)
    sign_in(browser, house, "admin")
    browser.wait_for(READY)
    card = browser.eval("document.querySelector('#pending article').textContent")
    assert waiting.fingerprint in card
    assert MARKUP in card
    browser.click("#pending button.primary")
    browser.wait_for("document.querySelectorAll('#pending article').length === 0")
    enrolled = house.pairings.enrol(ticket.token, request)
    assert isinstance(enrolled, Enrolment)
    now = datetime.now(UTC)
    house.boxes.append(
        BoxView(enrolled.gateway_id, "x", "lost", now, "1", 2, 10, 1, now, 100, 5, False, now, now, False, ())
    )
    try:
        browser.eval("document.dispatchEvent(new Event('visibilitychange'))")
        browser.wait_for("document.querySelector('[data-act=Revoke]')")
        browser.click("[data-act='Replace this box']")
        browser.wait_for("document.getElementById('secret').value && document.querySelector('#qr svg')")
        token = Pairing.parse(browser.eval("document.getElementById('secret').value")).token
        assert house.pairings.is_live(token)
        browser.eval("document.querySelector('[data-gateway]').dataset.former = 'yes'")
        browser.click("#close")
        # That loads the boxes anew, and a button that is exchanged between press and release is not clicked.
        browser.wait_for("document.querySelector('[data-gateway]:not([data-former])')")
        browser.eval("window.confirm = () => true")
        browser.click("[data-act=Revoke]")
        browser.wait_for(
            f"performance.getEntriesByName('{house.base_url}/api/gateways/revocation').length === 1"
        )
        assert not house.gateways.is_admitted(enrolled.gateway_id)
    finally:
        house.boxes.clear()


def test_a_patient_sees_who_looked(house: House, browser: Browser) -> None:
    with house.client("radiologist") as client:
        assert client.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 200
    sign_in(browser, house, "patient", "/looks")
    browser.wait_for(f"location.pathname === '/looks' && {READY}")
    roles = "[...document.querySelectorAll('#looks tbody tr')].map(row => row.children[2].textContent)"
    assert "radiologist" in browser.eval(roles)
    assert "St. Elsewhere" in browser.eval("document.querySelector('#looks').textContent")
    browser.click(".who button")
    browser.wait_for("location.pathname === '/signin'")


def test_the_audit_page_and_sign_out(house: House, browser: Browser) -> None:
    with house.client("doctor") as client:
        client.get("/dicom-web/studies", params={"PatientName": MARKUP})
    sign_in(browser, house, "admin", "/audit")
    browser.wait_for(f"location.pathname === '/audit' && {READY}")
    browser.type_into("[name=actor]", "doctor")
    browser.press("Enter")
    actors = "[...document.querySelectorAll('#events tbody tr')].map(row => row.children[1].textContent)"
    browser.wait_for(f"{actors}.length && {actors}.every(actor => actor === 'doctor')")
    assert browser.eval("document.querySelectorAll('#events img').length") == 0
    assert browser.eval("document.getElementById('count').textContent").endswith(" events, User doctor")
    browser.click(".who button")
    browser.wait_for("location.pathname === '/signin'")
    browser.open(f"{house.base_url}/audit")
    browser.wait_for("location.pathname === '/signin'")


def test_a_technician_sees_what_came_of_the_days_work(house: House, browser: Browser) -> None:
    today = datetime.now().astimezone()
    item = item_json("4", "<b>X</b>", StudyInstanceUID=STUDY, date=today.strftime("%Y%m%d"))
    WorklistStore(house.db).put(Entry("RIS-B", (), item), scheduled_item(item), today.date())
    sign_in(browser, house, "technician", "/station")
    row = browser.eval("document.querySelector('#items tbody tr').textContent")
    assert "<b>X</b>" in row  # as text
    assert "1 series, 1 images" in row
    navigation = browser.eval("[...document.querySelectorAll('nav a')].map(link => link.textContent)")
    assert navigation == ["Studies", "Station", "Fleet"]


def test_institutions_agree_and_a_study_is_assigned(house: House, browser: Browser) -> None:
    sign_in(browser, house, "admin", "/institutions")
    browser.type_into("#institution [name=institution]", "south")
    browser.type_into("#institution [name=name]", MARKUP)
    browser.press("Enter")
    browser.wait_for("document.getElementById('institutions').textContent.includes('south')")
    assert browser.eval("document.querySelectorAll('#institutions button, #institutions img').length") == 0
    browser.type_into("#agreement [name=opened_by]", "south")
    browser.type_into("#agreement [name=opened_to]", "default")
    browser.press("Enter")
    browser.wait_for("document.querySelectorAll('#agreements button').length === 1")
    browser.click("#agreements button")
    browser.wait_for("document.getElementById('agreements').textContent.includes('Nothing holds')")

    day = (datetime.now().astimezone() + timedelta(days=2)).date().isoformat()
    browser.open(f"{house.base_url}/sharing?study={STUDY}")
    browser.wait_for(READY)
    browser.type_into("#assignment [name=username]", "doctor-other")
    browser.eval(f"document.querySelector('#assignment [name=until]').value = '{day}'")
    browser.activate("#assignment button")
    browser.wait_for("document.getElementById('assignments').textContent.includes('doctor-other')")
    assert not browser.eval("document.documentElement.scrollWidth > innerWidth")
