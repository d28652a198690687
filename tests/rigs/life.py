"""A box's spool at work until its power goes: ``python -m tests.rigs.life ROOT PUBLIC_KEY LIFE SEED``.

Three threads receive, one does what the uplink does. Each says on standard output what it is about to do where
that may remove something, and what has been done: a line that was said before the cut is a promise.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import threading
from pathlib import Path
from random import Random

from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State

RECEIVERS = 3
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70")  # compressed on the way in, and as it came
_SIZES = (700, 40_000, 130_000, 500_000, 2_200_000)  # the last spans frames of the sealed object


def say(**facts: object) -> None:
    """One line, in one write: whole or not at all."""
    os.write(1, json.dumps(facts).encode() + b"\n")


def identity(uid: str) -> InstanceIdentity:
    return InstanceIdentity(CT_IMAGE, uid, "1.2.9", "1.2.9.1", "CT")


def content(random: Random) -> bytes:
    """Half noise and half repetition, so that it neither vanishes in the codec nor passes untouched."""
    size = random.choices(_SIZES, (4, 8, 4, 2, 1))[0]
    return random.randbytes(size // 2) + b"repetition " * (size // 22)


def receive(spool: Spool, life: str, thread: int, random: Random) -> None:
    before: tuple[str, bytes] | None = None
    for number in itertools.count():
        origin = Origin(f"CT{thread}", "DICOMNET", "192.0.2.7", random.choice(SYNTAXES))
        uid, data = f"1.2.3.{life}.{thread}.{number}", content(random)
        chance = random.random()
        if before is not None and chance < 0.1:
            uid, data = before  # sent twice
        elif before is not None and chance < 0.2:
            uid = before[0]  # the same name for other bytes
        with spool.entrance.receive(origin) as reception:
            for at in range(0, len(data), 65_536):
                reception.write(data[at : at + 65_536])
            if chance > 0.95:
                continue  # the sender hung up
            if chance > 0.9:
                reception.quarantine("nobody knows what this is")
                continue
            stored = reception.commit(identity(uid))
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        say(stored=stored.object_id, outcome=stored.outcome, uid=uid, sha256=stored.sha256)
        before = uid, data


def send(spool: Spool, random: Random) -> None:
    while True:
        spool.queue.wait_for_work(None)
        claimed = spool.queue.claim(lease_s=3600)
        if claimed is None:
            continue
        chance = random.random()
        if chance < 0.5:
            say(acknowledging=claimed.object_id)
            spool.queue.acknowledge(claimed.object_id, "a receipt")
            say(acknowledged=claimed.object_id)
        elif chance < 0.8:
            spool.queue.release(claimed.object_id, error="the line broke", retry_in_s=random.random() * 0.05)
        else:
            spool.queue.set_aside(claimed.object_id, reason="central refused it")
            kept = spool.holdings.list_objects(states=[State.QUARANTINED], limit=100)
            answered = [row.object_id for row in kept if row.last_error == "central refused it"]
            spool.quarantine.requeue(random.choice(answered))


def main() -> None:
    root, key, life, seed = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
    keys = DataKeyRing((RecipientPublicKey(bytes.fromhex(key)),))
    spool = Spool.open(root, reserve_bytes=0, quarantine_max_bytes=2 << 20, keys=keys)
    say(opened=True, files_missing=spool.recovery.files_missing, index_rebuilt=spool.recovery.index_rebuilt)
    threads = [
        threading.Thread(target=receive, args=(spool, life, number, Random(f"{seed} {number}")))
        for number in range(RECEIVERS)
    ]
    threads.append(threading.Thread(target=send, args=(spool, Random(f"{seed} sender"))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # Python's thread pools end with the main thread


if __name__ == "__main__":
    # What a thread could not do, the test must hear of.
    threading.excepthook = lambda failure: (
        say(failed=f"{failure.exc_type.__name__}: {failure.exc_value}"),
        os._exit(1),
    )
    main()
