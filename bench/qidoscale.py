"""QIDO-RS of central beside Orthanc's among many studies: the same studies in both, the same searches of both.

    python -m bench.qidoscale                                10,000 studies, two minutes
    python -m bench.qidoscale --studies 1000000 --keep DIR   10 minutes of processor time to fill, 6 GB; filled once

Nobody can send a million studies in the time of a bench, so both indexes are filled by themselves: central's as
`bench.search` does, and Orthanc's with the rows that it makes when it is sent a study (`bench.orthanc`), which is
compared with studies that really were sent before anything is measured. Orthanc's plugin reads a file of each study
that it answers: these are made before each search, for which Orthanc's index is asked, untimed. So what it reads
is in the machine's memory, which central does not have for it: that is in Orthanc's favour.
Each search is asked of both, one after the other, with a limit of 50; what each finds below the limit must be the same.
Central does what Orthanc does not: each request is authorized, on record before it is answered, and sorted.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from bench import orthanc
from bench.archive import await_answer, peer_process
from bench.studies import MODALITIES, MadeStudy, fill, made_studies
from central.access.policy import Role
from central.config import Settings
from central.foundation import Foundation, open_archive
from contract.settings import load_settings
from tests.peers_installed import missing_peers
from tests.ports import free_base_port

_PASSWORD: Final = "a password for benches only"
_LIMIT: Final = 50
_BUDGET_S: Final = 20.0  # for one kind of search in one archive
_TIMEOUT_S: Final = 600.0
_START_S: Final = 300.0
_SEED: Final = 20261129
Make = Callable[[random.Random, MadeStudy], dict[str, str]]


def _month(one: MadeStudy) -> str:
    return f"{one.study_date[:6]}01-{one.study_date[:6]}31"


KINDS: Final[dict[str, Make]] = {
    "no key": lambda _c, _one: {},
    "a day": lambda _c, one: {"StudyDate": one.study_date},
    "a month": lambda _c, one: {"StudyDate": _month(one)},
    "a modality": lambda c, _one: {"ModalitiesInStudy": c.choice(MODALITIES)},
    "a modality in a month": lambda c, one: {
        "StudyDate": _month(one),
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
        "StudyDate": _month(one),
    },
    "description contains": lambda _c, one: {"StudyDescription": f"*{one.study_description.split(' ')[1]}*"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--studies", default="10000", help="how many, or several numbers with commas (default: 10000)"
    )
    parser.add_argument("--searches", type=int, default=40, help="of each kind (default: 40)")
    parser.add_argument("--only", default="", help="kinds of search that have this in their name")
    parser.add_argument(
        "--keep", type=Path, help="a folder to keep both archives in, filled where they are not"
    )
    parser.add_argument("--fill", action="store_true", help="fill and measure nothing")
    options = parser.parse_args()
    if missing := missing_peers(["orthanc", "dcmtk"]):
        print(f"not measured: {' and '.join(missing)} not installed (Debian: orthanc orthanc-dicomweb dcmtk)")
        return
    with tempfile.TemporaryDirectory(prefix="dicomnet-qido-") as scratch:
        for studies in map(int, options.studies.split(",")):
            folder = options.keep or Path(scratch)
            ours = _filled(folder / f"central-{studies}", studies, _fill_central)
            theirs = _filled(folder / f"orthanc-{studies}", studies, _fill_orthanc)
            if not options.fill:
                with _central(ours) as central, orthanc.running(theirs) as other:
                    _compare(central, other, theirs, studies, options)


def _filled(folder: Path, studies: int, fill_it: Callable[[Path, int], None]) -> Path:
    """`folder`, made again if whoever made it was interrupted."""
    done = folder / "filled"
    if not done.exists():
        began = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fill_it(folder, studies)
        done.touch()
        print(f"{folder.name}: filled in {time.monotonic() - began:.0f} s", flush=True)
    return folder


def _fill_orthanc(folder: Path, studies: int) -> None:
    compared = orthanc.as_if_sent(
        folder.parent, lambda one: (make(random.Random(_SEED), one) for make in KINDS.values())
    )
    print(f"Orthanc, filled as here, answers {compared} searches exactly as after C-STORE", flush=True)
    orthanc.make(folder, made_studies(studies))


def _compare(
    central: Central, other: orthanc.Orthanc, folder: Path, studies: int, options: argparse.Namespace
) -> None:
    made = list(made_studies(studies))
    made.reverse()  # at the place of its number
    every = max(1, studies // 2000)
    # Orthanc leaves letters with accents out of what it compares: of those texts no two archives say the same.
    known = [one for one in made[every // 2 :: every] if (one.patient_name + one.study_description).isascii()]
    print(f"{studies:,} studies: median and 99th percentile, ms")
    print(f"{'':30}{'central':>20}{'Orthanc':>20}   Orthanc's median by central's, processor ms a search")
    for kind, make in KINDS.items():
        if options.only not in kind:
            continue
        chance = random.Random(_SEED)
        times: tuple[list[float], list[float]] = ([], [])
        used_s = [0.0, 0.0]
        for number in range(options.searches):
            keys = {**make(chance, chance.choice(known)), "limit": str(_LIMIT)}
            orthanc.make_files(folder, (made[at] for at in _will_be_answered(other, keys)))
            found: dict[int, set[str]] = {}
            for which in (0, 1) if number % 2 else (1, 0):
                archive = (central, other)[which]
                used_s[which] -= _processor_s(archive.process)
                found[which], took = _asked(archive.client, keys)
                used_s[which] += _processor_s(archive.process)
                times[which].append(took)
            _same(found[0], found[1], keys, made)
            if max(map(sum, times)) / 1000 > _BUDGET_S:
                break
        line = "".join(f"{statistics.median(some):12.1f} {_p99(some):7.1f}" for some in times)
        ratio = statistics.median(times[1]) / statistics.median(times[0])
        used = "".join(f"{1000 * one / len(times[0]):9.1f}" for one in used_s)
        print(f"  {kind:28}{line}{ratio:10.2f} x{used}   of {len(times[0])}", flush=True)
    resident = "".join(f"{_resident_mb(one.process):12.0f}{'':8}" for one in (central, other))
    print(f"  {'resident memory, MB':28}{resident}")


def _p99(times: list[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else times[0]


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _resident_mb(process: psutil.Process) -> float:
    return float(sum(one.memory_info().rss for one in _family(process))) / 1e6


def _processor_s(process: psutil.Process) -> float:
    times = [one.cpu_times() for one in _family(process)]
    return float(sum(one.user + one.system for one in times))


def _asked(client: httpx.Client, keys: dict[str, str]) -> tuple[set[str], float]:
    """The Study Instance UIDs and how long the answer took, in milliseconds."""
    began = time.perf_counter()
    answer = client.get(f"studies?{orthanc.query(keys)}")
    took = (time.perf_counter() - began) * 1000
    if answer.status_code == 204:
        return set(), took
    assert answer.status_code == 200, (answer.status_code, answer.text[:300])
    return {study["0020000D"]["Value"][0] for study in answer.json()}, took


def _same(ours: set[str], theirs: set[str], keys: dict[str, str], made: list[MadeStudy]) -> None:
    """Where both gave all that they have, it is the same, but for names that Orthanc compares without some letters."""
    if max(len(ours), len(theirs)) < _LIMIT:
        different = {uid for uid in ours ^ theirs if made[int(uid.rpartition(".")[2])].patient_name.isascii()}
    else:
        different = set() if "PatientName" in keys or len(ours) == len(theirs) else ours ^ theirs
    if different:
        raise SystemExit(f"{keys}: only one of them finds {sorted(different)[:5]}")


def _will_be_answered(other: orthanc.Orthanc, keys: dict[str, str]) -> Iterator[int]:
    """Which studies Orthanc's index has for `keys`."""
    query = {key: value for key, value in keys.items() if key != "limit"}
    asked = {"Level": "Study", "Query": query, "Limit": _LIMIT, "Expand": True}
    answer = other.client.post(f"{other.url}/tools/find", json=asked)
    return (int(study["MainDicomTags"]["StudyID"]) for study in answer.json())


@dataclass(frozen=True)
class Central:
    """One that runs, and a client of its DICOMweb that is signed in."""

    client: httpx.Client
    process: psutil.Process


def _settings(folder: Path, port: int) -> Path:
    config = folder / "central.toml"
    config.write_text(
        f'[people]\nport = {port}\n[gateways]\nport = {port + 1}\n[storage]\nroot = "{folder / "root"}"\n'
    )
    return config


def _fill_central(folder: Path, studies: int) -> None:
    folder.mkdir()
    settings = load_settings(Settings, _settings(folder, free_base_port(2)), environ={})
    foundation = Foundation.open(settings)
    foundation.accounts.create_user("bench", _PASSWORD, Role.RADIOLOGIST)
    open_archive(settings.storage, foundation.db)
    fill(foundation.db, studies, institutions=1, withdrawals=False)
    foundation.close()


@contextlib.contextmanager
def _central(folder: Path) -> Iterator[Central]:
    port = free_base_port(2)
    serve = str(Path(sysconfig.get_path("scripts")) / "dicomnet-central")
    with peer_process([serve, "serve", "--config", str(_settings(folder, port))], folder) as process:
        url = f"http://127.0.0.1:{port}"
        await_answer(f"{url}/healthz", _START_S)
        form = {"username": "bench", "password": _PASSWORD}
        token = httpx.post(f"{url}/api/auth/token", data=form, trust_env=False).json()["access_token"]
        with httpx.Client(
            base_url=f"{url}/dicom-web",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/dicom+json"},
            timeout=_TIMEOUT_S,
            trust_env=False,
            # It ends connections that nobody uses while others are asked.
            limits=httpx.Limits(keepalive_expiry=1.0),
        ) as client:
            yield Central(client, psutil.Process(process.pid))


if __name__ == "__main__":
    main()
