"""The box's side of the receipt check, before a central that lies, fails and comes from an earlier version."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.receipt import receipt_key_id
from contract.receipt_check import MAX_CHECKED, RECEIPT_CHECK_PATH, ReceiptCheck
from contract.receipt_keys import ReceiptKeyEntry, ReceiptKeyList, sign_receipt_keys
from contract.transfer import Problem
from edge.buffer.receipts import LostStudy
from edge.buffer.states import State
from edge.uplink.client import open_client
from edge.uplink.errors import CentralFailedError, CertificateRefusedError
from edge.uplink.receipt_check import ReceiptChecker
from edge.uplink.receipt_key_book import ReceiptKeyBook
from tests.edge.scripted_central import ScriptedCentral, ScriptedHandler
from tests.edge.uplink.conftest import Uplink

Eventually = Callable[[Callable[[], bool]], None]


class Checked:
    """An uplink with receipts, and rounds of the check on order."""

    def __init__(self, uplink: Uplink) -> None:
        self.uplink = uplink
        self.told: list[tuple[int, Sequence[LostStudy]]] = []

    def check(self, *, stop_after: int | None = None) -> None:
        """One round. `stop_after`: the box is told to stop once it was asked so often whether it should."""
        asked = 0

        def should_stop() -> bool:
            nonlocal asked
            asked += 1
            return stop_after is not None and asked > stop_after

        checker = ReceiptChecker(
            self.uplink.spool.receipts, lambda again, lost: self.told.append((again, lost))
        )
        identity = self.uplink.identity
        with open_client(identity.central_url, identity.tls_context(), timeout_s=30, connections=1) as client:
            checker.check(identity, client, should_stop)


@pytest.fixture
def checked(uplink: Uplink, central: ScriptedCentral, eventually: Eventually) -> Checked:
    """Six objects that central has signed for; three of them are still here."""
    uplink.forward()
    for retain in (timedelta(0), timedelta(hours=1)):
        uplink.spool.retained.period = retain
        for _ in range(3):
            uplink.store()
        eventually(lambda: set(uplink.states().values()) <= {State.FREED, State.RETAINED})
    return Checked(uplink)


def rows(uplink: Uplink) -> dict[str, tuple[State, bool]]:
    listed = uplink.spool.holdings.list_objects(states=list(State), limit=1000)
    return {str(row.object_id): (row.state, row.has_receipt) for row in listed}


def changes(checked: Checked) -> int:
    """Rows that the index has written since it was opened."""
    return int(checked.uplink.spool._index.db.connection().total_changes)  # type: ignore[no-untyped-call]


def checks(central: ScriptedCentral) -> int:
    return sum(path == RECEIPT_CHECK_PATH for _, path, _ in central.log)


def test_a_quiet_round_costs_one_request_and_writes_nothing(
    checked: Checked, central: ScriptedCentral
) -> None:
    checked.check()
    before, progress = rows(checked.uplink), checked.uplink.spool.receipts.progress()
    assert (progress.checked_through, progress.searching_below) == (6, None)
    count, written = checks(central), changes(checked)
    checked.check()
    assert checks(central) - count == 1
    assert changes(checked) == written
    assert rows(checked.uplink) == before
    assert checked.told == []


@pytest.mark.parametrize(
    "answer",
    [
        lambda asked: json.dumps({"unknown": ["f" * 32]}),
        lambda asked: json.dumps({"unknown": [asked.receipts[0].object_id] * 2}),
        lambda asked: json.dumps(
            {"unknown": [asked.receipts[0].object_id, *(f"{n:032x}" for n in range(MAX_CHECKED))]}
        ),
        lambda asked: json.dumps({"unknown": [asked.receipts[0].object_id], "and": "more"}),
        lambda asked: json.dumps({"unknown": "all"}),
        lambda asked: "<html>",
        lambda asked: "",
        lambda asked: " " * 1_000_000,
    ],
    ids=["another object", "twice", "too many", "another member", "no list", "html", "nothing", "a megabyte"],
)
def test_an_answer_that_cannot_be_changes_nothing(
    checked: Checked, central: ScriptedCentral, answer: Callable[[ReceiptCheck], str]
) -> None:
    before = rows(checked.uplink)
    central.answer_check = lambda asked: answer(asked).encode()
    with pytest.raises(CentralFailedError, match="receipts"):
        checked.check()
    assert rows(checked.uplink) == before
    assert checked.uplink.spool.receipts.progress().checked_through == 0
    assert checked.told == []


def test_a_failing_or_earlier_central_changes_nothing(checked: Checked, central: ScriptedCentral) -> None:
    before = rows(checked.uplink)
    for status, problem, error in (
        (503, Problem.UNAVAILABLE, CentralFailedError),
        (403, Problem.CERTIFICATE, CertificateRefusedError),
    ):

        def refuse(handler: ScriptedHandler, status: int = status, problem: Problem = problem) -> None:
            handler.body()
            handler.problem(status, problem)

        central.fault("POST", refuse)
        with pytest.raises(error):
            checked.check()

    def not_found(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(404, Problem.INVALID)

    central.fault("POST", not_found)
    checked.check()
    assert rows(checked.uplink) == before
    assert checked.uplink.spool.receipts.progress().checked_through == 0  # nobody has looked at them


def test_a_search_that_is_cut_off_goes_on_and_each_loss_counts_once(
    checked: Checked, central: ScriptedCentral, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    monkeypatch.setattr("edge.uplink.receipt_check.ANCHORS", 1)
    monkeypatch.setattr("edge.uplink.receipt_check.MAX_CHECKED", 3)
    checked.check()
    assert checks(central) == 3
    forgotten = set(central.archived)
    for kept in (central.archived, central.uploads, central.lengths):
        kept.clear()
    honest, count = central.answer_check, 0

    def fails_third(asked: ReceiptCheck) -> bytes:
        nonlocal count
        count += 1
        return b"" if count == 3 else honest(asked)

    central.answer_check = fails_third
    forwarder = checked.uplink._forwarder
    assert forwarder is not None
    forwarder.pause()
    with pytest.raises(CentralFailedError):
        checked.check()
    checked.check(stop_after=0)
    assert checked.told == [(3, [])]
    assert checked.uplink.spool.receipts.progress().searching_below == 4
    for _ in range(2):
        checked.check()
    assert [again for again, _ in checked.told] == [3, 0]
    assert [study.instances for _, lost in checked.told for study in lost] == [3]
    forwarder.resume()
    eventually(lambda: list(checked.uplink.states().values()) == [State.LOST] * 3 + [State.RETAINED] * 3)
    assert len(central.archived) == 3
    assert central.archived.keys() < forgotten


def test_receipts_of_a_key_that_counts_no_more_are_shown_all_the_same(
    checked: Checked, central: ScriptedCentral
) -> None:
    """They were verified when they came. What a stolen key signed, central may never have had."""
    central.archived.clear()
    former = checked.uplink.identity
    root, new_key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate().public_key()
    now = datetime.now(UTC)
    entry = ReceiptKeyEntry(
        key_id=receipt_key_id(new_key),
        created_at_utc=now,
        signs_from_utc=now,
        public_key=base64.b64encode(new_key.public_bytes_raw()).decode(),
    )
    central_id = former.enrolment.answer.central_id
    listed = ReceiptKeyList(central_id=central_id, version=1, issued_at_utc=now, keys=(entry,))
    book = ReceiptKeyBook()
    book.take(sign_receipt_keys(listed, root), root.public_key(), central_id)
    raw_root = base64.b64encode(root.public_key().public_bytes_raw()).decode()
    answer = former.enrolment.answer.model_copy(update={"root_key": raw_root})
    enrolment = former.enrolment.model_copy(update={"answer": answer})
    checked.uplink.identity = replace(former, enrolment=enrolment, receipt_book=book)
    assert list(checked.uplink.identity.receipt_keys) == [entry.key_id]
    checked.check()
    assert [again for again, _ in checked.told] == [3]
    assert [study.instances for _, lost in checked.told for study in lost] == [3]


def test_receipts_of_another_central_are_none_of_its_business(
    checked: Checked, central: ScriptedCentral
) -> None:
    central.archived.clear()
    identity = checked.uplink.identity
    answer = identity.enrolment.answer.model_copy(update={"central_id": "another"})
    enrolment = identity.enrolment.model_copy(update={"answer": answer})
    checked.uplink.identity = replace(identity, enrolment=enrolment)
    checked.check()
    assert checks(central) == 0
    assert checked.told == []
