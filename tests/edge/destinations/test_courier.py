"""None waits for another: dead destinations beside live ones and central, poison, and a box that stops meanwhile."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import pytest
from pynetdicom import AE, evt
from pynetdicom.events import Event

from contract.sealing import DataKeyRing
from edge.buffer.deliveries import Delivery
from edge.buffer.states import State
from edge.gateway import calling
from edge.uplink import stow
from edge.uplink.courier import Courier, Source
from edge.uplink.enrolment import enrol
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import IdentityStore
from edge.uplink.link import Link
from edge.uplink.verdicts import DELIVERED, Outcome
from tests.edge.destinations.conftest import MakeBox
from tests.edge.destinations.sending import SendingBox, StoreScp, black_hole, wait_until
from tests.edge.destinations.test_dimse import pacs_settings
from tests.edge.scripted_central import ScriptedCentral
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE
from tests.ports import free_base_port


@contextmanager
def peer(answer: Callable[[str, Event], int]) -> Iterator[tuple[int, Counter[str]]]:
    """A pynetdicom peer that answers as told; its port, and how often it was given each instance."""
    given: Counter[str] = Counter()

    def take(event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        given[uid] += 1
        return answer(uid, event)

    ae = AE("PACS")
    ae.add_supported_context(CT_STORAGE, EXPLICIT_LITTLE)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        yield server.server_address[1], given
    finally:
        server.shutdown()


@contextmanager
def forwarding(box: SendingBox, central: ScriptedCentral) -> Iterator[None]:
    """Central gets what the box has, as in a whole box."""
    identity = IdentityStore(box.folder / "identity").save(*enrol(central.pairing))
    box.spool.entrance.set_keys(DataKeyRing((*identity.recipients, box.recipient.public_key)))
    forwarder = Forwarder(
        box.spool.queue, Link(), connections=1, lease_s=60, backoff_ceiling_s=0.1, timeout_s=30
    )
    forwarder.start()
    forwarder.use(identity)
    try:
        yield
    finally:
        forwarder.stop(5)
        box.stop()
        forwarder.join(60)


@pytest.mark.needs("dcmtk")
def test_dead_destinations_hold_up_neither_central_nor_a_live_one(
    make_box: MakeBox, pacs: StoreScp, central: ScriptedCentral, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One accepts connections and says nothing, one is not there; stopping does not wait for them, either."""
    # A single wait for the silent ones is longer than any of the test's own.
    monkeypatch.setattr(calling, "_ANSWER_TIMEOUT_S", 600.0)
    monkeypatch.setattr(stow, "_TIMEOUT", httpx.Timeout(600.0))
    with black_hole() as hole:
        names = {"HOLE": hole, "GONE": free_base_port(1), "PACS": pacs.port}
        box = make_box(
            dimse=[
                {"name": name, "ae_title": name, "host": "127.0.0.1", "port": port}
                for name, port in names.items()
            ],
            stow=[{"name": "WEB", "url": f"http://127.0.0.1:{hole}", "plain_http": True}],
        )
        pacs.start()
        box.start()
        with forwarding(box, central):
            stored = {box.store(pixels=bytes(100_000)) for _ in range(40)}
            wait_until(lambda: box.waits("PACS") == 0 and set(central.archived) == stored, timeout_s=180)
            wait_until(lambda: box.states() == {State.OWED})
            for name in ("HOLE", "GONE", "WEB"):
                assert box.waits(name) == 40, name
            assert len(pacs.uids()) == 40
            wait_until(lambda: "cannot be reached" in box.trouble("GONE"))
            oldest = box.tally("HOLE").oldest_at_utc
            assert oldest is not None
            assert box.tally("HOLE").waiting_bytes > 0
            began_s = time.monotonic()
            box.destinations.stop(0.5)
            assert time.monotonic() - began_s < 60
            box.spool.deliveries.give_up("HOLE")
            box.spool.deliveries.give_up("GONE")
            box.spool.deliveries.give_up("WEB")
            assert box.states() == {State.FREED}


@pytest.mark.parametrize("poison", ["it ends the association", "processing failure"])
def test_an_object_that_the_peer_stumbles_over_is_set_aside_and_the_queue_goes_on(
    make_box: MakeBox, poison: str
) -> None:
    """It is set aside because the others pass, not because it failed: see the next test."""

    def answer(uid: str, event: Event) -> int:
        if uid != "1.2.3.1":
            return 0x0000
        if poison == "it ends the association":
            event.assoc.abort()
        return 0x0110

    with peer(answer) as (port, given):
        box = make_box(**pacs_settings(port)).start()
        box.store()

        def outrun(before: int) -> Callable[[], bool]:
            return lambda: bool(box.reasons("PACS")) or (box.waits("PACS") <= 1 and given["1.2.3.1"] > before)

        while not box.reasons("PACS"):
            assert given["1.2.3.1"] <= 60
            passed = outrun(given["1.2.3.1"])
            box.store()
            wait_until(passed)
        assert "times while others passed: " in box.reasons("PACS")[0]
        assert given["1.2.3.1"] >= 8
        assert all(count == 1 for uid, count in given.items() if uid != "1.2.3.1")
        box.store()
        wait_until(lambda: box.waits("PACS") == 0 and not box.trouble("PACS"))

        before = given["1.2.3.1"]
        box.destinations.try_again("PACS", None)
        wait_until(lambda: given["1.2.3.1"] > before)


@pytest.mark.parametrize("failure", ["it ends the association", "processing failure"])
def test_a_peer_that_fails_at_everything_has_nothing_set_aside(make_box: MakeBox, failure: str) -> None:
    def answer(_: str, event: Event) -> int:
        if sum(given.values()) > 30:
            return 0x0000
        if failure == "it ends the association":
            event.assoc.abort()
        return 0x0110

    with peer(answer) as (port, given):
        box = make_box(**pacs_settings(port)).start()
        box.store()
        box.store()
        wait_until(lambda: box.waits("PACS") == 0)
        assert box.reasons("PACS") == []
        assert sum(given.values()) > 30


def test_what_cannot_be_opened_here_is_set_aside_and_says_so(make_box: MakeBox) -> None:
    """Sealed before the box had a key of its own; and one whose bytes the disk has changed."""
    with peer(lambda *_: 0x0000) as (port, given):
        box = make_box(**pacs_settings(port))
        box.spool.entrance.set_keys(DataKeyRing((box.central.private.public_key(),)))
        box.store()
        box.spool.entrance.set_keys(DataKeyRing((box.central.private.public_key(), box.recipient.public_key)))
        changed = box.store(pixels=os.urandom(3_000_000))
        box.store()
        box.spool.holdings.depth()
        (path,) = box.folder.rglob(f"{changed}.sealed")
        sealed = bytearray(path.read_bytes())
        sealed[len(sealed) // 4] ^= 1
        path.write_bytes(sealed)
        box.start()
        wait_until(lambda: box.waits("PACS") == 0)
        before, damaged = box.reasons("PACS")
        assert "cannot be opened on this box" in before
        assert "cannot be opened on this box" in damaged
        assert given["1.2.3.3"] == 1
        assert given["1.2.3.1"] == given["1.2.3.2"] == 0  # half of it is not taken for all


class ScriptedDestination:
    """Takes an object piece by piece: after the first it waits for `go`; `fault`: what it raises instead."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.fault: Exception | None = None
        self.rests = 0

    def send(self, delivery: Delivery, part10: Source) -> Outcome:
        if self.fault is not None:
            raise self.fault
        for _ in part10:
            self.begun.set()
            self.go.wait(60)
        return DELIVERED

    def rest(self) -> None:
        self.rests += 1


def courier_to(box: SendingBox, destination: ScriptedDestination) -> Courier:
    box.names = ("PACS",)
    return Courier(
        "PACS",
        destination,
        box.spool.deliveries,
        lambda object_id: box.recipient.open(box.spool.holdings.open_object(object_id), object_id),
        backoff_ceiling_s=0.1,
    )


def test_a_box_that_stops_lets_go_in_the_middle_and_blames_nobody(make_box: MakeBox) -> None:
    box, destination = make_box(), ScriptedDestination()
    courier = courier_to(box, destination)
    box.store(pixels=os.urandom(3_000_000))
    courier.start()
    assert destination.begun.wait(60)
    courier.stop()
    destination.go.set()
    courier.wait_until_idle(30)
    delivery = box.spool.deliveries.next("PACS")
    assert delivery is not None
    assert delivery.attempts == 0
    assert courier.trouble == ""
    box.spool.close()
    courier.join(60)
    assert destination.rests == 1


def test_a_fault_in_the_program_is_waited_out_and_loses_nothing(make_box: MakeBox) -> None:
    box, destination = make_box(), ScriptedDestination()
    courier = courier_to(box, destination)
    destination.fault = RuntimeError("nobody thought of this")
    destination.go.set()
    box.store()
    courier.start()
    wait_until(lambda: courier.trouble == "a fault in this program; see its log")
    assert box.waits("PACS") == 1
    destination.fault = None
    wait_until(lambda: box.waits("PACS") == 0)
    assert courier.trouble == ""
    assert box.reasons("PACS") == []
    courier.stop()
    box.spool.close()
    courier.join(60)


def test_an_idle_courier_lets_go_of_its_connection(make_box: MakeBox) -> None:
    box, destination = make_box(), ScriptedDestination()
    courier = courier_to(box, destination)
    destination.go.set()
    box.store()
    courier.start()
    wait_until(lambda: destination.rests == 1)
    box.store()
    wait_until(lambda: box.waits("PACS") == 0)
    courier.stop()
    box.spool.close()
    courier.join(60)
