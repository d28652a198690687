"""A box's standing with central, kept right by itself: real spool, forwarder and TLS, clocks of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from contract.enrolment import Pairing, PairingError, new_token
from contract.sealing import RecipientPublicKey
from contract.transfer import Problem
from edge.buffer.spool import Spool
from edge.uplink import membership
from edge.uplink.box_key import BoxKey
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import enrol, renew
from edge.uplink.errors import CentralFailedError, CentralUnreachableError, EnrolmentRefusedError
from edge.uplink.identity import Enrolment, Identity, IdentityStore
from edge.uplink.key_book import KeyBook
from edge.uplink.key_maker import KeyMaker
from edge.uplink.link import Link
from edge.uplink.receipt_check import ReceiptChecker
from edge.uplink.upkeep import Upkeep
from tests.edge.scripted_central import ScriptedCentral
from tests.edge.uplink_box import Box

Eventually = Callable[[Callable[[], bool]], None]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path / "box").start()
    yield made
    made.stop()


def test_a_box_whose_clock_says_1970_enrols_and_sends(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    box = Box(tmp_path / "unset", system=lambda: 0.0).start()
    try:
        box.membership.enrol(central.pairing)
        object_id = box.store()
        eventually(lambda: object_id in central.archived)
        eventually(lambda: box.link.status().state == "connected")
        box.stop()
        box.start()  # the next life begins at the floor of this one, and central says the time again
        object_id = box.store()
        eventually(lambda: object_id in central.archived)
        eventually(lambda: box.link.status().clock_offset_s is not None)
        offset_s = box.link.status().clock_offset_s
        assert offset_s is not None
        assert offset_s < -50 * 365 * 86_400
    finally:
        box.stop()


def test_a_clock_far_ahead_says_clock_and_heals(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    """Enrolled at a good time; then the battery fails, and the system's clock goes to 2070."""
    enrolled = Box(tmp_path / "box").start()
    enrolled.membership.enrol(central.pairing)
    enrolled.stop()
    log: list[str] = []
    box = Box(tmp_path / "box", system=lambda: 3.2e9)
    for _ in range(2):  # the questions for receipt keys and the time fail at first
        central.fault("GET", lambda handler: handler.problem(503, Problem.UNAVAILABLE))
    box.start()
    try:
        eventually(lambda: log.append(box.link.status().detail) or "clock" in log[-1])  # type: ignore[func-returns-value]
        assert "central's certificate ended on" in log[-1]
        assert "asks it for the time by itself" in log[-1]
        assert "\n" not in log[-1]
        eventually(lambda: box.link.status().state == "connected")
    finally:
        box.stop()


def test_an_administrators_yes_is_waited_for_over_a_restart(
    central: ScriptedCentral, box: Box, eventually: Eventually
) -> None:
    central.pending = True
    box.membership.enrol(central.pairing)
    assert box.membership.gateway_id is None
    said = box.link.status().enrolment
    assert "accept this box" in said
    pending = box.directory / "identity" / "pending.json"
    assert pending.stat().st_mode & 0o077 == 0
    key_pem = json.loads(pending.read_text())["key_pem"]
    box.stop()
    box.start()
    eventually(lambda: box.link.status().enrolment == said)  # the same key, so the same fingerprint
    central.pending = False
    eventually(lambda: box.membership.gateway_id == central.gateway_id)
    eventually(lambda: not pending.exists())
    eventually(lambda: box.link.status().enrolment == "")
    assert (box.identities[-1].directory / "key.pem").read_text() == key_pem
    object_id = box.store()
    eventually(lambda: object_id in central.archived)


def test_central_out_of_reach_is_said_and_asked_again(
    central: ScriptedCentral, box: Box, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for an administrator who has never heard of the box."""
    monkeypatch.setattr(membership, "_AFTER_FAILURE_S", 1.0)
    pairing = central.pairing
    central.stop()
    with pytest.raises(CentralUnreachableError):
        box.membership.enrol(pairing)
    said = box.link.status().enrolment
    assert "cannot be reached" in said
    assert "goes on with it by itself" in said
    assert "administrator" not in said
    box.stop()
    box.start()
    eventually(lambda: box.link.status().enrolment == said)
    box.stop()
    central.start()
    box.start()
    eventually(lambda: box.membership.gateway_id == central.gateway_id)
    eventually(lambda: box.link.status().enrolment == "")


def test_an_enrolment_that_failed_on_the_way_is_tried_again(
    central: ScriptedCentral, box: Box, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_AFTER_FAILURE_S", 0.1)
    central.fault("GET", lambda handler: handler.problem(503, Problem.UNAVAILABLE))
    with pytest.raises(CentralFailedError):
        box.membership.enrol(central.pairing)
    eventually(lambda: box.membership.gateway_id == central.gateway_id)


def test_a_string_of_another_central_keeps_nothing(central: ScriptedCentral, box: Box) -> None:
    with pytest.raises(PairingError):
        box.membership.enrol(replace(central.pairing, ca_fingerprint="0" * 64))
    assert not (box.directory / "identity" / "pending.json").exists()
    assert box.link.status().enrolment == ""


def test_an_administrators_no_ends_the_waiting(
    central: ScriptedCentral, box: Box, eventually: Eventually
) -> None:
    central.pending = True
    box.membership.enrol(central.pairing)
    central.tokens.clear()
    eventually(lambda: "refused this box" in box.link.status().enrolment)
    assert not (box.directory / "identity" / "pending.json").exists()


@pytest.mark.parametrize("accepted", [False, True])
def test_a_late_answer_to_a_former_string_leaves_the_one_that_waits_alone(
    central: ScriptedCentral,
    box: Box,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    accepted: bool,
) -> None:
    answered, go = threading.Event(), threading.Event()
    asking: list[threading.Thread] = []

    def slow(pairing: Pairing, key: BoxKey, *, clock: BoxClock) -> tuple[BoxKey, Enrolment]:
        if asking:
            return enrol(pairing, key, clock=clock)
        asking.append(threading.current_thread())
        try:
            return enrol(pairing, key, clock=clock)
        finally:
            answered.set()
            assert go.wait(60)

    monkeypatch.setattr("edge.uplink.pending.enrol", slow)
    central.pending = True
    box.membership.enrol(central.pairing)
    if accepted:
        central.pending = False
    else:
        central.tokens.clear()
    assert answered.wait(60)
    central.pending, central.tokens = True, {new_token()}
    newer = central.pairing
    box.membership.enrol(newer)
    said = box.link.status().enrolment
    go.set()
    asking[0].join(60)
    pending = box.directory / "identity" / "pending.json"
    assert json.loads(pending.read_text())["pairing"] == str(newer)
    assert box.link.status().enrolment == said
    assert box.membership.gateway_id is None
    central.pending = False
    eventually(lambda: box.membership.gateway_id == central.gateway_id)


def test_a_refused_string_keeps_nothing(central: ScriptedCentral, box: Box) -> None:
    pairing = central.pairing
    central.tokens.clear()
    with pytest.raises(EnrolmentRefusedError):
        box.membership.enrol(pairing)
    assert not (box.directory / "identity" / "pending.json").exists()


def test_the_certificate_is_renewed_with_a_new_key_and_sending_goes_on(
    central: ScriptedCentral, box: Box, eventually: Eventually
) -> None:
    central.certificate_life = timedelta(hours=12)  # begun two days ago: two thirds are over
    box.membership.enrol(central.pairing)
    first = box.identities[0]
    central.certificate_life = timedelta(days=60)
    eventually(lambda: len(box.identities) > 1)
    renewed = box.identities[-1]
    assert renewed.gateway_id == first.gateway_id
    assert renewed.certificate.public_key() != first.certificate.public_key()
    eventually(lambda: box.link.status().state == "connected")
    eventually(lambda: box.link.status().certificate_expires_at_utc == renewed.certificate_expires_at_utc)
    assert box.link.status().renew_at_utc == renewed.renew_at_utc
    object_id = box.store()
    eventually(lambda: object_id in central.archived)
    box.stop()
    box.start()
    assert box.identities[-1] == renewed


def test_a_renewal_under_way_does_not_take_the_place_of_a_new_enrolment(
    central: ScriptedCentral, box: Box, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, go = threading.Event(), threading.Event()

    def slow(identity: Identity, key: BoxKey, *, timeout_s: float) -> Enrolment:
        enrolment = renew(identity, key, timeout_s=timeout_s)
        answered.set()
        assert go.wait(60)
        return enrolment

    monkeypatch.setattr("edge.uplink.upkeep.renew", slow)
    central.certificate_life = timedelta(hours=12)  # of which two thirds are over
    box.membership.enrol(central.pairing)
    assert answered.wait(60)
    central.certificate_life, central.gateway_id = timedelta(days=60), "gw-anew"
    central.tokens = {new_token()}
    person = threading.Thread(target=box.membership.enrol, args=(central.pairing,))
    person.start()
    eventually(box.membership._upkeep._superseded.is_set)
    go.set()
    person.join(60)
    assert [identity.gateway_id for identity in box.identities] == ["gw-test", "gw-anew"]
    on_disk = IdentityStore(box.directory / "identity").load()
    assert on_disk is not None
    assert on_disk.gateway_id == "gw-anew"


def test_a_renewal_that_fails_is_tried_again_and_the_old_certificate_stays(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    central.certificate_life = timedelta(hours=12)
    upkeep = Tended(central, tmp_path)
    central.certificate_life = timedelta(days=60)
    central.fault("POST", lambda handler: handler.problem(503, Problem.UNAVAILABLE), times=3)
    upkeep.start()
    try:
        eventually(lambda: len(upkeep.taken) == 2)
    finally:
        upkeep.stop()
    assert upkeep.store.load() == upkeep.taken[1]


def test_renewal_is_due_at_two_thirds_and_not_for_all_boxes_at_once(
    central: ScriptedCentral, tmp_path: Path
) -> None:
    due = set()
    for number in range(6):
        central.tokens = {new_token()}
        identity = IdentityStore(tmp_path / str(number)).save(*enrol(central.pairing))
        certificate = identity.certificate
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        part = (identity.renew_at_utc - certificate.not_valid_before_utc) / life
        assert 2 / 3 <= part <= 0.7001
        due.add(round(part, 4))
    assert len(due) > 1


def test_a_new_sealing_key_is_taken_up_without_a_restart_and_the_old_one_reported(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    upkeep.start()
    try:
        eventually(lambda: len(central.reports) > 1)
        newest = central.rotate()
        eventually(lambda: upkeep.sealed_for == [central.sealing_key.public_key(), newest.public_key()])
        eventually(lambda: central.reports[-1].key_set_version == 2)
        assert central.reports[-1].needed_key_ids == (
            newest.public_key().key_id.hex(),
            central.sealing_key.public_key().key_id.hex(),
        )
    finally:
        upkeep.stop()


def test_a_rollback_is_said_and_changes_nothing(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    central.key_set_version = 5
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    central.key_set_version = 4
    upkeep.start()
    try:
        eventually(lambda: "restored from a backup" in upkeep.link.status().notice)
        assert upkeep.sealed_for == [central.sealing_key.public_key()]
        central.key_set_version = 5
        eventually(lambda: upkeep.link.status().notice == "")
    finally:
        upkeep.stop()


def test_two_boxes_with_one_identity_is_one_clear_line(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    central.seen_twice = True
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    upkeep.start()
    try:
        eventually(lambda: "Two boxes use this box's identity" in upkeep.link.status().notice)
    finally:
        upkeep.stop()


def test_a_box_that_was_off_too_long_says_so_in_one_line(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    central.certificate_life = timedelta(days=-1)
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    upkeep.start()
    try:
        eventually(lambda: "pairing string that replaces gw-test" in upkeep.link.status().detail)
        assert upkeep.link.status().state == "refused"
        assert upkeep.link.status().detail.startswith("this box's certificate ended on")
    finally:
        upkeep.stop()
    assert len(upkeep.taken) == 1


def test_a_certificate_that_ended_by_centrals_clock_alone_says_clock(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    central.now = lambda: datetime.now(UTC) + timedelta(days=1000)
    upkeep.start()
    try:
        eventually(lambda: upkeep.link.status().state == "refused")
        said = upkeep.link.status().detail
        assert said.startswith("clock: central says that it is ")
        assert f"{datetime.now(UTC):%Y-}" in said
        assert "pairing string that replaces gw-test" in said
    finally:
        upkeep.stop()


def test_centrals_time_before_what_it_said_earlier_is_said_and_not_believed(
    central: ScriptedCentral, tmp_path: Path, eventually: Eventually
) -> None:
    upkeep = Tended(central, tmp_path, interval_s=0.1)
    now = upkeep.clock.now()
    central.now = lambda: datetime.now(UTC) - timedelta(days=30)
    upkeep.start()
    try:
        eventually(lambda: upkeep.link.status().notice.startswith("clock:"))
        assert upkeep.clock.now() >= now
    finally:
        upkeep.stop()


class Tended:
    """An enrolled box's upkeep alone, with rounds as quick as a test wants them."""

    def __init__(self, central: ScriptedCentral, directory: Path, interval_s: float = 0.2) -> None:
        folder = directory / "identity"
        self.clock = BoxClock(folder / "clock.json")
        self.store = IdentityStore(folder, self.clock)
        self.link = Link()
        self.taken: list[Identity] = []
        self.sealed_for: list[RecipientPublicKey] = []
        self.spool = Spool.open(directory / "spool", reserve_bytes=0, quarantine_max_bytes=1 << 20, keys=None)
        self._upkeep = Upkeep(
            self.store,
            self.clock,
            KeyBook(folder / "keys.json", set),
            self.link,
            seal_for=self.sealed_for.append,
            take_up=self.taken.append,
            try_now=lambda: None,
            checker=ReceiptChecker(self.spool.receipts, lambda sent_again, lost: None),
            keys=KeyMaker(),
            interval_s=interval_s,
            timeout_s=30,
        )
        self._bought = enrol(central.pairing, clock=self.clock)

    def start(self) -> None:
        self._upkeep.use_new(*self._bought)
        self._upkeep.start()

    def stop(self) -> None:
        self._upkeep.stop()
        self.spool.close()
