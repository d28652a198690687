"""A made-up archive's studies, as a hospital has them: few names of many, much of lately, patients who come again.

The same number of studies gives the same studies, wherever they are put: into central's index here, into Orthanc's
by `bench.qidoscale`. They are put there as fast as the database takes them: without indexes, which are made
afterwards.
"""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any, Final

import peewee
import psycopg

from central.access.consent import ConsentWithdrawal
from central.access.policy import department_key, person_name_key
from central.archive.postings import make_postings
from central.archive.query import fold, person_name_groups
from central.archive.tables import Series, Study
from central.archive.text_index import make_text_index
from central.database import Database, Sqlite
from central.postgres import Postgres

BIG, MIDDLE, SMALL = INSTITUTIONS = ("default", "north", "south")
BOXES: Final = 20
ISSUER: Final = "NHS"
NOW: Final = datetime.date(2026, 11, 27)
NOW_S: Final = int(datetime.datetime(2026, 11, 27, tzinfo=datetime.UTC).timestamp())
_SEED: Final = 20261127
_DAYS: Final = 3652
_MIDDLE_SHARE, _SMALL_SHARE = 0.2, 0.002
_SHARES: Final = {"DX": 34, "CT": 24, "US": 16, "MR": 15, "MG": 6, "XA": 3.5, "NM": 1.5}
MODALITIES: Final = (*_SHARES, "SR")
_REPORTED: Final = 0.08  # so many studies have a series of structured reports, too
_REGIONS: Final = {
    "DX": ["Thorax p.a.", "Knee", "Hand", "Pelvis", "Shoulder", "Ankle", "Spine lumbar", "Schädel"],
    "CT": ["Thorax", "Abdomen", "Schädel nativ", "Angio Aorta", "Polytrauma", "Spine", "Follow up Thorax"],
    "US": ["Abdomen", "Thyroid", "Kidney", "Carotis", "Testes"],
    "MR": ["Knee", "Brain", "Spine lumbar", "Prostata", "Shoulder", "Heart", "Wrist"],
    "MG": ["Screening Mammography", "Mammography unilateral"],
    "XA": ["Angio coronary", "Angio pelvis", "PTA"],
    "NM": ["Bone scan", "Thyroid scan"],
}
_SYLLABLES: Final = (
    "BAR",
    "KO",
    "MÜL",
    "NO",
    "TA",
    "VIĆ",
    "SEN",
    "LER",
    "GAR",
    "ŠA",
    "MI",
    "TZ",
    "ROS",
    "DU",
)
# fmt: off
_GIVEN: Final = [
    "ANNA", "PETER", "MARIA", "JAN", "EVA", "THOMAS", "LUKA", "ZOË", "NIKO", "SARA", "OTO", "IVO", "MIA", "LEA", "TIM",
    "JOSÉ", "ADAM", "ELLA", "PAUL", "INÈS", "HUGO", "NORA", "KARL", "OLGA", "EMIL", "ROSA", "MAX", "IDA", "LEO", "UTE",
    "FRANZ", "ELKE", "JÖRG", "BIRGIT", "UWE", "HEIKE", "RALF", "SILKE", "KAI", "ANKE",
]
# fmt: on
_FIRST_BIRTH: Final = datetime.date(1930, 1, 1)
_BIRTH_DAYS: Final = 90 * 365
_DEPARTMENTS: Final = 60
_PHYSICIANS: Final = 2000


def _families() -> list[str]:
    names = [a + b for a in _SYLLABLES for b in _SYLLABLES]
    return [*names, *(name + c for name in names for c in _SYLLABLES)]


FAMILIES: Final = _families()


def _skewed(count: int, head: int) -> list[float]:
    """Weights after Zipf, summed up: the n-th is as frequent as 1/(n + head)."""
    return list(accumulate(1 / (number + head) for number in range(count)))


@dataclass(frozen=True)
class MadeStudy:
    """`modalities` as DICOM lists them; `day` is days since the first; `institution` as the index names it."""

    number: int
    institution: str
    patient: int
    patient_name: str
    study_date: str
    study_time: str
    modalities: str
    study_description: str
    referring_physician_name: str
    department: str
    box: int

    @property
    def study_instance_uid(self) -> str:
        return f"1.2.826.1.{self.number}"

    @property
    def patient_id(self) -> str:
        return f"P{self.patient:07}"

    @property
    def patient_birth_date(self) -> str:
        return f"{_FIRST_BIRTH + datetime.timedelta(days=self.patient * 7919 % _BIRTH_DAYS):%Y%m%d}"

    @property
    def patient_sex(self) -> str:
        return "FM"[self.patient % 2]

    @property
    def accession_number(self) -> str:
        return f"{self.study_date[2:4]}-{self.number:07}"

    @property
    def arrived_at_utc(self) -> int:
        return NOW_S - 60 * self.number


def physician(number: int) -> str:
    return f"{FAMILIES[number * 7 % len(FAMILIES)]}^{_GIVEN[number % len(_GIVEN)]}^^DR"


def department(number: int) -> str:
    return f"Ward {number}"


def some_physician(chance: random.Random) -> str:
    return physician(_pick(chance, _PHYSICIAN_WEIGHTS))


def some_department(chance: random.Random) -> str:
    return department(_pick(chance, _DEPARTMENT_WEIGHTS))


_PHYSICIAN_WEIGHTS: Final = _skewed(_PHYSICIANS, 20)
_DEPARTMENT_WEIGHTS: Final = _skewed(_DEPARTMENTS, 4)


def _pick(chance: random.Random, weights: list[float]) -> int:
    return chance.choices(range(len(weights)), cum_weights=weights)[0]


def made_studies(count: int, institutions: int = 1) -> Iterator[MadeStudy]:
    """`count` studies, the oldest first but for some that were imported later; number 0 is the newest."""
    chance = random.Random(_SEED)
    patients = max(1, count * 3 // 10)
    families = chance.choices(FAMILIES, cum_weights=_skewed(len(FAMILIES), 8), k=patients)
    given = chance.choices(_GIVEN, cum_weights=_skewed(len(_GIVEN), 5), k=patients)
    middle_names = chance.choices(["", *_GIVEN], weights=[8 * len(_GIVEN), *[1] * len(_GIVEN)], k=patients)
    names = [
        f"{family}^{one}^{other}".rstrip("^")
        for family, one, other in zip(families, given, middle_names, strict=True)
    ]
    dates = [(NOW - datetime.timedelta(days=age)).strftime("%Y%m%d") for age in range(_DAYS)]
    ages = sorted((int(_DAYS * chance.random() ** 1.5) for _ in range(count)), reverse=True)
    for _ in range(count // 30):  # imported: they came in another order than they were made
        one, other = chance.randrange(count), chance.randrange(count)
        ages[one], ages[other] = ages[other], ages[one]
    modalities = chance.choices(list(_SHARES), weights=list(_SHARES.values()), k=count)
    physicians = chance.choices(range(_PHYSICIANS), cum_weights=_PHYSICIAN_WEIGHTS, k=count)
    departments = chance.choices(range(_DEPARTMENTS), cum_weights=_DEPARTMENT_WEIGHTS, k=count)
    for at in range(count):
        # Few patients have many of the studies.
        patient = int(patients * chance.random() ** 1.7)
        modality = modalities[at]
        share = chance.random() if institutions > 1 else 1.0
        minute = int(1440 * chance.betavariate(4, 4))
        yield MadeStudy(
            number=count - 1 - at,
            institution=SMALL if share < _SMALL_SHARE else MIDDLE if share < _MIDDLE_SHARE else BIG,
            patient=patient,
            patient_name=names[patient],
            study_date=dates[ages[at]],
            study_time=f"{minute // 60:02}{minute % 60:02}{chance.randrange(60):02}",
            modalities=f"{modality}\\SR" if chance.random() < _REPORTED else modality,
            study_description=f"{modality} {chance.choice(_REGIONS[modality])}",
            referring_physician_name=physician(physicians[at]),
            department=department(departments[at]),
            box=chance.randrange(BOXES),
        )


def fill(db: Database, count: int, institutions: int, *, withdrawals: bool = True) -> None:
    """`made_studies` into central's index, with a series for each modality, and some withdrawals of consent."""
    if isinstance(db, Sqlite):
        _fill_sqlite(db, count, institutions)
    else:
        _fill_postgresql(db, count, institutions)
    make_postings(db)
    for number in range(0, count // 10, 1000) if withdrawals else ():
        ConsentWithdrawal.insert(
            withdrawal_id=str(number),
            issuer_of_patient_id=ISSUER,
            patient_id=f"P{number:07}",
            made_by="bench",
            made_at_utc=NOW_S,
        ).execute(db)


def _columns(model: type[peewee.Model]) -> list[str]:
    return [one.column_name for one in model._meta.sorted_fields]


def _fill_sqlite(db: Sqlite, count: int, institutions: int) -> None:
    indexes = [
        (name, statement)
        for name, statement in _asked(
            db, "SELECT name, sql FROM sqlite_master WHERE tbl_name IN ('study', 'series') AND type = 'index'"
        )
        if statement
    ]
    triggers = _asked(db, "SELECT name FROM sqlite_master WHERE tbl_name = 'study' AND type = 'trigger'")
    for pragma in ("synchronous = OFF", "cache_size = -262144"):
        _asked(db, f"PRAGMA {pragma}")
    connection: Any = db.connection()  # type: ignore[no-untyped-call]  # the stubs leave it untyped
    with db.writing():
        for (name,) in triggers:
            _asked(db, f"DROP TRIGGER {name}")
        for table in ("study_words", "study_posting", "study_unfolded"):
            _asked(db, f"DROP TABLE {table}")
        for name, _ in indexes:
            _asked(db, f"DROP INDEX {name}")
        rows = _rows(count, institutions)
        while batch := list(islice(rows, 5000)):
            for model, some in ((Study, [s for s, _ in batch]), (Series, [r for _, rs in batch for r in rs])):
                marks = ", ".join("?" * len(_columns(model)))
                connection.executemany(
                    f"INSERT INTO {model._meta.table_name} ({', '.join(_columns(model))}) VALUES ({marks})",
                    some,
                )
        for _, statement in indexes:
            _asked(db, statement)
        make_text_index(db)
    for pragma in ("synchronous = FULL", "cache_size = -2000", "wal_checkpoint(TRUNCATE)"):
        _asked(db, f"PRAGMA {pragma}")


def _fill_postgresql(db: Postgres, count: int, institutions: int) -> None:
    indexes = _asked(
        db,
        "SELECT i.indexname, i.indexdef FROM pg_indexes i WHERE i.tablename IN ('study', 'series')"
        " AND i.schemaname = current_schema() AND i.indexname NOT LIKE '%%_pkey'",
    )
    with db.writing():
        for name, _ in indexes:
            _asked(db, f'DROP INDEX "{name}"')
        connection: psycopg.Connection[Any] = db.connection()  # type: ignore[no-untyped-call]  # as above
        with connection.cursor() as cursor:
            # One COPY at a time: the series wait in memory.
            later = []
            with cursor.copy(f"COPY study ({', '.join(_columns(Study))}) FROM STDIN") as copy:
                for study, series in _rows(count, institutions):
                    copy.write_row(study)
                    later += series
            with cursor.copy(f"COPY series ({', '.join(_columns(Series))}) FROM STDIN") as copy:
                for one in later:
                    copy.write_row(one)
        _asked(db, "SET LOCAL maintenance_work_mem = '512MB'")
        for _, statement in indexes:
            _asked(db, statement)
    _asked(db, "VACUUM ANALYZE study")
    _asked(db, "VACUUM ANALYZE series")


def _asked(db: Database, statement: str) -> list[Any]:
    cursor: Any = db.execute_sql(statement)
    return list(cursor.fetchall()) if cursor.description else []


def _rows(count: int, institutions: int) -> Iterator[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    study_columns, series_columns = _columns(Study), _columns(Series)
    folded: dict[str, Any] = {}
    series_id = 0
    for at, made in enumerate(made_studies(count, institutions), 1):
        name = folded.get(made.patient_name)
        if name is None:
            name = folded[made.patient_name] = person_name_groups(made.patient_name)
        keys = [folded.get(text) for text in (made.referring_physician_name, made.study_description)]
        if None in keys:
            keys = [person_name_key(made.referring_physician_name), fold(made.study_description)]
            folded[made.referring_physician_name], folded[made.study_description] = keys
        modalities = made.modalities.split("\\")
        study = {
            "id": at,
            "study_instance_uid": made.study_instance_uid,
            "patient_name": made.patient_name,
            "patient_name_key": name[0],
            "patient_name_other_keys": name[1],
            "patient_id": made.patient_id,
            "issuer_of_patient_id": ISSUER,
            "patient_birth_date": made.patient_birth_date,
            "patient_sex": made.patient_sex,
            "study_date": made.study_date,
            "study_time": made.study_time,
            "accession_number": made.accession_number,
            "study_description": made.study_description,
            "study_description_key": keys[1],
            "study_id": str(made.number),
            "referring_physician_name": made.referring_physician_name,
            "referring_physician_key": keys[0],
            "referring_physician_ideographic_key": "",
            "modalities": made.modalities,
            "number_of_series": len(modalities),
            "mixed": False,
            "number_of_instances": len(modalities),
            "institution": made.institution,
            "requesting_service_key": department_key(made.department),
            "institutional_department_key": "radiology",
            "arrived_from": f"gw-{made.box}",
            "arrived_at_utc": made.arrived_at_utc,
        }
        series = []
        for number, modality in enumerate(modalities, 1):
            series_id += 1
            one = {
                "id": series_id,
                "study_id": at,
                "series_instance_uid": f"1.2.826.2.{made.number}.{number}",
                "modality": modality,
                "series_number": number,
                "series_description": "",
                "series_description_key": "",
                "body_part_examined": "",
                "series_date": made.study_date,
                "series_time": made.study_time,
                "performed_procedure_step_start_date": "",
                "performed_procedure_step_start_time": "",
                "request_attributes": "",
                "number_of_instances": 1,
            }
            series.append(tuple(one[column] for column in series_columns))
        yield tuple(study[column] for column in study_columns), series
