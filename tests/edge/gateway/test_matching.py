"""Attribute matching (PS3.4 section C.2.2.2), each kind with what must and what must not match."""

from __future__ import annotations

import time

import pytest
from pydicom.dataset import Dataset

from edge.gateway.data_set import DataSet, Element, read_data_set
from edge.gateway.matching import matches
from tests.edge.gateway.worklist_samples import NAMES, encoded, worklist_item


def tree(ds: Dataset) -> DataSet:
    item = encoded(ds)
    return read_data_set(item.data_set, item.transfer_syntax_uid)


def query(step: dict[str, str] | None = None, character_set: str | list[str] = "", **keys: str) -> DataSet:
    ds = Dataset()
    if character_set:
        ds.SpecificCharacterSet = character_set
    for keyword, value in keys.items():
        setattr(ds, keyword, value)
    if step is not None:
        inner = Dataset()
        for keyword, value in step.items():
            setattr(inner, keyword, value)
        ds.ScheduledProcedureStepSequence = [inner]
    return tree(ds)


ITEM = tree(worklist_item("4711", "Doe^John^^Dr", date="20260102", time="101112.50"))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, True),
        ({"PatientID": ""}, True),
        ({"PatientID": "4711"}, True),
        ({"PatientID": "471"}, False),
        ({"PatientID": "47*"}, True),
        ({"PatientID": "4?1?"}, True),
        ({"PatientID": "4?1"}, False),
        ({"PatientID": "*"}, True),
        ({"PatientName": "Doe^John^^Dr"}, True),
        ({"PatientName": "DOE^JOHN^^DR^^"}, True),
        ({"PatientName": "doe*"}, True),
        ({"PatientName": "Doe"}, False),
        ({"PatientName": "*john*"}, True),
        ({"PatientName": "Roe*"}, False),
        ({"PatientBirthDate": "19620410"}, True),
        ({"PatientBirthDate": "19620401-19620430"}, True),
        ({"PatientBirthDate": "-19620410"}, True),
        ({"PatientBirthDate": "19620411-"}, False),
        ({"StudyInstanceUID": "1.2.826.0.1.4711"}, True),
        ({"StudyInstanceUID": "1.2.3\\1.2.826.0.1.4711"}, True),
        ({"StudyInstanceUID": "1.2.826.0.1.47*"}, False),  # no wildcards in UIDs
        ({"RequestingPhysician": "House"}, False),  # the item says nothing of it
        ({"RequestingPhysician": "*"}, True),  # and nothing is asked of it
        ({"RequestingPhysician": "?*"}, False),
    ],
)
def test_keys(keys: dict[str, str], expected: bool) -> None:
    assert matches(query(**keys), ITEM) is expected


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({}, True),
        ({"Modality": ""}, True),
        ({"ScheduledProcedureStepLocation": "*"}, True),  # of which the step says nothing
        ({"Modality": "CT", "ScheduledStationAETitle": "CT1"}, True),
        ({"Modality": "MR"}, False),
        ({"ScheduledStationAETitle": "CT*"}, True),
        ({"ScheduledProcedureStepStartDate": "20260102"}, True),
        ({"ScheduledProcedureStepStartDate": "20260101-20260103"}, True),
        ({"ScheduledProcedureStepStartDate": "20260103-"}, False),
        ({"ScheduledProcedureStepStartTime": "1000-1100"}, True),
        ({"ScheduledProcedureStepStartTime": "10"}, True),
        ({"ScheduledProcedureStepStartTime": "1012-"}, False),
        # Both as ranges are one range from moment to moment, not a window of each day (Table K.6-1).
        (
            {
                "ScheduledProcedureStepStartDate": "20260101-20260102",
                "ScheduledProcedureStepStartTime": "1800-1200",
            },
            True,
        ),
        (
            {
                "ScheduledProcedureStepStartDate": "20260102-20260103",
                "ScheduledProcedureStepStartTime": "1100-1000",
            },
            False,
        ),
    ],
)
def test_keys_of_the_step(step: dict[str, str], expected: bool) -> None:
    assert matches(query(step), ITEM) is expected


def test_a_code_that_is_only_asked_for_is_no_condition() -> None:
    code = Dataset()
    code.SpecificCharacterSet = "ISO_IR 100"
    code.CodeValue = code.CodingSchemeDesignator = code.CodeMeaning = ""
    step = Dataset()
    step.Modality = "CT"
    step.ScheduledProtocolCodeSequence = [code]
    asked = Dataset()
    asked.RequestedProcedureCodeSequence = [code]
    asked.ScheduledProcedureStepSequence = [step]
    bare = worklist_item()
    coded = worklist_item()
    coded.RequestedProcedureCodeSequence = []
    assert matches(tree(asked), tree(bare))
    assert matches(tree(asked), tree(coded))
    code.CodeValue = "77477000"
    assert not matches(tree(asked), tree(bare))
    assert not matches(tree(asked), tree(coded))


def test_an_item_with_several_stations() -> None:
    item = worklist_item()
    item.ScheduledProcedureStepSequence[0].ScheduledStationAETitle = ["CT1", "CT2"]
    assert matches(query({"ScheduledStationAETitle": "CT2"}), tree(item))
    assert not matches(query({"ScheduledStationAETitle": "CT3"}), tree(item))


@pytest.mark.parametrize("patient_id", NAMES)
def test_names_match_across_character_sets(patient_id: str) -> None:
    name, character_set = NAMES[patient_id]
    item = tree(worklist_item(patient_id, name, character_set))
    groups = name.split("=")
    for group in groups:
        assert matches(query(PatientName=group, character_set="ISO_IR 192"), item), group
        assert matches(query(PatientName=group[0] + "*", character_set="ISO_IR 192"), item), group
        assert not matches(query(PatientName=group + "x", character_set="ISO_IR 192"), item), group
    assert matches(query(PatientName=name, character_set=character_set), item)
    others = [tree(worklist_item(other, *NAMES[other])) for other in NAMES if other != patient_id]
    assert not any(
        matches(query(PatientName=groups[-1], character_set="ISO_IR 192"), other) for other in others
    )


def test_an_unknown_character_set_is_no_failure() -> None:
    item = dict(tree(worklist_item()))
    item[0x00080005] = Element("CS", b"ISO_IR 999\\nonsense")
    assert matches(query(PatientID="1"), item)


def test_a_key_made_to_take_long_does_not() -> None:
    item = dict(ITEM)
    item[0x00104000] = Element("LT", b"a" * 60_000)
    began_s = time.thread_time()  # others may have the processor meanwhile
    assert not matches({0x00104000: Element("LT", b"*a" * 400 + b"b")}, item)
    assert not matches({0x00104000: Element("LT", b"*a" * 500_000 + b"b")}, item)
    assert time.thread_time() - began_s < 10


def test_a_sequence_key_against_what_is_none() -> None:
    assert not matches(query({"Modality": "CT"}), {0x00400100: Element("LO", b"CT")})
