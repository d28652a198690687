"""Requests of very many elements, on many associations at once: what they cost in memory."""

from __future__ import annotations

import struct
import threading
import tracemalloc
from pathlib import Path

import pytest

from edge.buffer.commitments import CommitmentStore
from edge.buffer.device_key import DeviceKey
from edge.buffer.performed_procedures import PerformedProcedures
from edge.buffer.service_database import ServiceDatabase
from edge.gateway.command_set import Command, CommandField, Element
from edge.gateway.commitment import CommitmentService
from edge.gateway.commitment_messages import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from edge.gateway.negotiation import Context
from edge.gateway.performed_procedure import MODALITY_PERFORMED_PROCEDURE_STEP, PerformedProcedureService
from edge.gateway.service import Request, Service
from tests.peers.scripted_scu import IMPLICIT_LITTLE

AT_ONCE = 6
WIDE = b"".join(struct.pack("<HHI", 0x0011, 0x1000 + number, 0) for number in range(8_000))


def request(abstract_syntax_uid: str, field: int, elements: dict[int, bytes]) -> Request:
    return Request(
        command=Command(elements, field, 1),
        data_set=WIDE,
        context=Context(abstract_syntax_uid, IMPLICIT_LITTLE),
        calling_ae_title="CT1",
        called_ae_title="DICOMNET",
        peer_address="10.0.0.5",
    )


ACTION = request(
    STORAGE_COMMITMENT,
    CommandField.N_ACTION_RQ,
    {
        Element.REQUESTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_INSTANCE.encode(),
        Element.ACTION_TYPE_ID: b"\1\0",
    },
)
STEP = request(
    MODALITY_PERFORMED_PROCEDURE_STEP,
    CommandField.N_CREATE_RQ,
    {Element.AFFECTED_SOP_INSTANCE_UID: b"1.2.3"},
)


def peak_bytes(service: Service, asked: Request, at_once: int) -> int:
    ready = threading.Barrier(at_once)
    statuses: list[int] = []

    def ask() -> None:
        ready.wait(60)
        statuses.extend(reply.status for reply in service.handle(asked, None))  # type: ignore[arg-type]  # not asked

    threads = [threading.Thread(target=ask) for _ in range(at_once)]
    tracemalloc.start()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert statuses in ([0x0115] * at_once, [0x0120] * at_once)
    return peak


@pytest.mark.parametrize("asked", [ACTION, STEP], ids=["commitment", "procedure step"])
def test_they_are_taken_apart_one_at_a_time(asked: Request, tmp_path: Path) -> None:
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    service: Service
    if asked is ACTION:
        service = CommitmentService(CommitmentStore(database), None)  # type: ignore[arg-type]  # nothing to report
    else:
        key = DeviceKey.load(tmp_path / "device.key")
        service = PerformedProcedureService(PerformedProcedures(database, key), lambda _: None)
    try:
        one = peak_bytes(service, asked, 1)
        assert one > 1_000_000
        assert peak_bytes(service, asked, AT_ONCE) < 2 * one
    finally:
        database.close()
