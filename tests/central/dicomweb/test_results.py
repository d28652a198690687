"""Search answers are written as text by hand: any JSON reader reads from them what is in the rows."""

from __future__ import annotations

import json
from dataclasses import replace

from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.dicomweb.results import all_series_json, instances_json, studies_json

AWKWARD = 'quo"te \\ back\tslash é 漢 \u2028 </script>'
STUDY = StudyRow(
    1, "default", "1.2", "", "P1", "", "", "", "20260101", "", "", AWKWARD, "", "", ("CT", "SR"), 2, 3
)  # fmt: skip
SERIES = SeriesRow(STUDY, "1.2.3", "CT", None, AWKWARD, "", "", "", 2)
INSTANCE = InstanceRow(SERIES, "1.2.840.1", "1.2.3.4", 0, 1, 2, None, None, "1.2.840.2", 9, flagged=False)
URL = "http://house/dicom-web"


def test_text_comes_back_as_it_is_and_what_is_empty_has_no_value() -> None:
    [study] = json.loads(studies_json([STUDY], URL))
    assert study["00081030"] == {"vr": "LO", "Value": [AWKWARD]}
    assert study["00080050"] == {"vr": "SH"}
    assert study["00080061"] == {"vr": "CS", "Value": ["CT", "SR"]}
    assert study["00201206"] == {"vr": "IS", "Value": [2]}
    assert study["00081190"] == {"vr": "UR", "Value": [f"{URL}/studies/1.2"]}
    assert json.loads(studies_json([], URL)) == []


def test_names_by_group() -> None:
    [study] = json.loads(studies_json([replace(STUDY, patient_name=f'A"B^{AWKWARD}==phonetic')], URL))
    assert study["00100010"]["Value"] == [{"Alphabetic": f'A"B^{AWKWARD}', "Phonetic": "phonetic"}]


def test_attributes_are_in_the_order_of_their_tags_and_rows_keep_their_own() -> None:
    other = replace(INSTANCE, sop_instance_uid="1.2.3.5", instance_number=7)
    elsewhere = replace(INSTANCE, series=replace(SERIES, series_instance_uid="1.2.9", modality="SR"))
    found = json.loads(instances_json([INSTANCE, other, elsewhere], URL))
    assert [list(one) for one in found] == [sorted(one) for one in found]
    assert [one["00080018"]["Value"] for one in found] == [["1.2.3.4"], ["1.2.3.5"], ["1.2.3.4"]]
    assert [one["00080060"]["Value"] for one in found] == [["CT"], ["CT"], ["SR"]]
    assert found[0]["00200013"]["Value"] == [0]
    assert "Value" not in found[0]["00280100"]
    assert found[2]["00081190"]["Value"] == [f"{URL}/studies/1.2/series/1.2.9/instances/1.2.3.4"]
    [series] = json.loads(all_series_json([SERIES], URL))
    assert series["0008103E"]["Value"] == [AWKWARD]
