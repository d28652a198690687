"""Keys of names and departments that older versions folded too far, or did not have: made once more, at a first start.

Older versions took the voicing marks from kana, and marks that are letters from other scripts, so that one doctor saw
another's patients. The physician's name is kept as it came; of a department only the key was, so its text is looked for
in the metadata of the study's first image. What an order alone said stays as it is until the order is sent again.
"""

from __future__ import annotations

import json
import logging
import zlib
from typing import Any, Final

from central.access.policy import department_key, ideographic_key, person_name_key
from central.archive.attributes import indexed
from central.archive.query import fold
from central.archive.tables import Instance, Metadata, Series, Study
from central.database import Database, rows_of

_DEPARTMENTS: Final = {"requesting_service_key": "00321033", "institutional_department_key": "00081040"}
_AT_ONCE: Final = 500
_log = logging.getLogger(__name__)


def fold_again(db: Database) -> None:
    """Correct what differs, in the caller's transaction."""
    count = Study.select().count(db)
    _log.info("event=folding-names studies=%d about_s=%d", count, count // 20_000)
    columns = (
        Study.referring_physician_name,
        Study.referring_physician_key,
        Study.requesting_service_key,
        Study.institutional_department_key,
    )
    last = 0
    while True:
        some = Study.select(Study.id, *columns).where(Study.id > last).order_by(Study.id).limit(_AT_ONCE)
        rows = rows_of(db, some)
        if not rows:
            return
        for study, name, key, *departments in rows:
            known = {"referring_physician_key": key, "referring_physician_ideographic_key": ""}
            known |= dict(zip(_DEPARTMENTS, departments, strict=True))
            right = {
                "referring_physician_key": indexed(person_name_key(name)),
                "referring_physician_ideographic_key": ideographic_key(name),
                **_departments(db, study, known),
            }
            changed = {column: value for column, value in right.items() if value != known[column]}
            if changed:
                Study.update(**changed).where(Study.id == study).execute(db)
        last = rows[-1][0]


def _departments(db: Database, study: int, known: dict[str, str]) -> dict[str, str]:
    """Those of `known` whose text is found: folded as far as before it is the key that is there."""
    folded = {column: tag for column, tag in _DEPARTMENTS.items() if not known[column].isascii()}
    said = _first_image(db, study) if folded else {}
    texts = {column: _text(said, tag) for column, tag in folded.items()}
    return {
        column: indexed(department_key(text)) for column, text in texts.items() if fold(text) == known[column]
    }


def _first_image(db: Database, study: int) -> dict[str, Any]:
    query = Metadata.select(Metadata.dicom_json).join(Instance).join(Series)
    first = query.where(Series.study == study).order_by(Instance.id).limit(1)
    for (metadata,) in rows_of(db, first):
        said: dict[str, Any] = json.loads(zlib.decompress(bytes(metadata)))
        return said
    return {}


def _text(said: dict[str, Any], tag: str) -> str:
    return "\\".join(str(value) for value in said.get(tag, {}).get("Value", ()) if value is not None)
