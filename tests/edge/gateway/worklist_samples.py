"""Work-list items in several scripts, each in the character set that such a hospital uses."""

from __future__ import annotations

from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dsutils import encode

from edge.buffer.worklist_cache import WorklistItem
from edge.gateway.data_set import read_data_set

TODAY = datetime.now().astimezone().strftime("%Y%m%d")

LATIN = "Müller^Jörg"
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
CYRILLIC = "Люксембург^Роза"
GREEK = "Διονυσιος^Ελενη"
KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"

NAMES = {
    "1": (LATIN, "ISO_IR 100"),
    "2": (JAPANESE, ["", "ISO 2022 IR 87"]),
    "3": (CYRILLIC, "ISO_IR 144"),
    "4": (GREEK, "ISO_IR 126"),
    "5": (KOREAN, ["", "ISO 2022 IR 149"]),
    "6": ("Wang^XiaoDong=王^小东", "GB18030"),
    "7": ("Şahin^Çağla=王^小東", "ISO_IR 192"),
}
"""By Patient ID."""


def worklist_item(
    patient_id: str = "1",
    name: str = LATIN,
    character_set: str | list[str] = "ISO_IR 100",
    *,
    station: str = "CT1",
    modality: str = "CT",
    date: str = TODAY,
    time: str = "083000",
    birth_date: str = "19620410",
) -> Dataset:
    step = Dataset()
    step.ScheduledStationAETitle = station
    step.ScheduledProcedureStepStartDate = date
    step.ScheduledProcedureStepStartTime = time
    step.Modality = modality
    step.ScheduledPerformingPhysicianName = ""
    step.ScheduledProcedureStepDescription = "Thorax"
    step.ScheduledProcedureStepID = f"SPS{patient_id}"
    item = Dataset()
    item.SpecificCharacterSet = character_set
    item.AccessionNumber = f"ACC{patient_id}"
    item.PatientName = name
    item.PatientID = patient_id
    item.PatientBirthDate = birth_date
    item.PatientSex = "O"
    item.StudyInstanceUID = f"1.2.826.0.1.{patient_id}"
    item.RequestedProcedureID = f"RP{patient_id}"
    item.RequestedProcedureDescription = "CT thorax"
    item.ScheduledProcedureStepSequence = [step]
    return item


def encoded(ds: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> WorklistItem:
    raw = encode(ds, transfer_syntax_uid != ExplicitVRLittleEndian, True)
    assert raw is not None
    return WorklistItem(raw, transfer_syntax_uid)


def several_scripts() -> list[Dataset]:
    return [
        worklist_item(patient_id, name, character_set, time=f"{8 + int(patient_id):02d}0000")
        for patient_id, (name, character_set) in NAMES.items()
    ]


def name_bytes(ds: Dataset) -> bytes:
    """The bytes of Patient's Name as they go over the wire, padding left out."""
    item = encoded(ds)
    return read_data_set(item.data_set, item.transfer_syntax_uid)[0x00100010].value.rstrip(b" ")
