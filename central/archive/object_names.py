"""Which names the index knows in the object store: a content's own SHA-256, or the address it is encrypted under."""

from __future__ import annotations

from typing import Any, Final

import peewee

from central.archive.tables import DoomedObject, Instance, SealedContent
from central.database import Database
from central.prepared import Prepared, given

NAME: Final[Any] = peewee.fn.COALESCE(SealedContent.address, Instance.sha256)
"""The name of an instance's object, in a query that joins `SealedContent` to `Instance` where there is one."""

SEALED: Final[peewee.Expression] = SealedContent.sha256 == Instance.sha256


_NAMED: Final = Prepared(
    Instance.select(NAME.alias("name"))
    .join(SealedContent, peewee.JOIN.LEFT_OUTER, on=SEALED)
    .where(Instance.sha256 == given("sha256"))
    .limit(1)
)


def name_of(db: Database, sha256: str) -> str | None:
    """The name under which a content lies that the index knows, be it as several institutions'; None: it does not."""
    row = _NAMED.first(db, sha256=sha256)
    return str(row["name"]) if row is not None else None


def is_indexed(db: Database, name: str) -> bool:
    """Whether a row names this object."""
    sealed = SealedContent.select(SealedContent.sha256).where(SealedContent.address == name)
    if list(sealed.execute(db)):
        return True
    plain = _plain().where(Instance.sha256 == name)
    return bool(list(plain.execute(db)))


def is_doomed(db: Database, name: str) -> bool:
    """Whether this object is on its way out of the store."""
    return bool(list(DoomedObject.select().where(DoomedObject.sha256 == name).execute(db)))


def indexed_after(db: Database, after: str, limit: int) -> list[str]:
    """The first names behind `after`, in order."""
    plain = _plain().where(Instance.sha256 > after).distinct()  # several institutions may have one content
    plain = plain.order_by(Instance.sha256).limit(limit)
    sealed = SealedContent.select(SealedContent.address).where(SealedContent.address > after)
    sealed = sealed.order_by(SealedContent.address).limit(limit)
    return sorted(name for query in (plain, sealed) for (name,) in query.tuples().execute(db))[:limit]


def before(name: str) -> str:
    """The name right before this one, if names were numbers."""
    return f"{int(name, 16) - 1:064x}" if int(name, 16) else ""


def _plain() -> Any:
    joined = Instance.select(Instance.sha256).join(SealedContent, peewee.JOIN.LEFT_OUTER, on=SEALED)
    return joined.where(SealedContent.sha256.is_null())
