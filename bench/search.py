"""How long a study-level search takes in a large archive, on SQLite and on PostgreSQL.

    python -m bench.search                     1,000,000 studies, both databases
    python -m bench.search --studies 10000 --database sqlite

Each kind of search is asked for many values drawn by chance, with a limit of 50, as `Archive.find_studies` is by
QIDO-RS and C-FIND. Printed are the median and the 99th percentile in milliseconds; the bars of the archive are a 99th
percentile below 150 ms on SQLite and below 50 ms on PostgreSQL.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from central.access.policy import Arrivals, PatientKey, PatientOf, Scope, StudyKey, person_name_key
from central.archive.archive import Archive
from central.archive.query import StudyQuery, fold, person_name_groups
from central.archive.tables import Series, Study
from central.database import Database, Postgres, open_sqlite
from central.identity.storage_keys import StorageKeys
from tests.postgres import postgres_server

_SEED: Final = 20261127
_LIMIT: Final = 50
_BATCH: Final = 400  # rows a statement: SQLite takes 32,766 values
_FAMILIES: Final = [
    a + b for a in "BDFGKLMNPRSTVZ" for b in ("ARTA", "ERNAT", "IVAK", "ONIĆ", "ULIN", "ÖBER", "ESNA")
]
_GIVEN: Final = ["ANA", "IVO", "MIA", "LUKA", "EVA", "JAN", "LEA", "TIM", "ZOË", "NIKO", "SARA", "OTO"]
_MODALITIES: Final = ["CT", "MR", "DX", "CR", "US", "MG", "XA", "NM"]
_WORDS: Final = [
    "THORAX",
    "ABDOMEN",
    "SCHÄDEL",
    "KNEE",
    "HAND",
    "SPINE",
    "PELVIS",
    "POLYTRAUMA",
    "ANGIO",
    "FOLLOW UP",
]
_PHYSICIANS: Final = 500
_DEPARTMENTS: Final = 2000
_BOXES: Final = 20
_NOW: Final = 1_790_000_000  # seconds since 1970; studies came one a minute until then


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1_000_000, help="how many (default: 1000000)")
    parser.add_argument("--searches", type=int, default=200, help="of each kind (default: 200)")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dicomnet-search-") as folder:
        if options.database != "postgresql":
            db = open_sqlite(Path(folder) / "central.sqlite3")
            _measure("SQLite", db, Path(folder), options.studies, options.searches)
            db.end()
        if options.database != "sqlite":
            with postgres_server() as server:
                postgres = Postgres(server.database("search"), connections=4)
                _measure("PostgreSQL", postgres, Path(folder), options.studies, options.searches)
                postgres.end()


def _measure(name: str, db: Database, folder: Path, studies: int, searches: int) -> None:
    archive = Archive.open(folder, db, StorageKeys(folder / "keys"), encrypts=False)
    began = time.monotonic()
    _fill(db, studies)
    print(f"{name}: {studies:,} studies, filled in {time.monotonic() - began:.0f} s", flush=True)
    for kind, make in _KINDS.items():
        chance = random.Random(_SEED)
        times = []
        found = 0
        for _ in range(searches):
            scope, query = make(chance, studies)
            began = time.perf_counter()
            found += len(archive.find_studies(scope, query))
            times.append((time.perf_counter() - began) * 1000)
        p99 = statistics.quantiles(times, n=100)[98]
        print(
            f"  {kind:44} median {statistics.median(times):7.1f} ms   p99 {p99:7.1f} ms"
            f"   {found / searches:5.1f} found",
            flush=True,
        )


_BIG, _SMALL = "default", "small"  # institutions: one in `_SMALL_ONE_IN` studies is the small one's
_SMALL_ONE_IN: Final = 500
_EVERYTHING: Final = Scope(everything=True, institutions=frozenset({_BIG}))
_LITTLE: Final = Scope(everything=True, institutions=frozenset({_SMALL}))
_BOTH: Final = Scope(everything=True, institutions=frozenset({_BIG, _SMALL}))


def _day(chance: random.Random) -> str:
    return f"20{chance.randint(17, 26):02}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"


def _days(chance: random.Random) -> str:
    month = f"20{chance.randint(17, 26):02}{chance.randint(1, 12):02}"
    return f"{month}01-{month}{chance.randint(1, 28):02}"


def _query(**keys: str) -> StudyQuery:
    return StudyQuery(limit=_LIMIT, **keys)  # type: ignore[arg-type]  # every key given here is text


def _physician(number: int) -> str:
    return f"{_FAMILIES[number % len(_FAMILIES)]}{number}^{_GIVEN[number % len(_GIVEN)]}"


def _some_physician(chance: random.Random) -> str:
    return _physician(chance.randrange(_PHYSICIANS))


def _own(chance: random.Random) -> Scope:
    """What a doctor of a department reaches: by name, by department, by assignment and by grant."""
    return Scope(
        institutions=frozenset({_BIG}),
        referring_physician_keys=frozenset({person_name_key(_some_physician(chance))}),
        requesting_service_keys=frozenset({_department(chance.randrange(_DEPARTMENTS))}),
        patients=frozenset(PatientOf(_BIG, PatientKey("NHS", f"P{number}")) for number in range(5)),
        studies=frozenset(StudyKey(_BIG, f"1.2.826.1.{number}") for number in range(5)),
    )


def _department(number: int) -> str:
    return f"department {number}"


Make = Callable[[random.Random, int], tuple[Scope, StudyQuery]]
_KINDS: Final[dict[str, Make]] = {
    "the newest": lambda _chance, _n: (_EVERYTHING, _query()),
    "a day": lambda c, _n: (_EVERYTHING, _query(study_date=_day(c))),
    "some days and a modality": lambda c, _n: (
        _EVERYTHING,
        _query(study_date=_days(c), modalities_in_study=c.choice(_MODALITIES)),
    ),
    "a modality": lambda c, _n: (_EVERYTHING, _query(modalities_in_study=c.choice(_MODALITIES))),
    "patient id": lambda c, n: (_EVERYTHING, _query(patient_id=f"P{c.randrange(n // 3 + 1)}")),
    "accession number": lambda c, n: (_EVERYTHING, _query(accession_number=f"A{c.randrange(n)}")),
    "accession number that is not there": lambda c, n: (
        _EVERYTHING,
        _query(accession_number=f"X{c.randrange(n)}"),
    ),
    "study instance UID": lambda c, n: (
        _EVERYTHING,
        _query(study_instance_uid=f"1.2.826.1.{c.randrange(n)}"),
    ),
    "family name, begun": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"{c.choice(_FAMILIES)[:3].lower()}*"),
    ),
    "whole name": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"{c.choice(_FAMILIES)}{c.randrange(900)}^{c.choice(_GIVEN)}"),
    ),
    "name begun, in some days": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"{c.choice(_FAMILIES)}*", study_date=_days(c)),
    ),
    "name contains": lambda c, _n: (_EVERYTHING, _query(patient_name=f"*{c.choice(_FAMILIES)[1:5]}*")),
    "name contains, seldom": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"*{c.randrange(100, 900)}^{c.choice(_GIVEN)}*"),
    ),
    "name contains two parts, one too short": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"*{c.choice(_FAMILIES)[1:4]}*{c.randrange(10, 99)}*"),
    ),
    "name contains what nobody is called": lambda c, _n: (
        _EVERYTHING,
        _query(patient_name=f"*qx{c.randrange(99)}*"),
    ),
    "description contains": lambda c, _n: (
        _EVERYTHING,
        _query(study_description=f"*{c.choice(_WORDS)[:4]}*"),
    ),
    "description contains, in some days": lambda c, _n: (
        _EVERYTHING,
        _query(study_description=f"*{c.choice(_WORDS)[:4]}*", study_date=_days(c)),
    ),
    "a doctor's own, the newest": lambda c, _n: (
        _own(c),
        _query(),
    ),
    "a doctor's own, by name": lambda c, _n: (
        _own(c),
        _query(patient_name=f"{c.choice(_FAMILIES)[:2]}*"),
    ),
    "a patient's own": lambda c, n: (
        Scope(patients=frozenset({PatientOf(_BIG, PatientKey("NHS", f"P{c.randrange(n // 3 + 1)}"))})),
        _query(),
    ),
    "a technician's, of a day": lambda c, _n: (
        Scope(
            institutions=frozenset({_BIG}),
            arrivals=Arrivals(_NOW - 86400, frozenset({f"gw-{c.randrange(_BOXES)}"}), frozenset({"x-ray"})),
        ),
        _query(),
    ),
    "the newest of a small institution": lambda _c, _n: (_LITTLE, _query()),
    "a modality, of a small institution": lambda c, _n: (
        _LITTLE,
        _query(modalities_in_study=c.choice(_MODALITIES)),
    ),
    "name contains, of a small institution": lambda c, _n: (
        _LITTLE,
        _query(patient_name=f"*{c.choice(_FAMILIES)[1:5]}*"),
    ),
    "family name, of a small institution": lambda c, _n: (
        _LITTLE,
        _query(patient_name=f"{c.choice(_FAMILIES)[:3].lower()}*"),
    ),
    "description contains, of a small institution": lambda c, _n: (
        _LITTLE,
        _query(study_description=f"*{c.choice(_WORDS)[:4]}*"),
    ),
    "the newest of two institutions": lambda _c, _n: (_BOTH, _query()),
    "name contains, of two institutions": lambda c, _n: (
        _BOTH,
        _query(patient_name=f"*{c.choice(_FAMILIES)[1:5]}*"),
    ),
    "page 100 of the newest": lambda _c, _n: (
        _EVERYTHING,
        StudyQuery(limit=_LIMIT, offset=99 * _LIMIT),
    ),
}


def _fill(db: Database, studies: int) -> None:
    rows = _rows(studies)
    with db.writing():
        while batch := [row for _, row in zip(range(_BATCH), rows, strict=False)]:
            Study.insert_many([study for study, _ in batch]).execute(db)
            Series.insert_many([series for _, series in batch]).execute(db)
    db.execute_sql("ANALYZE")


def _rows(studies: int) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    chance = random.Random(_SEED)
    for number in range(studies):
        name = f"{chance.choice(_FAMILIES)}{chance.randrange(900)}^{chance.choice(_GIVEN)}"
        physician = _some_physician(chance)
        description = f"{chance.choice(_WORDS)} {chance.choice(_WORDS)}"
        modality = chance.choice(_MODALITIES)
        day = _day(chance)
        alphabetic, others = person_name_groups(name)
        yield (
            {
                "id": number + 1,
                "study_instance_uid": f"1.2.826.1.{number}",
                "patient_name": name,
                "patient_name_key": alphabetic,
                "patient_name_other_keys": others,
                "patient_id": f"P{chance.randrange(studies // 3 + 1)}",
                "issuer_of_patient_id": "NHS",
                "patient_birth_date": "19700101",
                "patient_sex": "O",
                "study_date": day,
                "study_time": f"{chance.randrange(24):02}{chance.randrange(60):02}00",
                "accession_number": f"A{number}",
                "study_description": description,
                "study_description_key": fold(description),
                "study_id": str(number),
                "referring_physician_name": physician,
                "referring_physician_key": person_name_key(physician),
                "modalities": modality,
                "number_of_series": 1,
                "number_of_instances": 1,
                "institution": _SMALL if number % _SMALL_ONE_IN == 0 else _BIG,
                "requesting_service_key": _department(chance.randrange(_DEPARTMENTS)),
                "institutional_department_key": "radiology",
                "arrived_from": f"gw-{chance.randrange(_BOXES)}",
                "arrived_at_utc": _NOW - 60 * (studies - number),
            },
            {
                "id": number + 1,
                "study": number + 1,
                "series_instance_uid": f"1.2.826.2.{number}",
                "modality": modality,
                "series_number": 1,
                "series_description": "",
                "series_description_key": "",
                "body_part_examined": "",
                "series_date": day,
                "series_time": "",
                "number_of_instances": 1,
            },
        )


if __name__ == "__main__":
    main()
