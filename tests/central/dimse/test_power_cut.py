"""Central is killed while many store at once: what it acknowledged is there, whatever shared its sync."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from pathlib import Path

from central.access.policy import Action, Grant, Principal, Role, authorize
from contract.part10 import file_meta
from tests.central.app.program import CentralProcess
from tests.central.databases import open_archive_in, open_index, storage_keys
from tests.central.dimse.house import PEER
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ScriptedScu, small_data_set

SENDERS = 6
ACKNOWLEDGED = 60
BOUND_S = 60
STUDY = "1.2.7"
WHO = Principal("u", "radiologist", Role.RADIOLOGIST)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    config = tmp_path / "central.toml"
    config.write_text(_toml(root))
    acknowledged: dict[str, bytes] = {}
    enough = threading.Event()

    def send(sender: int, port: int) -> None:
        with contextlib.suppress(OSError, AssertionError), ScriptedScu(port, timeout_s=BOUND_S) as scu:
            scu.associate(calling=b"PEER", called=b"DICOMNET")
            for number in range(1000):
                uid = f"{STUDY}.{sender}.{number}"
                data = small_data_set(uid, study=STUDY)
                if scu.store(data, uid).status == 0:
                    acknowledged[uid] = data
                if len(acknowledged) >= ACKNOWLEDGED:
                    enough.set()

    central = CentralProcess(config)
    port = central.start()["dicom"]["port"]
    senders = [threading.Thread(target=send, args=(number, port)) for number in range(SENDERS)]
    for sender in senders:
        sender.start()
    assert enough.wait(BOUND_S), config.with_suffix(".log").read_text()
    central.stop(signal.SIGKILL)
    for sender in senders:
        sender.join(BOUND_S)

    db = open_index(root)
    archive = open_archive_in(root, db)
    facts = archive.reading.facts(STUDY)
    assert facts is not None
    grant = authorize(WHO, Action.VIEW, facts)
    assert isinstance(grant, Grant)
    kept = {one.sop_instance_uid: one.path.read_bytes() for one in archive.reading.open_instances(grant)}
    db.close()
    for uid, data in acknowledged.items():
        assert kept[uid] == file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE) + data


def _toml(root: Path) -> str:
    keys = storage_keys(root)
    s3 = keys.pop("s3", None)
    lines = ["[people]", "port = 0", "[gateways]", "port = 0", "[storage]", "reserve_bytes = 0"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    if s3 is not None:
        lines += ["[storage.s3]", *(f"{name} = {json.dumps(value)}" for name, value in s3.items())]
    lines += ["[dicom]", "port = 0", "max_connections_per_address = 20", "[[dicom.peers]]"]
    lines += [f"{name} = {json.dumps(value)}" for name, value in PEER.items()]
    return "\n".join(lines)
