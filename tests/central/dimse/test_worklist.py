"""Modality Worklist and MPPS straight at central, by DCMTK and pynetdicom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE

from central.audit.events import Action
from central.audit.reading import Wanted
from central.dimse.matching import matches
from central.dimse.procedure_step import PERFORMED_PROCEDURE_STEP
from central.dimse.worklist import MODALITY_WORKLIST_FIND
from central.workflow.data_sets import scheduled_item
from central.workflow.tables import PerformedProcedure
from central.workflow.worklist import Entry
from contract.workflow import StepStatus
from tests.central.dimse.house import House, dcmtk, identifier, open_house
from tests.edge.gateway.procedure_samples import ended_step, new_step


def item(
    name: str, day: str, *, clock: str = "0900", station: str = "CT1", character_set: str = "ISO_IR 100"
) -> dict[str, Any]:
    step = Dataset()
    step.ScheduledStationAETitle = station
    step.ScheduledProcedureStepStartDate = day
    step.ScheduledProcedureStepStartTime = clock
    step.Modality = "CT"
    step.ScheduledProcedureStepDescription = "Thorax"
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    ds.PatientName = name
    ds.PatientID = "4711"
    ds.StudyInstanceUID = "1.2.3.4"
    ds.AccessionNumber = "A1"
    ds.ScheduledProcedureStepSequence = [step]
    return ds.to_json_dict()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("central")) as opened:
        items = {
            "1": (item("Müller^Anna", "20260105"), ()),
            "2": (item("Smith^Bob", "20260106", station="CT2"), ()),
            "3": (item("山田^太郎", "20260107", character_set="ISO_IR 192"), ()),
            "4": (item("Secret^Box", "20260105"), ("gw-0123456789abcdef",)),
        }
        for item_id, (one, gateways) in items.items():
            opened.worklist.put(Entry(item_id, gateways, one), scheduled_item(one), date(2026, 1, 5))
        yield opened


def ask(house: House, step: dict[str, object], status: int = 0, **keys: object) -> list[Dataset]:
    query = identifier({"PatientName": "", "PatientID": "", "SpecificCharacterSet": "ISO_IR 192", **keys})
    query.ScheduledProcedureStepSequence = [identifier({"ScheduledProcedureStepDescription": "", **step})]
    ae = AE("PEER")
    ae.add_requested_context(MODALITY_WORKLIST_FIND)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    answers = list(assoc.send_c_find(query, UID(MODALITY_WORKLIST_FIND)))
    assoc.release()
    assert answers[-1][0].Status == status
    return [ds for _, ds in answers if ds is not None]


def names(found: list[Dataset]) -> list[str]:
    return [str(one.PatientName) for one in found]


@pytest.mark.parametrize(
    ("step", "keys", "expected"),
    [
        ({}, {}, ["Müller^Anna", "Smith^Bob", "山田^太郎"]),
        ({"ScheduledProcedureStepStartDate": "20260106"}, {}, ["Smith^Bob"]),
        ({"ScheduledProcedureStepStartDate": "20260106-"}, {}, ["Smith^Bob", "山田^太郎"]),
        ({"ScheduledProcedureStepStartDate": "-20260105"}, {}, ["Müller^Anna"]),
        ({"ScheduledStationAETitle": "CT2"}, {}, ["Smith^Bob"]),
        (
            {"ScheduledProcedureStepStartTime": "08-0930", "Modality": "CT"},
            {"PatientName": "s*"},
            ["Smith^Bob"],
        ),
        ({}, {"PatientName": "MULLER*"}, ["Müller^Anna"]),
        ({}, {"PatientName": "山田*"}, ["山田^太郎"]),
        ({"Modality": "MR"}, {}, []),
        ({}, {"PatientName": "secret*"}, []),
        ({}, {"AdmissionID": "X"}, []),
    ],
)
def test_queries(house: House, step: dict[str, object], keys: dict[str, object], expected: list[str]) -> None:
    assert names(ask(house, step, **keys)) == expected


@pytest.mark.parametrize(
    ("days", "times", "expected"),
    [
        ("20260105-20260106", "2200-0600", ["Late", "Early"]),
        ("20260105-20260107", "10-18", ["Late", "Early", "Noon", "Far"]),
        ("20260106-", "0900-", ["Noon", "Far"]),
        ("-20260106", "-09:00", ["Late", "Early", "Noon"]),
        ("20260105-20260106", "-0259", ["Late"]),
        ("20260106", "0200-0400", ["Early"]),
        ("20260105-20260107", "0300", ["Early", "Far"]),
    ],
)
def test_a_range_of_days_and_a_range_of_times_are_one_period(
    days: str, times: str, expected: list[str]
) -> None:
    step = {"ScheduledProcedureStepStartDate": days, "ScheduledProcedureStepStartTime": times}
    query = identifier({"ScheduledProcedureStepSequence": [identifier(step)]})
    planned = [
        item("Late", "20260105", clock="2300"),
        item("Early", "20260106", clock="0300"),
        item("Noon", "20260106", clock="090000.5"),
        item("Far", "20260107", clock="0300"),
    ]
    found = [one for one in map(Dataset.from_json, planned) if matches(query, one)]
    assert names(found) == expected


def test_answers_have_what_was_asked_for(house: House) -> None:
    [found] = ask(house, {"ScheduledStationAETitle": "CT2"}, AccessionNumber="", AdmissionID="")
    [step] = found.ScheduledProcedureStepSequence
    assert (found.AccessionNumber, found.AdmissionID, found.SpecificCharacterSet) == ("A1", "", "ISO_IR 100")
    assert (step.ScheduledStationAETitle, step.ScheduledProcedureStepDescription) == ("CT2", "Thorax")
    assert "Modality" not in step
    assert "StudyInstanceUID" not in found
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.action, event.outcome) == ("PEER", Action.WORKLIST_READ, "success")


def test_keys_that_the_record_cannot_hold_are_not_answered(house: House) -> None:
    assert ask(house, {"ScheduledStationAETitle": "CT2"}, 0xA700, PatientComments="x" * 9000) == []
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.action, event.outcome) == (Action.WORKLIST_READ, "refused")


@pytest.mark.needs("dcmtk")
def test_findscu_asks_for_the_worklist(house: House) -> None:
    asked = dcmtk(
        "findscu", "-W", "-aet", "PEER", "-aec", "DICOMNET", "-k", "0010,0010=smith*",
        "-k", "(0040,0100)[0].Modality=CT", "127.0.0.1", house.port,
    )  # fmt: skip
    assert "Smith^Bob" in asked.stdout + asked.stderr


@pytest.mark.parametrize(
    ("pattern", "is_match"), [("*" * 200 + "x", False), ("?" * 11, True), ("s*^b?b", True)]
)
def test_wildcards_cost_little(pattern: str, is_match: bool) -> None:
    found = identifier({"PatientName": "Smith^Boob" if pattern == "?" * 11 else "Smith^Bob"})
    if pattern == "?" * 11:
        found.PatientName = "Smith^Bobby"
    assert matches(identifier({"PatientName": pattern}), found) is is_match


class Modality:
    """Sends N-CREATE and N-SET."""

    def __init__(self, house: House, ae_title: str = "PEER") -> None:
        ae = AE(ae_title)
        ae.add_requested_context(PERFORMED_PROCEDURE_STEP)
        self._assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
        assert self._assoc.is_established

    def create(self, ds: Dataset, uid: str | None = "1.2.60.1") -> Dataset:
        status, _ = self._assoc.send_n_create(ds, UID(PERFORMED_PROCEDURE_STEP), UID(uid) if uid else None)
        return status

    def change(self, ds: Dataset, uid: str = "1.2.60.1") -> Dataset:
        status, _ = self._assoc.send_n_set(ds, UID(PERFORMED_PROCEDURE_STEP), UID(uid))
        return status

    def release(self) -> None:
        self._assoc.release()


def test_a_step_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        modality = Modality(house)
        assert modality.change(ended_step("1.2.61")).Status == 0x0112
        assert modality.create(new_step()).Status == 0
        assert modality.create(new_step()).Status == 0x0111
        assert modality.change(identifier({"PerformedProcedureStepDescription": "more"})).Status == 0
        assert modality.change(ended_step("1.2.61")).Status == 0
        ended = modality.change(ended_step("1.2.61"))
        assert (ended.Status, ended.ErrorID) == (0x0110, 0xA710)
        assert modality.create(new_step(), None).Status == 0
        modality.release()
        assert house.steps.standing("ae:PEER", "1.2.60.1") == (StepStatus.COMPLETED, 2)
        assert PerformedProcedure.select().count(house.db) == 2, "one has the UID that central gave it"
        event = house.audit.newest(Wanted(), limit=1)[0].event
        assert (event.action, event.study_instance_uid) == (Action.PROCEDURE_STEP, "1.2.826.0.1.1")


def _without(keyword: str) -> Dataset:
    ds = new_step()
    delattr(ds, keyword)
    return ds


def _with(**values: object) -> Dataset:
    ds = new_step()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("ds", "status"),
    [
        (_without("Modality"), 0x0120),
        (_with(PerformedProcedureStepID=""), 0x0121),
        (_with(PerformedProcedureStepStatus="COMPLETED"), 0x0106),
        (_with(ScheduledStepAttributesSequence=[]), 0x0121),
    ],
)
def test_a_step_that_may_not_begin_like_this(house: House, ds: Dataset, status: int) -> None:
    modality = Modality(house)
    assert modality.create(ds, "1.2.60.9").Status == status
    modality.release()


def test_a_step_that_may_not_end_like_this(house: House) -> None:
    modality = Modality(house)
    assert modality.create(new_step(), "1.2.60.8").Status == 0
    change = modality.change
    assert change(identifier({"PerformedProcedureStepStatus": "DONE"}), "1.2.60.8").Status == 0x0106
    assert change(identifier({"PerformedProcedureStepStatus": "DISCONTINUED"}), "1.2.60.8").Status == 0x0121
    no_series = ended_step()
    no_series.PerformedSeriesSequence = []
    assert change(no_series, "1.2.60.8").Status == 0x0121
    modality.release()
