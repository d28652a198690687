"""Assignments and departments by the portal's own interface and by orders, against what DICOMweb then shows; and the
technician's station."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from central.access.policy import Role
from central.audit.events import Action
from central.audit.reading import Wanted
from central.workflow.data_sets import scheduled_item
from central.workflow.ordering import Ordering
from central.workflow.worklist import Entry, WorklistStore
from tests.central.access.house import (
    ORIGIN,
    OTHER_STUDY,
    PASSWORD,
    STUDY,
    House,
    house_of_two_patients,
    pydicom_file,
    sees,
)
from tests.central.workflow.test_people_routes import item_json

TODAY = datetime.now().astimezone()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_of_two_patients(tmp_path) as opened:
        yield opened


def assign(house: House, by: str, **what: object) -> httpx.Response:
    wish = {"username": "doctor-other", "until_utc": (TODAY + timedelta(days=1)).isoformat(), **what}
    with house.client(by) as client:
        return client.post("/api/assignments", json=wish)


@pytest.mark.parametrize("giver", ["radiologist", "admin"])
@pytest.mark.parametrize(
    "what", [{"study_instance_uid": STUDY}, {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}]
)
def test_a_study_or_a_patient_is_assigned_and_taken_back(
    house: House, giver: str, what: dict[str, str]
) -> None:
    assert sees(house, "doctor-other") == set()
    made = assign(house, giver, **what)
    assert made.status_code == 201
    assert sees(house, "doctor-other") == {STUDY}
    with house.client(giver) as client:
        (listed,) = client.get("/api/assignments").json()["assignments"]
        assert (listed["username"], listed["made_by"], listed["by_order"]) == ("doctor-other", giver, False)
        assert client.delete(f"/api/assignments/{listed['assignment_id']}").status_code == 204
        assert client.get("/api/assignments").json() == {"assignments": []}
    assert sees(house, "doctor-other") == set()
    changes = house.audit.newest(Wanted(action=Action.ACCESS_CHANGE), limit=9)
    assert [(row.event.actor, row.event.outcome) for row in changes] == [(giver, "success")] * 2


def test_who_may_not_see_it_all_assigns_nothing_of_it(house: House) -> None:
    house.doorkeeper.rules.add(
        "refusal", STUDY, "radiologist", until_utc=None, reason="a relative", made_by="admin"
    )
    for what in ({"study_instance_uid": STUDY}, {"patient_id": "P1", "issuer_of_patient_id": "HOSP"}):
        assert assign(house, "radiologist", **what).status_code == 404
        assert assign(house, "doctor", **what).status_code == 403
        assert assign(house, "technician", **what).status_code == 403
    nowhere = ({"study_instance_uid": "1.9"}, {"patient_id": "P1", "issuer_of_patient_id": ""})
    assert [assign(house, "admin", **what).status_code for what in nowhere] == [404, 404]
    for wrong in ({}, {"study_instance_uid": STUDY, "patient_id": "P1"}, {"study_instance_uid": "x"}):
        assert assign(house, "admin", **wrong).status_code == 400
    made = assign(house, "admin", study_instance_uid=STUDY).json()["assignment_id"]
    with house.client("radiologist") as client:  # who did not make it
        assert client.delete(f"/api/assignments/{made}").status_code == 404
        assert client.get("/api/assignments").json() == {"assignments": []}


@pytest.mark.parametrize("order_comes_first", [True, False])
def test_a_department_sees_what_it_ordered(tmp_path: Path, order_comes_first: bool) -> None:
    with house_of_two_patients(tmp_path) as house:
        house.accounts.create_user("ward", PASSWORD, Role.DOCTOR, departments=["  Cardiología 2"])
        study = "1.2.826.0.1.4711"  # of the item
        item = item_json("4711", RequestingService="CARDIOLOGIA  2", RequestingPhysician="Wilson^James")
        images = pydicom_file("CT_small.dcm", StudyInstanceUID=study, SOPInstanceUID="1.2.3.8")
        ordering = Ordering(house.doorkeeper.assignments, house.archive.receiving)
        told: list[str] = []
        steps = [
            lambda: ordering.heed(
                scheduled_item(item), institution="default", made_by="ris", announce=told.extend
            ),
            lambda: house.put(images),
        ]
        for step in steps if order_comes_first else reversed(steps):
            step()
        assert told == ["doctor-other"]
        for who in ("ward", "doctor-other"):
            with house.client(who) as client:
                found = client.get("/dicom-web/studies").json()
                assert [row["0020000D"]["Value"] for row in found] == [[study]]
                assert client.get(f"/dicom-web/studies/{study}").status_code == 200


def test_without_an_order_the_images_say_which_department(house: House) -> None:
    house.accounts.create_user("ward", PASSWORD, Role.DOCTOR, departments=["Ward 7"])
    sent = pydicom_file(
        "CT_small.dcm", StudyInstanceUID="1.2.7", SOPInstanceUID="1.2.7.1", RequestingService="WARD 7"
    )
    house.put(sent)
    with house.client("ward") as client:
        assert [row["0020000D"]["Value"] for row in client.get("/dicom-web/studies").json()] == [["1.2.7"]]


def test_a_technician_looks_at_new_images_of_the_own_box_or_department_and_takes_none(house: House) -> None:
    assert sees(house, "technician") == {STUDY, OTHER_STUDY}
    assert sees(house, "technician-other") == set()
    house.accounts.create_user("x-ray", PASSWORD, Role.TECHNICIAN, departments=["X-Ray"])
    yesterday = replace(ORIGIN, received_at_utc=datetime.now(UTC) - timedelta(hours=25))
    for uid, origin in (("1.2.8", ORIGIN), ("1.2.9", yesterday)):
        file = pydicom_file(
            "CT_small.dcm",
            StudyInstanceUID=uid,
            SOPInstanceUID=f"{uid}.1",
            InstitutionalDepartmentName="x-ray",
        )
        house.put(file, origin)
    with house.client("x-ray") as client:
        assert [row["0020000D"]["Value"] for row in client.get("/dicom-web/studies").json()] == [["1.2.8"]]
        assert client.get("/dicom-web/studies/1.2.8/thumbnail").status_code == 200
        for closed in ("/dicom-web/studies/1.2.8", "/dicom-web/studies/1.2.9/metadata"):
            assert client.get(closed).status_code == 404
        assert client.post("/api/tokens", json={"label": "x", "actions": ["search"]}).status_code == 403


def test_the_station_says_what_is_scheduled_and_what_has_come(house: House) -> None:
    worklist, day = WorklistStore(house.db), TODAY.strftime("%Y%m%d")
    scheduled: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
        "mine": (("gw-test", "gw-2"), item_json("1", StudyInstanceUID=STUDY, date=day), "default"),
        "for-all": ((), item_json("5", date=day), "default"),
        "others": (("gw-other",), item_json("6", date=day), "default"),
        "similar": (("gw-test-2",), item_json("7", date=day), "default"),
        "north": ((), item_json("8", date=day), "north"),
        "tomorrow": ((), item_json("9", date="20990101"), "default"),
    }
    for item_id, (gateway_ids, item, institution) in scheduled.items():
        worklist.put(Entry(item_id, gateway_ids, item, institution), scheduled_item(item), TODAY.date())
    with house.client("technician") as client:
        assert client.get("/station").status_code == 200
        items = client.get("/api/station").json()["items"]
        assert {one["patient_id"]: (one["series"], one["instances"]) for one in items} == {
            "1": (1, 1),
            "5": (0, 0),
        }
        assert items[0]["arrived_at_utc"] or items[1]["arrived_at_utc"]
        (one,) = client.get("/api/station", params={"day": "20990101"}).json()["items"]
        assert one["patient_id"] == "9"
        assert client.get("/api/station", params={"day": "tomorrow"}).status_code == 400
    [read, *_] = house.audit.newest(Wanted(action=Action.WORKLIST_READ), limit=9)
    assert (read.event.actor, read.event.outcome) == ("technician", "success")
