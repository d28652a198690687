"""QIDO-RS of central beside Orthanc's among many studies: the same studies in both, the same searches of both.

    python -m bench.qidoscale [--studies 10000,1000000] [--searches 40]

Nobody can send a million studies in the time of a bench, so both indexes are filled by themselves: central's as
`bench.search` does, and Orthanc's (SQLite, version 6 of its tables) with the rows that it makes when it is sent a
study. Orthanc's plugin reads a file of each study that it answers: these are made, untimed, before each search. Each
search is asked of both, one after the other, with a limit of 50; what each finds below the limit must be the same.
Modalities, names and descriptions are asked of central alone: Orthanc's QIDO-RS finds none in an index that was
filled like this.
Central does what Orthanc does not: each request is authorized, on record before it is answered, and sorted.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import sqlite3
import statistics
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from bench.archive import await_answer, peer_process
from bench.studies import MODALITIES, MadeStudy, fill, made_studies
from central.access.policy import Role
from central.config import Settings
from central.foundation import Foundation, open_archive
from contract.settings import load_settings
from tests.peers_installed import orthanc_dicomweb, program
from tests.ports import free_base_port

_PASSWORD: Final = "a password for benches only"
_LIMIT: Final = 50
_BUDGET_S: Final = 20.0  # for one kind of search in one archive
_TIMEOUT_S: Final = 60.0
_START_S: Final = 300.0
_BATCH: Final = 5000
_SEED: Final = 20261129
_UID: Final = "0020000D"
_INSTANCE: Final = 4  # Orthanc's level
_INDEXES: Final = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
Make = Callable[[random.Random, MadeStudy], dict[str, str]]
_KINDS: Final[dict[str, Make]] = {
    "no key": lambda _c, _one: {},
    "a day": lambda _c, one: {"StudyDate": one.study_date},
    "a month": lambda _c, one: {"StudyDate": f"{one.study_date[:6]}01-{one.study_date[:6]}31"},
    "a modality": lambda c, _one: {"ModalitiesInStudy": c.choice(MODALITIES)},
    "a modality in a month": lambda c, one: {
        "StudyDate": f"{one.study_date[:6]}01-{one.study_date[:6]}31",
        "ModalitiesInStudy": c.choice(MODALITIES),
    },
    "patient id": lambda _c, one: {"PatientID": one.patient_id},
    "accession number": lambda _c, one: {"AccessionNumber": one.accession_number},
    "study instance UID": lambda _c, one: {"StudyInstanceUID": one.study_instance_uid},
    "family name begun": lambda c, one: {"PatientName": f"{one.patient_name[: c.randint(3, 5)]}*"},
    "whole name": lambda _c, one: {"PatientName": one.patient_name},
    "name contains": lambda _c, one: {"PatientName": f"*{one.patient_name[1:5]}*"},
    "name begun, in a month": lambda _c, one: {
        "PatientName": f"{one.patient_name[:3]}*",
        "StudyDate": f"{one.study_date[:6]}01-{one.study_date[:6]}31",
    },
    "description contains": lambda _c, one: {"StudyDescription": f"*{one.study_description.split(' ')[1]}*"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", default="10000,1000000", help="how many (default: 10000,1000000)")
    parser.add_argument("--searches", type=int, default=40, help="of each kind (default: 40)")
    options = parser.parse_args()
    if program("Orthanc") is None or orthanc_dicomweb() is None:
        print(
            "Orthanc and its DICOMweb plugin are not installed (Debian: orthanc, orthanc-dicomweb): left out"
        )
        return
    for studies in map(int, options.studies.split(",")):
        with (
            tempfile.TemporaryDirectory(prefix="dicomnet-qido-") as scratch,
            contextlib.ExitStack() as running,
        ):
            began = time.monotonic()
            central = running.enter_context(_central(Path(scratch) / "central", studies))
            orthanc = running.enter_context(_orthanc(Path(scratch) / "orthanc", studies))
            print(f"{studies:,} studies in each, there in {time.monotonic() - began:.0f} s")
            _compare(central, orthanc, Path(scratch) / "orthanc", studies, options.searches)


def _compare(central: httpx.Client, orthanc: httpx.Client, folder: Path, studies: int, searches: int) -> None:
    made = list(made_studies(studies))
    made.reverse()  # at the place of its number
    every = max(1, studies // 2000)
    # Orthanc leaves letters with accents out of what it compares: of those names no two archives say the same.
    known = [one for one in made[every // 2 :: every] if one.patient_name.isascii()]
    print(
        f"{'median and 99th percentile, ms':30}{'central':>20}{'Orthanc':>20}   Orthanc's median by central's"
    )
    for kind, make in _KINDS.items():
        chance = random.Random(_SEED)
        times: tuple[list[float], list[float]] = ([], [])
        both = not any(word in kind for word in ("modality", "name", "contains"))
        for number in range(searches):
            keys = {**make(chance, chance.choice(known)), "limit": str(_LIMIT)}
            if both:
                _make_files(folder, (made[at] for at in _will_be_answered(orthanc, keys)))
            found = {}
            for which in ((0, 1) if number % 2 else (1, 0)) if both else (0,):
                found[which], took = _asked((central, orthanc)[which], keys)
                times[which].append(took)
            if both and (len(found[0]) != len(found[1]) or (len(found[0]) < _LIMIT and found[0] != found[1])):
                raise SystemExit(f"{keys}: central finds {len(found[0])} studies and Orthanc {len(found[1])}")
            if number and sum(times[1]) / 1000 > _BUDGET_S:
                break
        line = "".join(f"{statistics.median(some):12.1f} {_p99(some):7.1f}" for some in times if some)
        ratio = f"{statistics.median(times[1]) / statistics.median(times[0]):10.2f} x" if both else ""
        print(f"  {kind:28}{line}{ratio}   of {len(times[0])}", flush=True)


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98]


def _asked(client: httpx.Client, keys: dict[str, str]) -> tuple[set[str], float]:
    began = time.perf_counter()
    answer = client.get("studies", params=keys)
    took = (time.perf_counter() - began) * 1000
    if answer.status_code == 204:
        return set(), took
    assert answer.status_code == 200, (answer.status_code, answer.text[:300])
    return {study[_UID]["Value"][0] for study in answer.json()}, took


@contextlib.contextmanager
def _central(folder: Path, studies: int) -> Iterator[httpx.Client]:
    folder.mkdir()
    port = free_base_port(2)
    config = folder / "central.toml"
    config.write_text(
        f'[people]\nport = {port}\n[gateways]\nport = {port + 1}\n[storage]\nroot = "{folder / "root"}"\n'
    )
    settings = load_settings(Settings, config, environ={})
    foundation = Foundation.open(settings)
    foundation.accounts.create_user("bench", _PASSWORD, Role.RADIOLOGIST)
    open_archive(settings.storage, foundation.db)
    fill(foundation.db, studies, institutions=1, withdrawals=False)
    foundation.close()
    serve = str(Path(sysconfig.get_path("scripts")) / "dicomnet-central")
    with peer_process([serve, "serve", "--config", str(config)], folder):
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/healthz", _START_S)
        form = {"username": "bench", "password": _PASSWORD}
        token = httpx.post(f"{url}/api/auth/token", data=form, trust_env=False).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/dicom+json"}
        with _client(url, headers) as client:
            yield client


@contextlib.contextmanager
def _orthanc(folder: Path, studies: int) -> Iterator[httpx.Client]:
    folder.mkdir()
    port = free_base_port(2)
    config = folder / "orthanc.json"
    config.write_text(
        json.dumps(
            {
                "StorageDirectory": str(folder / "index"),
                "IndexDirectory": str(folder / "index"),
                "HttpPort": port,
                "DicomPort": port + 1,
                "RemoteAccessAllowed": False,
                "StorageAccessOnFind": "Never",
                "KeepAlive": True,
                "TcpNoDelay": True,
                "Plugins": [str(orthanc_dicomweb())],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "QidoCaseSensitive": False},
            }
        )
    )
    command, url = [str(program("Orthanc")), str(config)], f"http://127.0.0.1:{port}"
    with peer_process(command, folder):  # which makes its tables
        await_answer(f"{url}/system", _START_S)
    _fill_orthanc(folder / "index" / "index", studies)
    with peer_process(command, folder):
        await_answer(f"{url}/system", _START_S)
        with _client(url, {"Accept": "application/dicom+json"}) as client:
            yield client


def _fill_orthanc(index: Path, studies: int) -> None:
    """The rows that Orthanc 1.10 makes of a patient, a study, its series and an image of each."""
    db = sqlite3.connect(index)
    (version,) = db.execute("SELECT value FROM GlobalProperties WHERE property = 1").fetchone()
    if version != "6":
        raise SystemExit(f"this Orthanc has version {version} of its tables; the bench knows version 6")
    db.execute("PRAGMA synchronous = OFF")
    indexes = db.execute(_INDEXES).fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    rows = _orthanc_rows(studies)
    while batch := list(islice(rows, _BATCH)):
        for at, table in enumerate(("Resources", "MainDicomTags", "DicomIdentifiers", "AttachedFiles")):
            some = [row for resource in batch for row in resource[at]]
            marks = ", ".join("?" * len(some[0])) if some else ""
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", some)  # one of the four above
    for _, statement in indexes:
        db.execute(statement)
    db.commit()
    db.close()


Resource = tuple[list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]], list[tuple[Any, ...]]]


def _orthanc_rows(studies: int) -> Iterator[Resource]:
    """Of each study the rows for the four tables."""
    patients: dict[int, int] = {}
    number = 0

    def made(
        level: int, parent: int | None, tags: dict[tuple[int, int], str], matched: set[tuple[int, int]]
    ) -> int:
        nonlocal number
        number += 1
        digest = hashlib.sha1(str(number).encode(), usedforsecurity=False).hexdigest()
        public = "-".join(digest[at : at + 8] for at in range(0, 40, 8))
        of_study[0].append((number, level, public, parent))
        of_study[1].extend((number, *tag, text) for tag, text in tags.items())
        of_study[2].extend((number, *tag, _normal(tags[tag])) for tag in tags if tag in matched)
        if level == _INSTANCE:
            of_study[3].append((number, 1, _attachment(tags[0x08, 0x18]), 0, 0, 1, "", ""))
        return number

    for one in made_studies(studies):
        of_study: Resource = ([], [], [], [])
        patient = {
            (0x10, 0x10): one.patient_name,
            (0x10, 0x20): one.patient_id,
            (0x10, 0x30): one.patient_birth_date,
            (0x10, 0x40): one.patient_sex,
        }
        if one.patient not in patients:
            patients[one.patient] = made(1, None, patient, set(patient) - {(0x10, 0x40)})
        study = {
            **patient,
            (0x08, 0x20): one.study_date,
            (0x08, 0x30): one.study_time,
            (0x08, 0x50): one.accession_number,
            (0x08, 0x90): one.referring_physician_name,
            (0x08, 0x1030): one.study_description,
            (0x20, 0x0D): one.study_instance_uid,
            (0x20, 0x10): str(one.number),
        }
        unmatched = {(0x10, 0x40), (0x08, 0x30), (0x08, 0x90), (0x20, 0x10)}
        parent = made(2, patients[one.patient], study, set(study) - unmatched)
        for at, modality in enumerate(one.modalities.split("\\"), 1):
            uid = f"1.2.826.2.{one.number}.{at}"
            series = made(3, parent, {(0x08, 0x60): modality, (0x20, 0x0E): uid}, {(0x20, 0x0E)})
            made(_INSTANCE, series, {(0x08, 0x18): f"{uid}.1", (0x20, 0x13): "1"}, {(0x08, 0x18)})
        yield of_study


def _normal(text: str) -> str:
    """As Orthanc compares it: what is not ASCII left out, upper case."""
    return text.encode("ascii", "ignore").decode().upper().strip()


def _attachment(sop_instance_uid: str) -> str:
    """Its name in Orthanc's store."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, sop_instance_uid))


def _make_files(folder: Path, some: Iterable[MadeStudy]) -> None:
    """The file of an image of each series."""
    for one in some:
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
            name = _attachment(ds.SOPInstanceUID)
            path = folder / "index" / name[:2] / name[2:4] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                ds.save_as(path, enforce_file_format=True)


def _will_be_answered(orthanc: httpx.Client, keys: dict[str, str]) -> Iterator[int]:
    """Which studies Orthanc's index has for `keys`."""
    query = {key: value for key, value in keys.items() if key != "limit"}
    asked = {"Level": "Study", "Query": query, "Limit": _LIMIT, "Expand": True}
    answer = orthanc.post(str(orthanc.base_url).replace("/dicom-web/", "/tools/find"), json=asked)
    return (int(study["MainDicomTags"]["StudyID"]) for study in answer.json())


def _client(url: str, headers: dict[str, str]) -> httpx.Client:
    return httpx.Client(
        base_url=f"{url}/dicom-web",
        headers=headers,
        timeout=_TIMEOUT_S,
        trust_env=False,
        # While one is asked, or files are made, the other ends connections that nobody uses.
        limits=httpx.Limits(keepalive_expiry=1.0),
    )


if __name__ == "__main__":
    main()
