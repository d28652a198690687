"""How long a study-level search takes in a large archive, on SQLite and on PostgreSQL.

    python -m bench.search                     1,000,000 studies, both databases
    python -m bench.search --studies 10000 --database sqlite --institutions 1
    python -m bench.search --any 2000          searches that nobody thought of: any keys together

Each kind of search is asked for many values drawn by chance, for each kind of person, with a limit of 50, as
`Archive.find_studies` is by QIDO-RS and C-FIND. Printed are the median and the 99th percentile in milliseconds, and
which of them miss the bars of the archive: a 99th percentile below 150 ms on SQLite and below 50 ms on PostgreSQL.
For SQLite, which works in this process, it is said as well which miss it by processor time alone.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.anything import any_query
from bench.studies import (
    BIG,
    BOXES,
    FAMILIES,
    INSTITUTIONS,
    ISSUER,
    MODALITIES,
    NOW,
    NOW_S,
    SMALL,
    MadeStudy,
    fill,
    made_studies,
    some_department,
    some_physician,
)
from central.access.policy import (
    Arrivals,
    PatientKey,
    PatientOf,
    Scope,
    StudyKey,
    department_key,
    person_name_key,
)
from central.archive.archive import Archive
from central.archive.query import StudyQuery
from central.archive.tables import Study
from central.database import Database, Sqlite, open_sqlite
from central.identity.storage_keys import StorageKeys
from central.postgres import Postgres
from tests.postgres import postgres_server

_SEED: Final = 20261128
_LIMIT: Final = 50
_BARS_MS: Final = {"SQLite": 150, "PostgreSQL": 50}
_KNOWN: Final = 2000  # studies that are drawn from, for what is asked of one that is there


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1_000_000, help="how many (default: 1000000)")
    parser.add_argument("--searches", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument("--institutions", type=int, choices=[1, 3], default=3, help="(default: 3)")
    parser.add_argument("--database", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument(
        "--any",
        type=int,
        default=0,
        help="instead: so many by each person, of any keys together (bench.anything)",
    )
    parser.add_argument("--seed", type=int, default=_SEED, help="of chance, for --any")
    parser.add_argument("--only", default="", help="kinds of search that have this in their name")
    parser.add_argument("--sqlite", type=Path, help="a folder to keep the database in, filled if it is empty")
    parser.add_argument("--postgresql", help="a database to keep the studies in, filled if it is empty")
    parser.add_argument("--fill", action="store_true", help="fill and measure nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dicomnet-search-") as scratch, contextlib.ExitStack() as closing:
        folder = options.sqlite or Path(scratch)
        if options.database != "postgresql":
            db = open_sqlite(folder / "central.sqlite3")
            _measure("SQLite", db, folder, options)
            db.end()
        if options.database != "sqlite":
            where = options.postgresql or closing.enter_context(postgres_server()).database("search")
            postgres = Postgres(where, connections=4)
            _measure("PostgreSQL", postgres, Path(scratch), options)
            postgres.end()


def _measure(name: str, db: Database, folder: Path, options: argparse.Namespace) -> None:
    archive = Archive.open(folder, db, StorageKeys(folder / "keys"), encrypts=False)
    if not list(Study.select(Study.id).limit(1).execute(db)):
        began = time.monotonic()
        fill(db, options.studies, options.institutions)
        print(f"{name}: {options.studies:,} studies, filled in {time.monotonic() - began:.0f} s", flush=True)
        archive = Archive.open(folder, db, StorageKeys(folder / "keys"), encrypts=False)
    if options.fill:
        return
    drawn = _Drawn(options.studies, options.institutions)
    people = _PEOPLE if options.institutions == 3 else {"radiologist": _PEOPLE["radiologist"]}
    if options.any:
        for who, scope in people.items():
            _measure_any(name, archive, drawn, (who, scope), options)
        return
    print(f"{name}, {options.studies:,} studies: median and 99th percentile, ms")
    print(" " * 45 + "".join(f"{who:>20}" for who in people))
    missed, busy = [], []
    for kind, make in _KINDS.items():
        if options.only not in kind:
            continue
        line = f"  {kind:43}"
        for who, scope in people.items():
            times, processor_times = _times(archive, drawn, scope, make, options.searches)
            p99, processor_p99 = (
                statistics.quantiles(some, n=100, method="inclusive")[98] for some in (times, processor_times)
            )
            if processor_p99 >= _BARS_MS[name]:
                busy.append(f"{kind}, {who}: {processor_p99:.0f} ms")
            line += f"{statistics.median(times):12.1f} {p99:7.1f}"
            if p99 >= _BARS_MS[name]:
                missed.append(f"{kind}, {who}: {p99:.0f} ms")
        print(line, flush=True)
    print(f"  the bar of {_BARS_MS[name]} ms is missed by: " + ("; ".join(missed) or "none"), flush=True)
    if isinstance(db, Sqlite):
        print("  by processor time alone: " + ("; ".join(busy) or "none"), flush=True)


def _times(
    archive: Archive, drawn: _Drawn, scope: MakeScope, make: Make, searches: int
) -> tuple[list[float], list[float]]:
    """Of each search, in milliseconds: what it took, and this thread's processor time."""
    chance = random.Random(_SEED)
    times, processor_times = [], []
    for _ in range(searches):
        asked = scope(chance, drawn), make(chance, drawn)
        began, processor_began = time.perf_counter(), time.thread_time()
        archive.reading.find_studies(*asked)
        processor_times.append((time.thread_time() - processor_began) * 1000)
        times.append((time.perf_counter() - began) * 1000)
    return times, processor_times


def _measure_any(
    name: str, archive: Archive, drawn: _Drawn, person: tuple[str, MakeScope], options: argparse.Namespace
) -> None:
    """Print how long searches of any keys took: quantiles, and the longest with what was asked."""
    who, scope = person
    chance = random.Random(options.seed)
    times: list[tuple[float, float, int, StudyQuery]] = []
    for number in range(options.any):
        reach, query = scope(chance, drawn), any_query(chance, drawn.known)
        began, processor_began = time.perf_counter(), time.thread_time()
        archive.reading.find_studies(reach, query)
        processor_ms = (time.thread_time() - processor_began) * 1000
        times.append(((time.perf_counter() - began) * 1000, processor_ms, number, query))
    quantiles = statistics.quantiles([ms for ms, *_ in times], n=1000, method="inclusive")
    print(
        f"{name}, {who}: {options.any} of any keys, median {quantiles[499]:.1f}, 90 % {quantiles[899]:.1f}, "
        f"99 % {quantiles[989]:.1f}, 99.9 % {quantiles[998]:.1f} ms; "
        f"processor here, 99 %: {statistics.quantiles([ms for _, ms, *_ in times], n=100)[98]:.1f} ms; the longest:"
    )
    for ms, processor_ms, _, query in sorted(times, reverse=True)[:5]:
        asked = ", ".join(f"{key} {value!r}" for key, value in vars(query).items() if value)
        print(f"  {ms:8.1f} ms ({processor_ms:.1f} of processor here): {asked}", flush=True)


class _Drawn:
    """Some studies that are there."""

    def __init__(self, studies: int, institutions: int) -> None:
        every = max(1, studies // _KNOWN)
        self.known = [
            one for at, one in enumerate(made_studies(studies, institutions)) if at % every == every // 2
        ]
        self.studies = studies

    def one(self, chance: random.Random) -> MadeStudy:
        return chance.choice(self.known)


MakeScope = Callable[[random.Random, _Drawn], Scope]
Make = Callable[[random.Random, _Drawn], StudyQuery]


def _doctor(chance: random.Random, drawn: _Drawn) -> Scope:
    """What a doctor of a department reaches: by name, by department, by assignment and by grant."""
    some = [drawn.one(chance) for _ in range(20)]
    return Scope(
        institutions=frozenset({BIG}),
        referring_physician_keys=frozenset({person_name_key(some_physician(chance))}),
        requesting_service_keys=frozenset({department_key(some_department(chance))}),
        patients=frozenset(PatientOf(BIG, PatientKey(ISSUER, one.patient_id)) for one in some[:10]),
        studies=frozenset(StudyKey(BIG, one.study_instance_uid) for one in some[10:]),
        refused_studies=frozenset({StudyKey(BIG, some[0].study_instance_uid)}),
        despite_withdrawal_of=frozenset({PatientOf(BIG, PatientKey(ISSUER, "P0000000"))}),
    )


def _referrer(chance: random.Random, _drawn: _Drawn) -> Scope:
    return Scope(
        institutions=frozenset({BIG}),
        referring_physician_keys=frozenset({person_name_key(some_physician(chance))}),
    )


def _technician(chance: random.Random, _drawn: _Drawn) -> Scope:
    boxes = frozenset({f"gw-{chance.randrange(BOXES)}"})
    return Scope(institutions=frozenset({BIG}), arrivals=Arrivals(NOW_S - 86400, boxes, frozenset({"x-ray"})))


def _patient(chance: random.Random, drawn: _Drawn) -> Scope:
    own = PatientKey(ISSUER, drawn.one(chance).patient_id)
    return Scope(
        institutions=frozenset({BIG}), patients=frozenset(PatientOf(one, own) for one in INSTITUTIONS)
    )


_PEOPLE: Final[dict[str, MakeScope]] = {
    "radiologist": lambda _c, _d: Scope(everything=True, institutions=frozenset({BIG})),
    "of a small house": lambda _c, _d: Scope(everything=True, institutions=frozenset({SMALL})),
    "of three houses": lambda _c, _d: Scope(everything=True, institutions=frozenset(INSTITUTIONS)),
    "doctor, all ways": _doctor,
    "doctor, referring": _referrer,
    "technician": _technician,
    "patient": _patient,
}


def _query(**keys: Any) -> StudyQuery:
    return StudyQuery(limit=_LIMIT, **keys)


def _day(chance: random.Random) -> datetime.date:
    return NOW - datetime.timedelta(days=int(3600 * chance.random() ** 1.5))


def _days(chance: random.Random, most: int = 30) -> str:
    last = _day(chance)
    first = last - datetime.timedelta(days=chance.randint(1, most))
    return f"{first:%Y%m%d}-{last:%Y%m%d}"


def _births(chance: random.Random) -> str:
    year = chance.randrange(1930, 2010)
    return f"{year}0101-{year + 5}0101"


def _family(chance: random.Random, drawn: _Drawn) -> str:
    return drawn.one(chance).patient_name.partition("^")[0]


def _word(chance: random.Random, drawn: _Drawn) -> str:
    return drawn.one(chance).study_description.split(" ")[1]


_KINDS: Final[dict[str, Make]] = {
    "the newest": lambda _c, _d: _query(),
    "the newest, page 20": lambda _c, _d: _query(offset=19 * _LIMIT),
    "the newest, page 200": lambda _c, _d: _query(offset=199 * _LIMIT),
    "a day": lambda c, _d: _query(study_date=f"{_day(c):%Y%m%d}"),
    "since a week": lambda _c, _d: _query(study_date=f"{NOW - datetime.timedelta(days=7):%Y%m%d}-"),
    "until a day": lambda c, _d: _query(study_date=f"-{_day(c):%Y%m%d}"),
    "some days": lambda c, _d: _query(study_date=_days(c)),
    "a time of day": lambda c, _d: _query(study_time=f"{c.randrange(24):02}-{c.randrange(24):02}"),
    "a day and a time": lambda c, _d: _query(study_date=f"{_day(c):%Y%m%d}", study_time="12-14"),
    "a modality": lambda c, _d: _query(modalities_in_study=c.choice(MODALITIES)),
    "a modality, page 20": lambda c, _d: _query(modalities_in_study=c.choice(MODALITIES), offset=19 * _LIMIT),
    "a modality that is not there": lambda _c, _d: _query(modalities_in_study="ECG"),
    "two modalities": lambda c, _d: _query(modalities_in_study=",".join(c.sample(MODALITIES, 2))),
    "a modality in some days": lambda c, _d: _query(
        modalities_in_study=c.choice(MODALITIES), study_date=_days(c)
    ),
    "a modality in a year": lambda c, _d: _query(
        modalities_in_study=c.choice(MODALITIES), study_date=_days(c, 365)
    ),
    "patient id": lambda c, d: _query(patient_id=d.one(c).patient_id),
    "birth date": lambda c, d: _query(patient_birth_date=d.one(c).patient_birth_date),
    "birth date and name begun": lambda c, d: _query(
        patient_birth_date=d.one(c).patient_birth_date, patient_name=f"{_family(c, d)[:3]}*"
    ),
    "birth dates of five years": lambda c, _d: _query(patient_birth_date=_births(c)),
    "birth dates of five years and name begun": lambda c, d: _query(
        patient_birth_date=_births(c), patient_name=f"{_family(c, d)[:3]}*"
    ),
    "patient id begun": lambda c, d: _query(patient_id=d.one(c).patient_id[: c.randint(3, 6)] + "*"),
    "patient id contains": lambda c, d: _query(patient_id=f"*{d.one(c).patient_id[-5:]}*"),
    "patient id and issuer": lambda c, d: _query(patient_id=d.one(c).patient_id, issuer_of_patient_id=ISSUER),
    "issuer that is not there": lambda _c, _d: _query(issuer_of_patient_id="OTHER"),
    "accession number": lambda c, d: _query(accession_number=d.one(c).accession_number),
    "accession number begun": lambda c, d: _query(
        accession_number=d.one(c).accession_number[: c.randint(4, 8)] + "*"
    ),
    "accession number, not there": lambda c, _d: _query(accession_number=f"X{c.randrange(10**6)}"),
    "study id": lambda c, d: _query(study_id=str(d.one(c).number)),
    "study instance UID": lambda c, d: _query(study_instance_uid=d.one(c).study_instance_uid),
    "50 study instance UIDs": lambda c, d: _query(
        study_instance_uid=",".join(d.one(c).study_instance_uid for _ in range(50))
    ),
    "family name begun": lambda c, d: _query(patient_name=f"{_family(c, d)[: c.randint(1, 5)].lower()}*"),
    "family name": lambda c, d: _query(patient_name=f"{_family(c, d)}^*"),
    "whole name": lambda c, d: _query(patient_name=d.one(c).patient_name),
    "name, not there": lambda c, d: _query(patient_name=f"{_family(c, d)}QX*"),
    "name contains": lambda c, d: _query(patient_name=f"*{_family(c, d)[1:5]}*"),
    "name contains two letters": lambda c, d: _query(patient_name=f"*{_family(c, d)[1:3]}*"),
    "name contains two letters, seldom": lambda c, _d: _query(
        patient_name=f"*{c.choice('QXYZ')}{c.choice('ABKX')}*"
    ),
    "given name": lambda c, d: _query(patient_name=f"*^{d.one(c).patient_name.split('^')[1]}*"),
    "both parts of a name": lambda c, d: _query(
        patient_name=f"*{_family(c, d)[:3]}*{d.one(c).patient_name.split('^')[1]}*"
    ),
    "a name's words, begun": lambda c, d: _query(
        patient_name=f"{d.one(c).patient_name.split('^')[1]} {_family(c, d)[:3]}", fuzzy_names=True
    ),
    "a word of a name, begun": lambda c, d: _query(patient_name=_family(c, d)[:3], fuzzy_names=True),
    "name contains, not there": lambda c, _d: _query(patient_name=f"*QX{c.randrange(9)}*"),
    "a single letter's place": lambda c, d: _query(patient_name="?" + _family(c, d)[1:] + "^*"),
    "family name begun, in some days": lambda c, d: _query(
        patient_name=f"{_family(c, d)[:3]}*", study_date=_days(c)
    ),
    "family name, a modality": lambda c, d: _query(
        patient_name=f"{_family(c, d)}*", modalities_in_study=c.choice(MODALITIES)
    ),
    "name contains, a modality, in some days": lambda c, d: _query(
        patient_name=f"*{_family(c, d)[1:4]}*",
        modalities_in_study=c.choice(MODALITIES),
        study_date=_days(c, 365),
    ),
    "description": lambda c, d: _query(study_description=d.one(c).study_description),
    "description contains": lambda c, d: _query(study_description=f"*{_word(c, d)[:4]}*"),
    "description begun": lambda c, d: _query(study_description=f"{d.one(c).study_description[:5]}*"),
    "description contains, in some days": lambda c, d: _query(
        study_description=f"*{_word(c, d)[:4]}*", study_date=_days(c)
    ),
    "description and another modality": lambda c, d: _query(
        study_description=f"*{_word(c, d)}*", modalities_in_study=c.choice(MODALITIES)
    ),
    "description and name begun": lambda c, d: _query(
        study_description=f"*{_word(c, d)}*", patient_name=f"{_family(c, d)[:3]}*"
    ),
    "description and name contains": lambda c, d: _query(
        study_description=f"*{_word(c, d)}*", patient_name=f"*{_family(c, d)[1:4]}*"
    ),
    "referring physician": lambda c, d: _query(referring_physician_name=some_physician(c)),
    "referring physician begun": lambda c, d: _query(referring_physician_name=f"{c.choice(FAMILIES)[:3]}*"),
    "referring physician, a modality": lambda c, d: _query(
        referring_physician_name=f"{d.one(c).referring_physician_name.partition('^')[0]}*",
        modalities_in_study=c.choice(MODALITIES),
    ),
    "everything that is asked at once": lambda c, d: _query(
        patient_name=f"{_family(c, d)[:2]}*",
        patient_id="P0*",
        study_date=_days(c, 3650),
        modalities_in_study=c.choice(MODALITIES),
        study_description=f"*{_word(c, d)[:4]}*",
    ),
}


if __name__ == "__main__":
    main()
