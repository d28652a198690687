"""Both real halves of identity: central's own listener and database, the box's own files, threads and spool.

Central runs in this process on loopback TLS, and so does the box's uplink; only the DICOM gateway in front is left out.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from threading import Event

import pytest
from pydicom.data import get_testdata_file

from central.audit.reading import Wanted
from central.foundation import Foundation
from central.identity.sealing_keys import ROOT_KEY, read_root
from contract.key_set import sign_key_set
from edge.uplink.errors import EnrolmentRefusedError
from tests.central.app.house import House, everything_in, retire_receipts, rotate_receipts
from tests.edge.uplink_box import Box

WITHIN_S = 60.0


def eventually(predicate: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + WITHIN_S, Event()
    while not predicate():
        assert time.monotonic() < deadline, "it did not come about in time"
        pause.wait(0.05)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box").start()
    yield made
    made.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path / "central") as house:
        yield house


def image() -> bytes:
    path = get_testdata_file("CT_small.dcm", download=False)
    return Path(str(path)).read_bytes()


def drained(box: Box) -> bool:
    return box.spool.holdings.depth().unsent.objects == 0


def test_an_administrator_accepts_the_fingerprint_that_the_box_shows(box: Box, tmp_path: Path) -> None:
    with House(tmp_path / "strict", gateways={"acceptance": "administrator"}) as strict:
        box.membership.enrol(strict.pairing("ct"))
        pairings = strict.central.foundation.pairings
        (waiting,) = pairings.pending()
        assert box.link.status().enrolment.endswith(waiting.fingerprint)
        pairings.decide(waiting.fingerprint, "accepted")
        eventually(lambda: box.membership.gateway_id == "ct")
        box.store(image())
        eventually(lambda: drained(box))
        assert [found.content for found in everything_in(strict.root)] == [image()]


def test_keys_rotate_under_a_box_that_holds_objects_and_nothing_is_lost(house: House, box: Box) -> None:
    box.membership.enrol(house.pairing("ct"))
    keys = house.central.foundation.identity.sealing_keys
    first = keys.current_set().newest
    port = house.central.gateways.port
    house.stop()  # the line is down
    box.store(image())
    with closing(Foundation.open(house.settings)) as beside:  # rotated by a command meanwhile
        changed = beside.identity.sealing_keys
        root = read_root(house.root / "keys" / ROOT_KEY)
        assert root is not None
        changed.publish(sign_key_set(changed.rotated(), root))
        changed.publish(sign_key_set(changed.retired(first.key_id), root))
        version = changed.current_set().version
        assert "ct" in beside.standings.who_may_need(first.key_id, version)
    box.stop()  # sealed for the first key, and still here
    house = House(house.root, gateways={"port": port}).start()
    try:
        box.start()
        eventually(lambda: drained(box))
        assert [found.content for found in everything_in(house.root)] == [image()]
        eventually(lambda: box.sealed_for[-1] != first.recipient())
        standings = house.central.foundation.standings
        box.stop()
        box.start()  # its next report follows a look at an empty spool
        eventually(lambda: standings.who_may_need(first.key_id, version) == {})
        house.central.foundation.identity.sealing_keys.destroy(first.key_id)
        box.store(image().replace(b"1.3.6.1.4.1.5962.1.1.1", b"1.3.6.1.4.1.5962.1.1.9"))
        eventually(lambda: drained(box))
    finally:
        house.stop()


def test_a_revoked_box_is_cut_off_and_comes_back_by_a_new_pairing_with_all_it_holds(
    house: House, box: Box
) -> None:
    box.membership.enrol(house.pairing("ct"))
    box.store(image())
    eventually(lambda: drained(box))
    house.revoke("ct")
    box.store(image().replace(b"1.3.6.1.4.1.5962.1.1.1", b"1.3.6.1.4.1.5962.1.1.9"))
    eventually(lambda: box.link.status().state == "refused")
    said = box.link.status().detail
    assert "revoked at central" in said
    assert "pair --replaces ct" in said
    assert "\n" not in said
    assert len(everything_in(house.root)) == 1
    assert not drained(box)
    box.membership.enrol(house.pairing(replaces="ct"))
    eventually(lambda: drained(box))
    assert box.membership.gateway_id == "ct"
    assert len(everything_in(house.root)) == 2
    assert [record.gateway_id for record in house.central.foundation.gateways.listed()] == ["ct"]


def test_a_new_box_in_a_broken_ones_place_and_the_broken_one_says_why_it_is_out(
    house: House, box: Box, tmp_path: Path
) -> None:
    box.membership.enrol(house.pairing("ct"))
    new = Box(tmp_path / "new").start()
    try:
        new.membership.enrol(house.pairing(replaces="ct"))
        assert new.membership.gateway_id == "ct"
        new.store(image())
        eventually(lambda: drained(new))
        box.store(image())
        eventually(lambda: "took the place of this one" in box.link.status().detail)
        assert not drained(box)
    finally:
        new.stop()


def test_a_copied_disk_is_one_clear_line_on_a_box_and_at_central(
    house: House, box: Box, tmp_path: Path
) -> None:
    box.membership.enrol(house.pairing("ct"))
    standings = house.central.foundation.standings

    def reported() -> bool:
        return standings.all()[0].reported_at_utc is not None

    eventually(reported)
    eventually(lambda: (box.directory / "identity" / "keys.json").read_text().count('"ticket": "') == 1)
    box.stop()
    copy = tmp_path / "copy"
    shutil.copytree(box.directory, copy, symlinks=True)  # somebody cloned the card
    twins = [box, Box(copy)]
    try:
        for _ in range(2):
            for twin in twins:
                twin.start()
                before = standings.all()[0].reported_at_utc
                eventually(lambda before=before: standings.all()[0].reported_at_utc != before)
                if standings.all()[0].seen_twice:
                    eventually(
                        lambda twin=twin: "Two boxes use this box's identity" in twin.link.status().notice
                    )
                twin.stop()
        assert standings.all()[0].seen_twice
        rows = house.central.foundation.audit.newest(Wanted(), limit=50)
        seen = [row.event for row in rows if row.event.action == "identity-seen-twice"]
        assert [event.actor for event in seen] == ["ct"]
    finally:
        box.start()


def test_a_used_string_says_so(house: House, box: Box, tmp_path: Path) -> None:
    pairing = house.pairing("ct")
    box.membership.enrol(pairing)
    other = Box(tmp_path / "other").start()
    try:
        with pytest.raises(EnrolmentRefusedError, match="wrong, used, or older"):
            other.membership.enrol(pairing)
    finally:
        other.stop()


def another(number: int) -> bytes:
    return image().replace(b"1.3.6.1.4.1.5962.1.1.1", f"1.3.6.1.4.1.5962.1.1.{number}".encode())


def test_a_box_learns_of_a_receipt_key_before_it_signs_and_keeps_the_former_until_it_is_retired(
    house: House, box: Box
) -> None:
    box.membership.enrol(house.pairing("ct"))
    (first,) = box.identities[-1].receipt_keys
    offered = rotate_receipts(house, lead=timedelta(days=14))
    box.stop()
    box.start()
    eventually(lambda: list(box.identities[-1].receipt_keys) == [first, offered.newest.key_id])
    box.store(image())
    eventually(lambda: drained(box))  # signed by the first key still
    house.stop()
    box.stop()
    box.start()
    assert len(box.identities[-1].receipt_keys) == 2, "kept over a restart without central"


def test_a_receipt_key_that_signs_too_soon_delays_and_loses_nothing(house: House, box: Box) -> None:
    box.membership.enrol(house.pairing("ct"))
    (first,) = box.identities[-1].receipt_keys
    box.store(image())
    eventually(lambda: drained(box))
    second = rotate_receipts(house, lead=timedelta(0)).newest.key_id
    retire_receipts(house, first)
    box.store(another(9))
    eventually(lambda: "signed with a key that is not central's" in box.link.status().detail)
    assert not drained(box)
    box.stop()
    box.start()  # its first round brings the list
    eventually(lambda: drained(box))
    assert list(box.identities[-1].receipt_keys) == [second]
    assert {found.content for found in everything_in(house.root)} == {image(), another(9)}
