"""Audit messages by syslog over TLS: a real receiver that comes, goes, is slow, or is somebody else."""

from __future__ import annotations

import array
import fcntl
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import peewee
import pytest
from pydantic import ValidationError

from central.audit import delivery as delivery_module
from central.audit import syslog_line
from central.audit.delivery import DeliveryBook, SyslogDelivery
from central.audit.dicom_message import PatientObject
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.audit.settings import AuditSettings
from central.audit.syslog_line import SyslogLine, SyslogUnfitError, syslog_message, tls_context
from central.foundation import open_record_beside
from tests.central.audit.repository import Papers, Repository, until
from tests.central.audit.test_dicom_message import require_valid
from tests.central.databases import open_record, storage

HEAD = re.compile(
    rb"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 [!-~]+ dicomnet-central - DICOM\+RFC3881 - \xef\xbb\xbf"
)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds in life. The order of things stays."""
    monkeypatch.setattr(delivery_module, "SETTLE_S", 0.3)
    monkeypatch.setattr(delivery_module, "_POLL_S", 0.1)
    monkeypatch.setattr(delivery_module, "_BACKOFF_S", (0.1, 0.2))
    monkeypatch.setattr(delivery_module, "_BATCH", 10)


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path / "papers")


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    with closing(open_record(tmp_path)) as opened:
        yield opened


def patient_of(study: str) -> PatientObject | None:
    return PatientObject("P1", "HOSP") if study == "1.2.3" else None


class Sender:
    """A delivery that runs, with a book of its own; `stop` ends it."""

    def __init__(
        self,
        root: Path,
        settings: AuditSettings,
        patients: Callable[[str], PatientObject | None] = patient_of,
        name: str = "test",
    ) -> None:
        self._db = open_record_beside(storage(root))
        self.book = DeliveryBook(self._db, name)
        self.delivery = SyslogDelivery(settings, self.book, patients, central_id="central-test")
        self.delivery.start()

    def stop(self) -> None:
        self.delivery.stop()

    def arrived(self) -> int:
        return self.book.arrived_id()

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._db.end()


def look(number: int, study: str = "1.2.3") -> AuditEvent:
    return AuditEvent(
        f"user{number}", "doctor", Action.VIEW, "success", "192.0.2.1", study, detail=f"Ünï {number}"
    )


def actors(messages: list[bytes]) -> list[str]:
    found = []
    for message in messages:
        head = HEAD.match(message)
        assert head is not None, message[:120]
        root = ElementTree.fromstring(message[head.end() :])
        require_valid(root)
        found.append(root.findall("ActiveParticipant")[0].attrib["UserID"])
    return found


def test_each_record_arrives_once_and_in_order(tmp_path: Path, papers: Papers, audit: Audit) -> None:
    for number in range(25):
        audit.record(look(number))
    with Repository(papers) as repository, Sender(tmp_path, repository.settings(papers)) as sender:
        audit.when_recorded(sender.delivery.wake)
        repository.wait_for(lambda: len(repository.messages) == 25)
        audit.record(look(25))
        repository.wait_for(lambda: len(repository.messages) == 26)
        until(lambda: sender.arrived() == 26)
        assert sender.delivery.state() == delivery_module.DeliveryState(0, "")
        assert sender.delivery.word() == "delivered"
        sender.stop()
        assert actors(repository.messages) == [f"user{number}" for number in range(26)]
        assert repository.connections == 1
        assert b"P1^^^HOSP" in repository.messages[0]


def test_a_restart_goes_on_where_it_stood(tmp_path: Path, papers: Papers, audit: Audit) -> None:
    with Repository(papers) as repository:
        settings = repository.settings(papers)
        audit.record(look(0))
        with Sender(tmp_path, settings):
            repository.wait_for(lambda: len(repository.messages) == 1)
        audit.record(look(1))  # while nobody sends
        with Sender(tmp_path, settings) as sender:
            assert sender.arrived() == 1, "the receiver ended the connection in order: it has read everything"
            repository.wait_for(lambda: len(repository.messages) >= 2)
        assert actors(repository.messages) == ["user0", "user1"]


def test_a_receiver_that_is_away_is_waited_for_and_told_of_once(
    tmp_path: Path, papers: Papers, audit: Audit, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "central.audit.delivery")
    with Repository(papers) as repository:
        with Sender(tmp_path, repository.settings(papers)) as sender:
            audit.record(look(0))
            until(lambda: sender.arrived() == 1)
            repository.stop()
            for number in range(1, 40):
                audit.record(look(number))
            until(lambda: sender.delivery.word() == "waiting")
            state = sender.delivery.state()
            assert state.behind == 39
            assert "127.0.0.1" in state.trouble
            repository.start()
            until(lambda: sender.arrived() == 40)
        assert set(actors(repository.messages)) == {f"user{number}" for number in range(40)}
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "audit messages wait" in line]) == 1
    assert len([line for line in said if "delivered again" in line]) == 1
    assert "user" not in "".join(said), "the log names nobody"


def test_what_was_under_way_when_the_connection_broke_is_sent_again(
    tmp_path: Path, papers: Papers, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_module, "SETTLE_S", 600.0)  # so that nothing counts as arrived
    with Repository(papers) as repository, Sender(tmp_path, repository.settings(papers)) as sender:
        for number in range(3):
            audit.record(look(number))
        repository.wait_for(lambda: len(repository.messages) == 3)
        repository.stop()
        repository.start()
        repository.wait_for(lambda: len(repository.messages) == 6)
        assert sender.arrived() == 0
        assert repository.messages[:3] == repository.messages[3:], "the same bytes, so that they can be told"


def test_a_receiver_that_does_not_read_delays_nobody(
    tmp_path: Path, papers: Papers, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog_line, "TIMEOUT_S", 600.0)  # longer than a slow disk takes for the records
    with Repository(papers) as repository, Sender(tmp_path, repository.settings(papers)) as sender:
        repository.reading.clear()
        repository.wait_for(lambda: repository.connections == 1)
        count = 1500
        for number in range(count):
            audit.record(
                AuditEvent(
                    f"user{number}", "doctor", Action.VIEW, "success", "::1", "1.2.3", detail="x" * 1900
                )
            )
        # That it comes here: one that waited for the receiver would have waited for ten minutes.
        assert sender.delivery.state().behind > 0
        repository.reading.set()
        repository.wait_for(lambda: len(repository.messages) == count)
        until(lambda: sender.arrived() == count)
        sender.stop()
        assert actors(repository.messages) == [f"user{number}" for number in range(count)]


def test_what_is_acknowledged_while_it_is_counted_counts_once(
    papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted twice, the last messages would wait for acknowledgement until another one is sent."""
    with Repository(papers) as repository:
        line = SyslogLine("127.0.0.1", repository.port, tls_context(repository.settings(papers)))
        repository.reading.clear()
        queued = fcntl.ioctl

        def waiting(file: int, request: int, count: array.array[int]) -> None:
            queued(file, request, count)
            if count[0] and not repository.reading.is_set():
                repository.reading.set()
                left = array.array("i", count)
                while left[0]:
                    time.sleep(0.001)
                    queued(file, request, left)

        monkeypatch.setattr("central.audit.syslog_line.fcntl.ioctl", waiting)
        while not repository.reading.is_set():
            line.send(b"x" * 4096)
            written = line.written_bytes()
        assert written == line.acknowledged_bytes()
        line.abandon()


def test_a_certificate_of_somebody_else_gets_nothing(tmp_path: Path, papers: Papers, audit: Audit) -> None:
    stranger = Papers(tmp_path / "stranger")
    audit.record(look(0))
    with Repository(stranger) as repository, Sender(tmp_path, repository.settings(papers)) as sender:
        until(lambda: sender.delivery.word() == "waiting")
        assert "certificate that does not verify" in sender.delivery.state().trouble
        sender.stop()
        assert (repository.messages, sender.arrived()) == ([], 0)


def test_a_certificate_for_another_name_gets_nothing(tmp_path: Path, papers: Papers, audit: Audit) -> None:
    audit.record(look(0))
    with Repository(papers) as repository:
        with Sender(tmp_path, repository.settings(papers, syslog_host="localhost")) as sender:
            until(lambda: sender.delivery.word() == "waiting")
            assert "certificate that does not verify" in sender.delivery.state().trouble
        assert repository.messages == []


def test_a_receiver_that_wants_to_know_us_is_shown_a_certificate(
    tmp_path: Path, papers: Papers, audit: Audit
) -> None:
    audit.record(look(0))
    with Repository(papers, wants_certificate=True) as repository:
        with Sender(tmp_path, repository.settings(papers), name="without") as nobody:
            until(lambda: nobody.delivery.word() == "waiting")
            assert repository.messages == []
        certificate, key = papers.client()
        known = repository.settings(papers, syslog_certificate=certificate, syslog_key=key)
        with Sender(tmp_path, known, name="with"):
            repository.wait_for(lambda: len(repository.messages) == 1)


def test_of_two_processes_one_sends_and_the_other_takes_over(
    tmp_path: Path, papers: Papers, audit: Audit
) -> None:
    with Repository(papers) as repository:
        settings = repository.settings(papers)
        with Sender(tmp_path, settings) as first:
            audit.record(look(0))
            repository.wait_for(lambda: len(repository.messages) == 1)
            with Sender(tmp_path, settings) as second:
                audit.record(look(1))
                until(lambda: first.arrived() == 2)
                assert repository.connections == 1
                first.stop()
                audit.record(look(2))
                until(lambda: second.arrived() == 3)
        assert actors(repository.messages) == ["user0", "user1", "user2"]


def test_while_the_index_is_away_nothing_is_sent_without_its_patient(
    tmp_path: Path, papers: Papers, audit: Audit
) -> None:
    away = [True]

    def patients(study: str) -> PatientObject | None:
        if away[0]:
            raise peewee.OperationalError("away")
        return patient_of(study)

    audit.record(look(0))
    with Repository(papers) as repository, Sender(tmp_path, repository.settings(papers), patients) as sender:
        until(lambda: "database" in sender.delivery.state().trouble)
        assert repository.messages == []
        away[0] = False
        repository.wait_for(lambda: len(repository.messages) == 1)
        assert b"P1^^^HOSP" in repository.messages[0]


def test_files_that_will_not_do_are_named_at_start(tmp_path: Path, papers: Papers) -> None:
    (tmp_path / "empty.pem").write_text("")
    certificate, key = papers.client()
    for changes, named in (
        ({"syslog_ca": tmp_path / "empty.pem"}, "syslog_ca"),
        ({"syslog_certificate": certificate, "syslog_key": tmp_path / "nothing"}, "syslog_key"),
    ):
        settings = AuditSettings.model_validate({"syslog_host": "x", "syslog_ca": papers.ca, **changes})
        book = DeliveryBook(open_record_beside(storage(tmp_path)), "test")
        with pytest.raises(SyslogUnfitError, match=named):
            SyslogDelivery(settings, book, patient_of, central_id="c")
        book.end()
    with pytest.raises(ValidationError, match="together"):
        AuditSettings.model_validate({"syslog_certificate": certificate, "syslog_key": None})
    assert key.exists()


def test_a_host_name_that_syslog_cannot_hold_is_left_out() -> None:
    at = datetime(2026, 11, 27, 9, 30, tzinfo=UTC)
    assert syslog_message(b"<x/>", at=at, host="ö \n").startswith(
        b"<85>1 2026-11-27T09:30:00.000000+00:00 - dicomnet-central - DICOM+RFC3881 - \xef\xbb\xbf<x/>"
    )
