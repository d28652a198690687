"""Storage Commitment against a real client: who is told what, where, under which name, and whatever happens."""

from __future__ import annotations

import queue
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import ANY

import pytest

from edge.buffer.commitments import CommitmentState, CommitmentStore
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.states import State
from edge.gateway.addresses import Address
from edge.gateway.calling_tls import CallingTls
from edge.gateway.commitment import CommitmentService, Reports
from edge.gateway.commitment_reports import CommitmentReports
from edge.gateway.service import Peer
from edge.gateway.service_settings import CommitmentSettings
from tests.edge.gateway.authority import Authority, server_context
from tests.edge.gateway.commitment_scanner import INSTANCE, STORAGE_COMMITMENT, CommitmentScanner
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ds_element,
    element,
    even,
    p_data,
    small_data_set,
)

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


class _Forwarding:
    """Stands where the reports stand, so that a test can put new ones there: the next life of the program."""

    def __init__(self) -> None:
        self.to: Reports | None = None

    def asked(self, calling_ae_title: str, peer: Peer) -> None:
        if self.to is not None:
            self.to.asked(calling_ae_title, peer)


@dataclass
class Committing:
    """A gateway with Storage Commitment, and what a test needs of it."""

    gateway: Gateway
    store: CommitmentStore
    scanner: CommitmentScanner
    start_reports: Callable[..., CommitmentReports]

    @property
    def port(self) -> int:
        return self.gateway.port

    def send(self, *sop_instance_uids: str, sop_class: str = CT_STORAGE) -> None:
        with self.gateway.connect() as scu:
            scu.associate([(1, sop_class, [EXPLICIT_LITTLE])])
            for uid in sop_instance_uids:
                data = small_data_set(uid, sop_class=sop_class)
                assert scu.store(data, uid, sop_class=sop_class).status == 0
            scu.release()

    def receipt(self, count: int = 1) -> None:
        """Central signs for the next objects."""
        for _ in range(count):
            claimed = self.gateway.spool.queue.claim(lease_s=60)
            assert claimed is not None
            self.gateway.spool.queue.acknowledge(claimed.object_id, "a verified receipt")

    def in_state(self, state: CommitmentState) -> int:
        return self.store.counts()[state]


@pytest.fixture
def committing(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Committing]:
    database = ServiceDatabase(tmp_path / "services.sqlite3")
    store = CommitmentStore(database)
    forwarding = _Forwarding()
    running: list[CommitmentReports] = []

    with CommitmentScanner() as scanner:
        gateway = start_gateway(
            services=[CommitmentService(store, forwarding)],
            on_stored=lambda _: [reports.look_again() for reports in running],
        )

        def start_reports(
            *,
            known: bool = True,
            port: int | None = None,
            tls: CallingTls | None = None,
            **settings: object,
        ) -> CommitmentReports:
            while running:
                running.pop().stop()
            reports = CommitmentReports(
                store,
                gateway.spool.holdings,
                CommitmentSettings.model_validate(settings),
                find_address=lambda ae_title: (
                    Address("127.0.0.1", port or scanner.port, tls)
                    if known and ae_title == scanner.ae_title
                    else None
                ),
                first_retry_s=0.2,
            )
            running.append(reports)
            forwarding.to = reports
            reports.start()
            return reports

        yield Committing(gateway, store, scanner, start_reports)
        gateway.server.stop()
        for reports in running:
            reports.stop()
        database.close()


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """The scanner has its report a moment before the box has noted that."""
    pause = queue.Queue[None]()
    for _ in range(int(timeout_s / 0.02)):
        if condition():
            return
        with pytest.raises(queue.Empty):
            pause.get(timeout=0.02)
    pytest.fail("it did not come about")


def nothing_comes(scanner: CommitmentScanner, for_s: float = 1.2) -> bool:
    try:
        scanner.report(for_s)
    except queue.Empty:
        return True
    return False


def test_the_report_comes_on_a_new_association_under_the_name_that_was_called(committing: Committing) -> None:
    committing.start_reports()
    committing.send("1.2.3.1", "1.2.3.2")

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1", "1.2.3.2", called="EDGE_ALIAS") == 0
    report = committing.scanner.report()

    assert (report.on, report.calling_ae_title, report.called_ae_title) == ("new", "EDGE_ALIAS", "CT1")
    assert (report.event_type, report.transaction_uid) == (1, "1.9.1")
    assert report.committed == {"1.2.3.1", "1.2.3.2"}
    assert "FailedSOPSequence" not in report.data_set
    wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 1)


def test_the_report_comes_on_the_same_association_while_that_is_open(committing: Committing) -> None:
    committing.start_reports(known=False)
    committing.send("1.2.3.1")

    with committing.scanner.associated(committing.port) as association:
        assert committing.scanner.ask_on(association, "1.9.1", "1.2.3.1") == 0
        report = committing.scanner.report()
        assert committing.scanner.ask_on(association, "1.9.2", "1.2.3.1") == 0
        second = committing.scanner.report()
        # A scanner that releases before it has answered has not taken the report.
        wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 2)

    assert (report.on, report.event_type, report.committed) == ("same", 1, {"1.2.3.1"})
    assert (second.on, second.transaction_uid) == ("same", "1.9.2")


def test_images_that_come_after_the_request_are_waited_for(committing: Committing) -> None:
    committing.start_reports()
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1", "1.2.3.2") == 0
    committing.send("1.2.3.1")
    assert nothing_comes(committing.scanner)

    committing.send("1.2.3.2")

    assert committing.scanner.report().committed == {"1.2.3.1", "1.2.3.2"}


def test_what_is_missing_at_the_deadline_is_listed_with_its_reason(committing: Committing) -> None:
    committing.start_reports(wait_hours=1.0 / 3600)
    committing.send("1.2.3.1")
    committing.send("1.2.3.2", sop_class=MR_STORAGE)
    references = [
        (CT_STORAGE, "1.2.3.1"),
        (CT_STORAGE, "1.2.3.2"),  # it is an MR image
        (CT_STORAGE, "1.2.3.3"),  # it never came
        ("1.2.840.10008.1.1", "1.2.3.4"),  # nothing of this class can be stored
    ]

    assert committing.scanner.ask(committing.port, "1.9.1", references=references) == 0
    report = committing.scanner.report()

    assert report.event_type == 2
    assert report.committed == {"1.2.3.1"}
    assert report.failed == {"1.2.3.2": 0x0119, "1.2.3.3": 0x0112, "1.2.3.4": 0x0122}
    assert committing.scanner.reports.empty()


def test_at_central_waits_for_the_receipt_of_every_instance(committing: Committing) -> None:
    reports = committing.start_reports(policy="at_central")
    committing.send("1.2.3.1", "1.2.3.2")
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1", "1.2.3.2") == 0
    committing.receipt()
    reports.look_again()
    assert nothing_comes(committing.scanner)

    committing.receipt()
    reports.look_again()

    assert committing.scanner.report().committed == {"1.2.3.1", "1.2.3.2"}


def test_at_central_fails_what_central_has_not_signed_for_in_time(committing: Committing) -> None:
    committing.start_reports(policy="at_central", wait_hours=1.0 / 3600)
    committing.send("1.2.3.1", "1.2.3.2")
    committing.receipt()

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1", "1.2.3.2", "1.2.3.3") == 0
    report = committing.scanner.report()

    assert report.committed == {"1.2.3.1"}
    assert report.failed == {"1.2.3.2": 0x0110, "1.2.3.3": 0x0112}


def test_freed_instances_count_because_central_has_them(committing: Committing) -> None:
    committing.start_reports()
    committing.send("1.2.3.1")
    committing.receipt()

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0

    assert committing.scanner.report().committed == {"1.2.3.1"}


def test_a_request_survives_a_restart_before_it_was_judged(committing: Committing) -> None:
    committing.send("1.2.3.1")
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0
    assert nothing_comes(committing.scanner, 0.3)

    committing.start_reports()

    assert committing.scanner.report().transaction_uid == "1.9.1"


def test_an_unreachable_scanner_is_told_once_it_is_back(
    committing: Committing, caplog: pytest.LogCaptureFixture
) -> None:
    port = committing.scanner.port
    committing.start_reports(port=port)
    committing.send("1.2.3.1")
    committing.scanner.go_away()
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0
    wait_until(lambda: "cannot be reached: check address" in str([vars(one) for one in caplog.records]))

    committing.start_reports(port=port)  # the box is restarted, too
    committing.scanner.listen(port)

    assert committing.scanner.report().transaction_uid == "1.9.1"
    wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 1)


def test_a_scanner_that_is_called_over_tls_is_told_nothing_in_the_clear(
    committing: Committing, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path / "ca")
    theirs, ours = authority.issue("ct1"), authority.issue("box")
    tls = CallingTls(ca=authority.ca, name="127.0.0.1", certificate=ours.certificate, key=ours.key)
    committing.start_reports(tls=tls)  # it listens in the clear still
    committing.send("1.2.3.1")
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0
    wait_until(lambda: "is this its TLS port" in str([vars(one) for one in caplog.records]))
    assert nothing_comes(committing.scanner, 0.1)

    port = committing.scanner.port
    committing.scanner.go_away()
    committing.scanner.listen(port, tls=server_context(theirs, authority))

    report = committing.scanner.report()
    assert (report.on, report.transaction_uid, report.committed) == ("new", "1.9.1", {"1.2.3.1"})
    wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 1)


def test_a_scanner_that_answers_with_a_failure_is_told_again(committing: Committing) -> None:
    committing.scanner.statuses += [0x0110, 0x0213]
    committing.start_reports()
    committing.send("1.2.3.1")

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0

    assert [committing.scanner.report().transaction_uid for _ in range(3)] == ["1.9.1"] * 3
    wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 1)
    assert committing.scanner.reports.empty()


def test_a_scanner_without_an_address_is_told_when_it_asks_again(committing: Committing) -> None:
    committing.start_reports(known=False)
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0
    committing.send("1.2.3.1")
    assert nothing_comes(committing.scanner)

    with committing.scanner.associated(committing.port) as association:
        assert committing.scanner.ask_on(association, "1.9.2", "1.2.3.1") == 0
        told = {committing.scanner.report().transaction_uid for _ in range(2)}

    assert told == {"1.9.1", "1.9.2"}


def test_what_is_damaged_before_the_scanner_could_be_told_is_waited_for_again(committing: Committing) -> None:
    committing.start_reports(known=False)
    committing.send("1.2.3.1", "1.2.3.2")
    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1", "1.2.3.2") == 0
    wait_until(lambda: committing.in_state(CommitmentState.DECIDED) == 1)
    spool = committing.gateway.spool
    damaged = spool.holdings.list_objects(states=[State.READY], limit=1)[0]
    assert spool.inspection.condemn(damaged.object_id, "the disk has changed the file's bytes")

    committing.start_reports()
    wait_until(lambda: committing.in_state(CommitmentState.WAITING) == 1)
    assert committing.scanner.reports.empty()
    committing.send("1.2.3.1")

    assert committing.scanner.report().committed == {"1.2.3.1", "1.2.3.2"}


def test_nobody_waits_for_ever(committing: Committing, caplog: pytest.LogCaptureFixture) -> None:
    committing.start_reports(known=False, report_days=1.0 / 86_400)
    committing.send("1.2.3.1")

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0

    wait_until(lambda: committing.in_state(CommitmentState.ABANDONED) == 1)
    assert "commitment report given up" in caplog.messages


def test_the_same_request_again_is_told_again(committing: Committing) -> None:
    committing.start_reports()
    committing.send("1.2.3.1")
    for _ in range(2):
        assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.1") == 0
        assert committing.scanner.report().committed == {"1.2.3.1"}
        wait_until(lambda: committing.in_state(CommitmentState.DELIVERED) == 1)

    assert committing.scanner.ask(committing.port, "1.9.1", "1.2.3.2") == 0x0131


def test_storing_goes_on_while_a_report_is_not_answered(committing: Committing) -> None:
    committing.start_reports(known=False)
    uids = ["1.2.3.1", "1.2.3.2"]
    with committing.gateway.connect() as scu:
        scu.associate([(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, STORAGE_COMMITMENT, [IMPLICIT_LITTLE])])
        assert scu.store(small_data_set(uids[0]), uids[0]).status == 0
        scu.send(n_action(request_bytes("1.9.1", [(CT_STORAGE, uids[0])], implicit=True)))
        assert scu.read_response().status == 0
        kind, body = scu.read_pdu()  # the report's command set
        assert (kind, body[4]) == (0x04, 3)
        scu.read_pdu()
        assert scu.store(small_data_set(uids[1]), uids[1]).status == 0
        scu.release()

    wait_until(lambda: len(committing.store.decided()) == 1)
    assert committing.in_state(CommitmentState.DELIVERED) == 0


# Requests that cannot be taken -----------------------------------------------------------------------------


def n_action(information: bytes, *, action_type: int | None = 1, instance: str = INSTANCE) -> bytes:
    body = (
        element(0x0003, even(STORAGE_COMMITMENT))
        + element(0x0100, struct.pack("<H", 0x0130))
        + element(0x0110, struct.pack("<H", 1))
        + element(0x0800, struct.pack("<H", 1 if information else 0x0101))
        + element(0x1001, even(instance))
        + (b"" if action_type is None else element(0x1008, struct.pack("<H", action_type)))
    )
    sent = p_data(3, 3, element(0x0000, struct.pack("<I", len(body))) + body)
    pieces = [information[at : at + 16_000] for at in range(0, len(information), 16_000)]
    for number, piece in enumerate(pieces, 1):
        sent += p_data(3, 2 if number == len(pieces) else 0, piece)
    return sent


def request_bytes(
    transaction_uid: str, references: list[tuple[str, str]], *, implicit: bool = False
) -> bytes:
    items = b""
    for sop_class_uid, sop_instance_uid in references:
        item = ds_element(0x0008, 0x1150, "UI", sop_class_uid.encode(), implicit=implicit)
        item += ds_element(0x0008, 0x1155, "UI", sop_instance_uid.encode(), implicit=implicit)
        items += struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
    return ds_element(0x0008, 0x1195, "UI", transaction_uid.encode(), implicit=implicit) + ds_element(
        0x0008, 0x1199, "SQ", items, implicit=implicit
    )


ONE = [(CT_STORAGE, "1.2.3.1")]
GOOD = request_bytes("1.9.1", ONE)


@pytest.mark.parametrize(
    ("sent", "status", "comment"),
    [
        (n_action(GOOD, action_type=2), 0x0123, "Only Request"),
        (n_action(GOOD, action_type=None), 0x0123, "Only Request"),
        (n_action(GOOD, instance="1.2.3"), 0x0112, "well-known"),
        (n_action(b""), 0x0115, "Transaction UID is missing"),
        (n_action(request_bytes("1.9.1", [])), 0x0115, "no Referenced SOP Sequence"),
        (n_action(request_bytes("../../etc", ONE)), 0x0115, "Transaction UID is missing, or"),
        (n_action(request_bytes("1.9.1", [(CT_STORAGE, "x")])), 0x0115, "or is not a UID"),
        (n_action(request_bytes("1.9.1", [(CT_STORAGE, "")])), 0x0115, "or is not a UID"),
        (n_action(GOOD[:-3]), 0x0115, "longer than what there is"),
        (n_action(b"\x08\x00\x99\x11SQ\0\0\xff\xff\xff\xff" * 40), 0x0115, "unreadable"),
        (n_action(b"\xff" * 5000), 0x0115, "unreadable"),
        (
            n_action(request_bytes("1.9.1", [(CT_STORAGE, f"1.2.{n}") for n in range(10_001)])),
            0x0213,
            "10000",
        ),
    ],
)
def test_it_is_refused_with_the_reason_and_nothing_is_kept(
    sent: bytes, status: int, comment: str, committing: Committing
) -> None:
    with committing.gateway.connect() as scu:
        scu.associate([(1, CT_STORAGE, [EXPLICIT_LITTLE]), (3, STORAGE_COMMITMENT, [EXPLICIT_LITTLE])])
        scu.send(sent)
        response = scu.read_response()
        after = scu.store(small_data_set(), "1.2.3.1")
        scu.release()

    assert (response.status, after.status) == (status, 0)
    assert comment in response.comment
    assert response.elements[0x1000] == ANY
    assert committing.store.waiting() == []


def test_ten_thousand_instances_in_one_request(committing: Committing) -> None:
    committing.start_reports(wait_hours=1.0 / 3600)
    committing.send("1.2.3.5000")
    uids = [f"1.2.3.{number}" for number in range(10_000)]
    with committing.gateway.connect() as scu:
        scu.associate([(3, STORAGE_COMMITMENT, [IMPLICIT_LITTLE])])
        scu.send(n_action(request_bytes("1.9.1", [(CT_STORAGE, uid) for uid in uids], implicit=True)))
        assert scu.read_response().status == 0
        scu.release()

    report = committing.scanner.report(60)

    assert report.committed == {"1.2.3.5000"}
    assert len(report.failed) == 9_999
    assert set(report.failed.values()) == {0x0112}
