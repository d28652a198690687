"""Orthanc with many studies: its index filled as it fills it itself, which would take hours by C-STORE.

Orthanc 1.10 takes 75 to 85 images a second from four senders on a busy machine of two cores, and 1.9 ms of processor
time for each, 2.4 ms after 6,000: a million studies are hours. So its tables (SQLite, version 6) get the rows that it
makes of an image that is sent to it, in its order. `as_if_sent` proves that: the same studies, sent to one Orthanc
by C-STORE and filled into another, give the same rows and the same answers.
Not made are what no search reads: sizes and hashes of files, and when a patient was last added to.
The files themselves are made by `make_files` where a search will read them: Orthanc's plugin reads one of each study
that it answers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench.archive import await_answer, peer_process
from bench.studies import MadeStudy, made_studies
from tests.peers_installed import orthanc_dicomweb, program
from tests.ports import free_base_port

_VERSION: Final = "6"  # of Orthanc's tables
_START_S: Final = 300.0
_TIMEOUT_S: Final = 600.0
_BATCH: Final = 5000
_PATIENT, _STUDY, _SERIES, _INSTANCE = 1, 2, 3, 4  # Orthanc's levels
_NEW: Final = {_PATIENT: 3, _STUDY: 5, _SERIES: 4, _INSTANCE: 2}  # its changes, in a row for each resource
_STABLE: Final = {_PATIENT: 12, _STUDY: 13, _SERIES: 14}
_SENDER, _ITSELF = "STORESCU", "ORTHANC"  # AE titles
_WHEN: Final = "20261128T120000"
_INDEXES: Final = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
_TABLES: Final = ("Resources", "MainDicomTags", "DicomIdentifiers", "Metadata", "AttachedFiles")
_CHECKED: Final = 20  # studies that are sent as well
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Orthanc:
    """One that runs. `client` asks its DICOMweb plugin, `url` its own API."""

    client: httpx.Client
    url: str
    dicom_port: int
    process: psutil.Process


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Orthanc]:
    """Orthanc on `folder`, which it makes if it is not there: index and files lie in its `index`."""
    folder.mkdir(exist_ok=True)
    port = free_base_port(2)
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "index"),
                "IndexDirectory": str(folder / "index"),
                "HttpPort": port,
                "DicomPort": port + 1,
                "DicomAet": _ITSELF,
                "DicomAlwaysAllowStore": True,
                "RemoteAccessAllowed": False,
                "StorageAccessOnFind": "Never",
                "StoreMD5ForAttachments": False,
                "WebDavEnabled": False,
                "KeepAlive": True,
                "TcpNoDelay": True,
                "StableAge": 1,
                "Plugins": [str(orthanc_dicomweb())],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "QidoCaseSensitive": False},
            }
        )
    )
    url = f"http://127.0.0.1:{port}"
    with peer_process([str(program("Orthanc")), str(config)], folder) as process:
        await_answer(f"{url}/system", _START_S)
        with httpx.Client(
            base_url=f"{url}/dicom-web",
            headers={"Accept": "application/dicom+json"},
            timeout=_TIMEOUT_S,
            trust_env=False,
            # It ends connections that nobody uses while others are asked.
            limits=httpx.Limits(keepalive_expiry=1.0),
        ) as client:
            yield Orthanc(client, url, port + 1, psutil.Process(process.pid))


def make(folder: Path, studies: Iterable[MadeStudy]) -> None:
    """An Orthanc that has `studies`, not running, in the new `folder`."""
    with running(folder):
        pass  # which makes its tables
    _fill(folder / "index" / "index", studies)


def make_files(folder: Path, studies: Iterable[MadeStudy]) -> None:
    """The files of `studies` where the Orthanc of `folder` reads them."""
    for one in studies:
        for sop_instance_uid, ds in _images(one):
            path = _stored(folder, sop_instance_uid)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                ds.save_as(path, enforce_file_format=True)


def query(keys: dict[str, str]) -> str:
    """`keys` as a query as this plugin reads it: it takes `%2A` for what it says, not for an asterisk."""
    return "&".join(f"{key}={value}" for key, value in keys.items())


def as_if_sent(scratch: Path, searches: Callable[[MadeStudy], Iterable[dict[str, str]]]) -> int:
    """Compares what Orthanc makes of a few studies that it was sent with what `make` makes of them.

    Rows are compared by the resource that they are of, without what `make` leaves out, the file's name and the time;
    answers of QIDO-RS to `searches` of each study as JSON, without the address that they came from.

    Returns
    -------
    int
        How many answers were compared; all had the same studies, with the same values.

    Raises
    ------
    SystemExit
        If a row or an answer differs.
    """
    some = list(made_studies(_CHECKED))
    with tempfile.TemporaryDirectory(dir=scratch) as place, contextlib.ExitStack() as ending:
        sent, filled = Path(place) / "sent", Path(place) / "filled"
        make(filled, some)
        make_files(filled, some)
        orthancs = [ending.enter_context(running(folder)) for folder in (sent, filled)]
        _send(orthancs[0], Path(place), some)
        compared = 0
        for keys in (keys for one in some for keys in searches(one)):
            answers = [_answer(orthanc, keys) for orthanc in orthancs]
            if answers[0] != answers[1]:
                raise SystemExit(
                    f"{keys}: Orthanc answers what it was sent otherwise than what was filled in"
                )
            compared += bool(answers[0])
        ending.close()
        if _described(sent / "index" / "index") != _described(filled / "index" / "index"):
            raise SystemExit("Orthanc makes other rows of what it is sent than were filled in")
    return compared


def _answer(orthanc: Orthanc, keys: dict[str, str]) -> list[Any]:
    answer = orthanc.client.get(f"studies?{query(keys)}")
    assert answer.status_code == 200, (keys, answer.status_code, answer.text[:300])
    studies = answer.json()
    for study in studies:
        del study["00081190"]  # Retrieve URL
    return sorted(studies, key=lambda study: str(study["0020000D"]["Value"]))


def _send(orthanc: Orthanc, scratch: Path, studies: Iterable[MadeStudy]) -> None:
    folder = scratch / "to send"
    folder.mkdir()
    for one in studies:
        for sop_instance_uid, ds in _images(one):
            ds.save_as(folder / sop_instance_uid, enforce_file_format=True)
    command = [program("storescu") or "storescu", "-aet", _SENDER, "-aec", _ITSELF, "+sd", "127.0.0.1"]
    done = subprocess.run(
        [*command, str(orthanc.dicom_port), str(folder)],
        env={**os.environ, "TCP_NODELAY": "1"},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"storescu: {done.stdout[-500:]}{done.stderr[-500:]}")


def _described(index: Path) -> dict[str, list[Row]]:
    """What is in the tables, each row with its resource's public id in place of its number."""
    db = sqlite3.connect(index)
    of = "JOIN Resources r ON r.internalId = t"
    tables = {
        # In their order, by which SQLite chooses where it knows no better.
        "indexes": "SELECT row_number() OVER (ORDER BY rowid), name FROM sqlite_master WHERE type = 'index'",
        "Resources": "SELECT t.resourceType, t.publicId, p.publicId FROM Resources t"
        " LEFT JOIN Resources p ON p.internalId = t.parentId",
        "MainDicomTags": f"SELECT r.publicId, tagGroup, tagElement, value FROM MainDicomTags t {of}.id",
        "DicomIdentifiers": f"SELECT r.publicId, tagGroup, tagElement, value FROM DicomIdentifiers t {of}.id",
        # 2 and 7 are times.
        "Metadata": f"SELECT r.publicId, type, CASE WHEN type IN (2, 7) THEN '' ELSE value END FROM Metadata t {of}.id",
        "AttachedFiles": "SELECT r.publicId, fileType, compressionType, uncompressedMD5, compressedMD5"
        f" FROM AttachedFiles t {of}.id",
        "Changes": f"SELECT r.publicId, changeType, t.resourceType FROM Changes t {of}.internalId"
        " WHERE changeType IN (2, 3, 4, 5)",  # the others are made a while after
        "PatientRecyclingOrder": f"SELECT r.publicId FROM PatientRecyclingOrder t {of}.patientId",
    }
    with contextlib.closing(db):
        return {name: sorted(db.execute(rows), key=repr) for name, rows in tables.items()}


def _fill(index: Path, studies: Iterable[MadeStudy]) -> None:
    db = sqlite3.connect(index)
    (version,) = db.execute("SELECT value FROM GlobalProperties WHERE property = 1").fetchone()
    if version != _VERSION:
        raise SystemExit(
            f"this Orthanc has version {version} of its tables; the bench knows version {_VERSION}"
        )
    for pragma in ("synchronous = OFF", "cache_size = -262144"):
        db.execute(f"PRAGMA {pragma}")
    indexes = db.execute(_INDEXES).fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    resources = _resources(studies)
    while batch := list(islice(resources, _BATCH)):
        for table in _TABLES:
            rows = [row for resource in batch for row in resource.get(table, ())]
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        numbered = [(resource["Resources"][0][0], resource["Resources"][0][1]) for resource in batch]
        for changes in (_NEW, _STABLE):
            db.executemany(
                "INSERT INTO Changes VALUES (NULL, ?, ?, ?, ?)",
                [(changes[level], number, level, _WHEN) for number, level in numbered if level in changes],
            )
    for _, statement in indexes:
        db.execute(statement)
    db.commit()
    db.close()


def _resources(studies: Iterable[MadeStudy]) -> Iterator[dict[str, list[Row]]]:
    """The rows of each resource by table, in Orthanc's order: of a new image what is new, from below."""
    patients: dict[str, int] = {}
    number = 0
    for one in studies:
        study_number = None
        patient_ids = (one.patient_id,)
        study_ids = (*patient_ids, one.study_instance_uid)
        for at, modality in enumerate(one.modalities.split("\\"), 1):
            series_ids = (*study_ids, f"1.2.826.2.{one.number}.{at}")
            sop_instance_uid = f"{series_ids[-1]}.1"
            instance, series = number + 1, number + 2
            number = series
            is_new_study, is_new_patient = study_number is None, one.patient_id not in patients
            if study_number is None:
                number = study_number = number + 1
            if is_new_patient:
                number = patients[one.patient_id] = number + 1
            yield _resource(
                instance,
                _INSTANCE,
                (*series_ids, sop_instance_uid),
                series,
                {(0x08, 0x18): sop_instance_uid, (0x20, 0x13): "1"},
                {
                    1: "1",  # index in its series
                    2: _WHEN,
                    3: _SENDER,
                    8: "DicomProtocol",
                    9: ExplicitVRLittleEndian,
                    10: CTImageStorage,
                    11: "127.0.0.1",
                    12: _ITSELF,
                },
            )
            tags = {(0x08, 0x60): modality, (0x20, 0x0E): series_ids[-1]}
            yield _resource(series, _SERIES, series_ids, study_number, tags, {3: _SENDER, 7: _WHEN})
            patient = {
                (0x10, 0x10): one.patient_name,
                (0x10, 0x20): one.patient_id,
                (0x10, 0x30): one.patient_birth_date,
                (0x10, 0x40): one.patient_sex,
            }
            if is_new_study:
                tags = {
                    **patient,
                    (0x08, 0x20): one.study_date,
                    (0x08, 0x30): one.study_time,
                    (0x08, 0x50): one.accession_number,
                    (0x08, 0x90): one.referring_physician_name,
                    (0x08, 0x1030): one.study_description,
                    (0x20, 0x0D): one.study_instance_uid,
                    (0x20, 0x10): str(one.number),
                }
                parent = patients[one.patient_id]
                yield _resource(study_number, _STUDY, study_ids, parent, tags, {7: _WHEN})
            if is_new_patient:
                yield _resource(patients[one.patient_id], _PATIENT, patient_ids, None, patient, {7: _WHEN})


# What Orthanc keeps as well in the form that it compares.
_IDENTIFIERS: Final = {
    (0x08, 0x18),
    (0x08, 0x20),
    (0x08, 0x50),
    (0x08, 0x1030),
    (0x10, 0x10),
    (0x10, 0x20),
    (0x10, 0x30),
    (0x20, 0x0D),
    (0x20, 0x0E),
}


def _resource(
    number: int,
    level: int,
    ids: tuple[str, ...],
    parent: int | None,
    tags: dict[tuple[int, int], str],
    metadata: dict[int, str],
) -> dict[str, list[Row]]:
    digest = hashlib.sha1("|".join(ids).encode(), usedforsecurity=False).hexdigest()
    public_id = "-".join(digest[at : at + 8] for at in range(0, 40, 8))
    rows: dict[str, list[Row]] = {
        "Resources": [(number, level, public_id, parent)],
        "MainDicomTags": [(number, *tag, text) for tag, text in tags.items()],
        "DicomIdentifiers": [
            (number, *tag, _normal(text)) for tag, text in tags.items() if tag in _IDENTIFIERS
        ],
        "Metadata": [(number, kind, text) for kind, text in metadata.items()],
    }
    if level == _INSTANCE:
        rows["AttachedFiles"] = [(number, 1, _attachment(ids[-1]), 0, 0, 1, "", "")]
    return rows


def _normal(text: str) -> str:
    """As Orthanc compares it: what is not ASCII left out, upper case."""
    return text.encode("ascii", "ignore").decode().upper().strip()


def _attachment(sop_instance_uid: str) -> str:
    """The name of its file."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, sop_instance_uid))


def _stored(folder: Path, sop_instance_uid: str) -> Path:
    name = _attachment(sop_instance_uid)
    return folder / "index" / name[:2] / name[2:4] / name


def _images(one: MadeStudy) -> Iterator[tuple[str, Dataset]]:
    """An image of each series: the same data set, changed."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = one.study_date, one.study_time, one.accession_number
    ds.ReferringPhysicianName, ds.StudyDescription = one.referring_physician_name, one.study_description
    ds.PatientName, ds.PatientID = one.patient_name, one.patient_id
    ds.PatientBirthDate, ds.PatientSex = one.patient_birth_date, one.patient_sex
    ds.StudyInstanceUID, ds.StudyID, ds.InstanceNumber = one.study_instance_uid, str(one.number), 1
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for at, modality in enumerate(one.modalities.split("\\"), 1):
        ds.Modality, ds.SeriesInstanceUID = modality, f"1.2.826.2.{one.number}.{at}"
        ds.SOPInstanceUID = f"{ds.SeriesInstanceUID}.1"
        yield ds.SOPInstanceUID, ds
