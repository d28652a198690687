"""The command `prioritise` reaches the order in which the spool lends its objects."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.control import QueueList
from contract.priority import Priority
from contract.sealing import DataKeyRing, RecipientPrivateKey
from edge.app import Box
from edge.buffer.records import InstanceIdentity, Origin
from edge.config import Settings
from edge.control import ControlError, ask
from edge.uplink.commands import CommandFailedError


def test_a_study_is_put_first_by_command(tmp_path: Path) -> None:
    box = Box(
        Settings.model_validate(
            {
                "box": {"state_directory": str(tmp_path), "control_socket": str(tmp_path / "c.sock")},
                "gateway": {"host": "127.0.0.1", "port": 0},
                "buffer": {"reserve_bytes": 0, "low_water_bytes": 0},
            }
        )
    )
    box.start()
    try:
        spool = box._spool
        spool.entrance.set_keys(DataKeyRing((RecipientPrivateKey.generate().public_key(),)))
        for study in ("1.1", "1.2", "1.2"):
            with spool.entrance.receive(
                Origin("CT1", "BOX", "127.0.0.1", "1.2.840.10008.1.2.1")
            ) as reception:
                uid = f"{study}.{spool.inspection.last_sequence()}"
                reception.write(uid.encode() * 100)
                reception.commit(
                    InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", uid, study, f"{study}.9", "CT")
                )
        with pytest.raises(CommandFailedError, match="nothing of this study"):
            box._reporting.prioritise("1.99", Priority.FIRST)
        said = box._reporting.prioritise("1.2", Priority.FIRST)
        assert said == "2 objects of the study go first, and what comes of it later"
        with pytest.raises(ControlError, match="a priority is one of first, stat, high, routine, low"):
            ask(
                tmp_path / "c.sock",
                "prioritise",
                {"study_instance_uid": "1.1", "priority": "x"},
                timeout_s=60,
            )
        with pytest.raises(ControlError, match="nothing of this study waits"):
            ask(
                tmp_path / "c.sock",
                "prioritise",
                {"study_instance_uid": "9", "priority": "low"},
                timeout_s=60,
            )
        answer = ask(
            tmp_path / "c.sock", "prioritise", {"study_instance_uid": "1.1", "priority": "low"}, timeout_s=30
        )
        entries = QueueList.model_validate(answer).entries
        assert [entry.priority for entry in entries] == ["low", "first", "first"]
        claimed = spool.queue.claim(lease_s=60)
        assert claimed is not None
        assert claimed.study_instance_uid == "1.2"
    finally:
        box.stop()
