"""What `bench.qidoscale` compares central with is Orthanc as it would be, had it been sent the studies."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from bench import orthanc
from bench.studies import MadeStudy

pytestmark = pytest.mark.needs("orthanc", "dcmtk")


def _searches(one: MadeStudy) -> list[dict[str, str]]:
    return [
        {"StudyInstanceUID": one.study_instance_uid},
        {"PatientName": f"{one.patient_name[:1]}*", "ModalitiesInStudy": one.modalities.partition("\\")[0]},
    ]


def test_a_filled_orthanc_has_the_rows_and_answers_of_one_that_was_sent_the_studies(tmp_path: Path) -> None:
    assert orthanc.as_if_sent(tmp_path, _searches) == 40


def test_a_row_that_orthanc_makes_otherwise_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No search answers it: only the rows tell.
    monkeypatch.setattr(orthanc, "_CHECKED", 2)
    make = orthanc.make

    def make_wrongly(folder: Path, studies: list[MadeStudy]) -> None:
        make(folder, studies)
        with contextlib.closing(sqlite3.connect(folder / "index" / "index")) as db, db:
            db.execute("UPDATE Metadata SET value = '2' WHERE type = 1 AND id = 1")

    monkeypatch.setattr(orthanc, "make", make_wrongly)
    with pytest.raises(SystemExit, match="other rows"):
        orthanc.as_if_sent(tmp_path, _searches)
