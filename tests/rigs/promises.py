"""What a spool said it had done, and whether the disk that is left keeps it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.instances import Central, held_files


class Promises:
    """Filled from the lines that a life said before its end."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[str, str]] = {}  # object id: SOP Instance UID, SHA-256
        self.acknowledging: set[str] = set()
        self.acknowledged: set[str] = set()

    def hear_all(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.hear(line)

    def hear(self, line: bytes) -> None:
        said = json.loads(line)
        assert "failed" not in said, f"the box failed: {said['failed']}"
        if "stored" in said:
            told = said["uid"], said["sha256"]
            assert self.stored.setdefault(said["stored"], told) == told, f"one id for two: {said}"
        elif "acknowledging" in said:
            self.acknowledging.add(said["acknowledging"])
        elif "acknowledged" in said:
            self.acknowledged.add(said["acknowledged"])
        elif "opened" in said:
            healthy = {"opened": True, "files_missing": 0, "index_rebuilt": False}
            assert said == healthy, f"a cut left damage: {said}"

    def check(self, spool: Spool, root: Path, central: Central) -> None:
        """Against a spool that was opened on what the disk kept; claims everything in it."""
        assert spool.recovery.files_missing == 0, "rows without files"
        assert not spool.recovery.index_rebuilt, "the index was thrown away"
        rows = {
            str(row.object_id): row
            for row in spool.holdings.list_objects(states=list(State), limit=1_000_000)
        }
        for object_id, (uid, sha256) in self.stored.items():
            row = rows.get(object_id)
            assert row is not None, f"{object_id} was acknowledged to its sender and is gone"
            if row.state is State.FREED:
                assert row.has_receipt, f"{object_id} was freed without a receipt"
                assert object_id in self.acknowledging, "freed, though nobody brought a receipt"
                continue
            assert object_id not in self.acknowledged, "its receipt was kept, and it is back"
            assert row.success_answered, f"{object_id} is kept as one nobody was told of"
            assert row.sop_instance_uid == uid, f"{object_id} has another name"
            assert _sha256(central.unseal(spool, row.object_id)) == sha256, f"{object_id} has other bytes"
        waiting: Counter[tuple[str, str]] = Counter()
        while claimed := spool.queue.claim(lease_s=3600):
            waiting[claimed.sop_instance_uid, claimed.sha256] += 1
            found = _sha256(central.unseal(spool, claimed.object_id))
            assert found == claimed.sha256, f"{claimed.object_id} is not what its row says"
        assert [one for one, count in waiting.items() if count > 1] == [], "would be sent twice"
        kept = {object_id for object_id, row in rows.items() if row.state is not State.FREED}
        files = {path.stem for path in held_files(root)}
        assert files == kept, "the files are not those of the rows"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
