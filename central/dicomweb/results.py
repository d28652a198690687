"""Rows of the archive as DICOM JSON (PS3.18 Annex F), with the attributes that QIDO-RS answers (section 10.6.3).

Written as text at once: the names, tags and VRs are the same in each of thousands of rows, and so is all that the
instances of a series have of it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from json.encoder import encode_basestring
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from central.archive.rows import InstanceRow, SeriesRow, StudyRow

More = Iterable[Mapping[str, object]]
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def studies_json(rows: Sequence[StudyRow], base_url: str, more: More = ()) -> str:
    """An array of studies; `base_url` ends in ``/dicom-web``, `more` are further elements of each row, by tag."""
    return _array((_texts(_study(row) | {"RetrieveURL": _study_url(row, base_url)}) for row in rows), more)


def all_series_json(rows: Sequence[SeriesRow], base_url: str, more: More = ()) -> str:
    """An array of series, with the attributes of their studies; otherwise as `studies_json`."""
    return _array(
        (
            [*_texts(_series(row) | {"RetrieveURL": _series_url(row, base_url)}), _requests(row)]
            for row in rows
        ),
        more,
    )


def instances_json(rows: Sequence[InstanceRow], base_url: str, more: More = ()) -> str:
    """An array of instances, with the attributes of their studies and series; otherwise as `studies_json`."""
    of_series = dict[
        int, tuple[list[str], str]
    ]()  # by the row's identity: the archive gives each series once

    def texts(row: InstanceRow) -> list[str]:
        known = of_series.get(id(row.series))
        if known is None:
            texts = [*_texts(_series(row.series)), _requests(row.series)]
            known = texts, _series_url(row.series, base_url)
            of_series[id(row.series)] = known
        shared, series_url = known
        attributes = {
            "SOPClassUID": row.sop_class_uid,
            "SOPInstanceUID": row.sop_instance_uid,
            "InstanceNumber": row.instance_number,
            "NumberOfFrames": row.number_of_frames,
            "Rows": row.rows,
            "Columns": row.columns,
            "BitsAllocated": row.bits_allocated,
            "AvailableTransferSyntaxUID": row.transfer_syntax_uid,
            "RetrieveURL": f"{series_url}/instances/{row.sop_instance_uid}",
        }
        return shared + _texts(attributes)

    return _array(map(texts, rows), more)


def _study(row: StudyRow) -> dict[str, object]:
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "InstanceAvailability": "ONLINE",
        "StudyInstanceUID": row.study_instance_uid,
        "StudyDate": row.study_date,
        "StudyTime": row.study_time,
        "StudyID": row.study_id,
        "StudyDescription": row.study_description,
        "AccessionNumber": row.accession_number,
        "ModalitiesInStudy": row.modalities_in_study,
        "ReferringPhysicianName": row.referring_physician_name,
        "PatientName": row.patient_name,
        "PatientID": row.patient_id,
        "IssuerOfPatientID": row.issuer_of_patient_id,
        "PatientBirthDate": row.patient_birth_date,
        "PatientSex": row.patient_sex,
        "NumberOfStudyRelatedSeries": row.number_of_study_related_series,
        "NumberOfStudyRelatedInstances": row.number_of_study_related_instances,
    }


def _series(row: SeriesRow) -> dict[str, object]:
    return _study(row.study) | {
        "SeriesInstanceUID": row.series_instance_uid,
        "Modality": row.modality,
        "SeriesNumber": row.series_number,
        "SeriesDescription": row.series_description,
        "SeriesDate": row.series_date,
        "SeriesTime": row.series_time,
        "BodyPartExamined": row.body_part_examined,
        "NumberOfSeriesRelatedInstances": row.number_of_series_related_instances,
        "PerformedProcedureStepStartDate": row.performed_procedure_step_start_date,
        "PerformedProcedureStepStartTime": row.performed_procedure_step_start_time,
    }


def _requests(row: SeriesRow) -> str:
    head, _ = _head("RequestAttributesSequence")
    return f'{head},"Value":{row.request_attributes}}}' if row.request_attributes else head + "}"


def _study_url(row: StudyRow, base_url: str) -> str:
    return f"{base_url}/studies/{row.study_instance_uid}"


def _series_url(row: SeriesRow, base_url: str) -> str:
    return f"{_study_url(row.study, base_url)}/series/{row.series_instance_uid}"


def _array(objects: Iterable[list[str]], more: More) -> str:
    whole = (
        _with(texts, elements) if elements else texts
        for texts, elements in zip(objects, chain(more, repeat({})), strict=False)
    )
    # Each text begins with its tag: in ascending order (section F.2.2).
    return "[" + ",".join("{" + ",".join(sorted(texts)) + "}" for texts in whole) + "]"


def _with(texts: Sequence[str], elements: Mapping[str, object]) -> list[str]:
    """What is answered anyway stays as it is."""
    answered = {text[1:9] for text in texts}
    more = (f'"{tag}":{json.dumps(one)}' for tag, one in elements.items() if tag not in answered)
    return [*texts, *more]


def _texts(attributes: Mapping[str, object]) -> list[str]:
    """Each attribute as ``"<tag>":{…}``; an empty one has no Value (section F.2.5)."""
    texts = []
    for keyword, value in attributes.items():
        head, is_name = _head(keyword)
        values = value if isinstance(value, tuple) else (value,)
        said = [_name(str(item)) if is_name else _plain(item) for item in values if item not in (None, "")]
        texts.append(f'{head},"Value":[{",".join(said)}]}}' if said else head + "}")
    return texts


@functools.cache
def _head(keyword: str) -> tuple[str, bool]:
    """How the attribute's text begins, and whether it is a Person Name."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    vr = dictionary_VR(tag)
    return f'"{tag:08X}":{{"vr":"{vr}"', vr == "PN"


def _plain(value: object) -> str:
    return encode_basestring(value) if isinstance(value, str) else str(value)


def _name(value: str) -> str:
    groups = zip(_NAME_GROUPS, value.split("="), strict=False)
    return "{" + ",".join(f'"{key}":{encode_basestring(group)}' for key, group in groups if group) + "}"
