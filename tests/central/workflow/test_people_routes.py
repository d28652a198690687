"""The worklist as administrators and a RIS fill it: checked, replaced by id, on record, closed to everybody else."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset

from central.access.accounts import Accounts
from central.access.policy import Principal, Role
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.reading import Wanted
from central.workflow import worklist as worklist_room
from tests.central.app.house import House

PASSWORD = "correct horse battery"
TODAY = datetime.now(UTC).astimezone().strftime("%Y%m%d")


def item_json(patient_id: str = "1", name: str = "Müller^Jörg", **changes: object) -> dict[str, Any]:
    step = Dataset()
    step.ScheduledStationAETitle = "CT1"
    step.ScheduledProcedureStepStartDate = str(changes.pop("date", TODAY))
    step.ScheduledProcedureStepStartTime = "083000"
    step.Modality = "CT"
    ds = Dataset()
    ds.PatientName = name
    ds.PatientID = patient_id
    ds.PatientBirthDate = "19620410"
    ds.StudyInstanceUID = f"1.2.826.0.1.{patient_id}"
    ds.ScheduledProcedureStepSequence = [step]
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return dict(ds.to_json_dict())


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("central")) as running:
        yield running


@functools.cache
def user_ids(house: House) -> dict[Role, str]:
    create = house.central.foundation.accounts.create_user
    roles = (Role.ADMIN, Role.SERVICE, Role.RADIOLOGIST)
    return {role: create(role.value, PASSWORD, role).user_id for role in roles}


def client(house: House, role: Role) -> httpx.Client:
    accounts: Accounts = house.central.foundation.accounts
    principal = Principal(user_ids(house)[role], role.value, role)
    token = accounts.sessions.start(principal, "bearer", 600)
    return httpx.Client(
        base_url=house.people_url, headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
    )


def events(house: House, action: Action) -> list[tuple[str, str, str, str | None]]:
    rows = house.central.foundation.audit.newest(Wanted(action=action), limit=50)
    return [
        (row.event.actor, row.event.outcome, row.event.detail, row.event.study_instance_uid) for row in rows
    ]


@pytest.mark.parametrize("role", [Role.ADMIN, Role.SERVICE])
def test_put_list_replace_delete_all_on_record(house: House, role: Role) -> None:
    item_id = f"RIS-{role}"
    with client(house, role) as caller:
        first = caller.put(f"/api/worklist/{item_id}", json={"item": item_json(), "gateways": ["ct-1"]})
        assert first.status_code == 201, first.text
        again = caller.put(f"/api/worklist/{item_id}", json={"item": item_json(name="Maier^Jörg")})
        assert again.status_code == 200
        listed = [one for one in caller.get("/api/worklist").json()["items"] if one["item_id"] == item_id]
        assert listed[0]["gateways"] == []
        assert listed[0]["item"]["00100010"]["Value"] == [{"Alphabetic": "Maier^Jörg"}]
        assert caller.delete(f"/api/worklist/{item_id}").status_code == 204
        assert caller.delete(f"/api/worklist/{item_id}").status_code == 404
    changes = [event for event in events(house, Action.WORKLIST_CHANGE) if event[0] == role]
    assert (role, "success", f"put {item_id}", "1.2.826.0.1.1") in changes
    assert (role, "success", f"delete {item_id}", None) in changes
    assert any(event[0] == role for event in events(house, Action.WORKLIST_READ))
    assert not any("Maier" in str(event) for event in changes)


def test_others_may_not_and_learn_nothing(house: House) -> None:
    with client(house, Role.RADIOLOGIST) as caller:
        for answer in (
            caller.get("/api/worklist"),
            caller.put("/api/worklist/X", json={"item": item_json()}),
            caller.put("/api/worklist/X", content=b"nonsense"),
            caller.delete("/api/worklist/X"),
        ):
            assert answer.status_code == 403
            assert "role" in answer.json()["detail"]
    outcomes = [event[1] for event in events(house, Action.WORKLIST_CHANGE) if event[0] == Role.RADIOLOGIST]
    assert outcomes == ["refused"] * 3


def test_a_service_sees_no_images_and_no_fleet(house: House) -> None:
    with client(house, Role.SERVICE) as caller:
        assert caller.get("/api/fleet").status_code == 403
        assert caller.post("/api/audit/records", data={"actor": "x"}).status_code == 403
        assert caller.get("/dicom-web/studies").status_code == 204


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"PatientName": ""}, "PatientName"),
        ({"PatientID": None}, "PatientID"),
        ({"StudyInstanceUID": None}, "StudyInstanceUID"),
        ({"ScheduledProcedureStepSequence": []}, "ScheduledProcedureStepSequence"),
        ({"date": "2026-01-02"}, "YYYYMMDD"),
        ({"date": ""}, "ScheduledProcedureStepStartDate"),
        ({"SpecificCharacterSet": "ISO_IR 100", "name": "山田^太郎"}, "Specific Character Set"),
        ({"PatientComments": "x" * 70_000}, "65536"),
    ],
)
def test_what_cannot_be_scheduled_is_said_without_a_quote(
    house: House, changes: dict[str, object], says: str
) -> None:
    with client(house, Role.SERVICE) as caller:
        answer = caller.put("/api/worklist/X", json={"item": item_json(**changes)})
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert "山田" not in answer.text
    assert "1962" not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"item": 7}',
        b'{"item": {"00100010": {"vr": "PN", "Value": [7]}}}',
        b'{"item": {"nonsense": {"vr": "PN"}}}',
        b'{"item": {}, "gateways": ["../.."]}',
        b'{"item": {}, "gateways": 7}',
        b'{"item": {"00100010": {"vr": "PN", "BulkDataURI": "http://127.0.0.1/"}}}',
        b'{"item": ' + b'{"00400100": {"vr": "SQ", "Value": [' * 5000,
    ],
)
def test_what_is_no_item_is_refused(house: House, body: bytes) -> None:
    with client(house, Role.SERVICE) as caller:
        assert caller.put("/api/worklist/X", content=body).status_code == 400
        assert caller.put("/api/worklist/X", content=b"{" + b" " * 300_000).status_code == 413
        assert caller.put("/api/worklist/" + "x" * 65, json={"item": item_json()}).status_code == 400


def test_the_worklist_has_an_end_and_forgets_what_is_long_past(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(house, Role.SERVICE) as caller:
        assert caller.put("/api/worklist/old", json={"item": item_json(date="20010101")}).status_code == 201
        held = {one["item_id"] for one in caller.get("/api/worklist").json()["items"]}
        assert "old" in held
        monkeypatch.setattr(worklist_room, "MAX_ENTRIES", len(held))
        assert caller.put("/api/worklist/new", json={"item": item_json()}).status_code == 201
        assert "old" not in {one["item_id"] for one in caller.get("/api/worklist").json()["items"]}
        assert caller.put("/api/worklist/newer", json={"item": item_json()}).status_code == 507
        assert caller.delete("/api/worklist/new").status_code == 204


def test_pages_follow_each_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("central.workflow.people_routes.PAGE_ITEMS", 2)
    ids = [f"page-{number}" for number in range(5)]
    with client(house, Role.SERVICE) as caller:
        for item_id in ids:
            caller.put(f"/api/worklist/{item_id}", json={"item": item_json()})
        found: list[str] = []
        after: dict[str, str] = {}
        while page := caller.get("/api/worklist", params=after).json()["items"]:
            found += [one["item_id"] for one in page]
            after = {"after_date": TODAY, "after_time": "083000", "after_id": found[-1]}
        assert [one for one in found if one in ids] == ids
        for item_id in ids:
            caller.delete(f"/api/worklist/{item_id}")


def test_no_record_no_change(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_event: object) -> None:
        raise AuditUnavailableError("full")

    with client(house, Role.SERVICE) as caller:
        monkeypatch.setattr(house.central.foundation.audit, "record", fail)
        assert caller.put("/api/worklist/X", json={"item": item_json()}).status_code == 503
        assert caller.get("/api/worklist").status_code == 503
        monkeypatch.undo()
        assert "X" not in {one["item_id"] for one in caller.get("/api/worklist").json()["items"]}
