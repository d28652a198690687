"""Which studies came last, read beside a running box: for whoever wants to know what a rule would have done.

Opens the index read-only and takes no lock that the box would notice: SQLite in WAL lets readers be. What the box has
not written into its index yet, a twentieth of a second of images, is not seen.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from edge.buffer.errors import TransientSpoolError
from edge.buffer.tables import utc_from_text

LOOKED_AT: Final = 200_000
"""So many of the newest objects are looked at, freed ones included: some days of a busy box."""

_STUDIES: Final = """
    SELECT study_instance_uid, COALESCE(modality, ''), calling_ae_title, called_ae_title, peer_address,
        COALESCE(station, ''), COALESCE(department, ''), COUNT(*), MAX(received_at_utc)
    FROM (SELECT * FROM objects ORDER BY sequence DESC LIMIT ?)
    WHERE study_instance_uid IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY MAX(sequence) DESC LIMIT ?
"""


class NoIndexError(TransientSpoolError):
    """There is no spool yet, or it cannot be read."""


@dataclass(frozen=True)
class SeenStudy:
    """The part of a study that came from one sender in one modality."""

    study_instance_uid: str
    modality: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    station_name: str
    department: str
    instances: int
    last_received_at_utc: datetime


def last_studies(spool_directory: Path, *, limit: int) -> list[SeenStudy]:
    """The latest first.

    Raises
    ------
    NoIndexError
    """
    path = spool_directory / "index.sqlite3"
    if not path.exists():
        raise NoIndexError(f"there is no {path}: has this box run with this configuration?")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            rows = db.execute(_STUDIES, (LOOKED_AT, limit)).fetchall()
    except sqlite3.Error as error:
        raise NoIndexError(f"{path} cannot be read: {error}; is this the box's own user?") from error
    return [
        SeenStudy(
            study, modality, calling, called, address, station, department, instances, utc_from_text(received)
        )
        for study, modality, calling, called, address, station, department, instances, received in rows
    ]
