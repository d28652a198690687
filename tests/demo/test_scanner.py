"""The simulated scanner against pynetdicom's receiver, a peer that is not ours."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file
from pynetdicom import AE, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event

from demo import sample, scanner
from demo.scanner import find_instances, read_instance, send


@dataclass
class Receiver:
    port: int = 0
    statuses: Iterator[int] = field(default_factory=lambda: iter(()))
    received: dict[str, bytes] = field(default_factory=dict)
    contexts: dict[str, str] = field(default_factory=dict)
    before: Callable[[Event], None] = lambda event: None

    def handle(self, event: Event) -> int:
        self.before(event)
        status = next(self.statuses, 0x0000)
        if status == 0x0000:
            uid = str(event.request.AffectedSOPInstanceUID)
            self.received[uid] = event.request.DataSet.getvalue()
            self.contexts[uid] = str(event.context.transfer_syntax)
        return status


@contextmanager
def receiver(instances: list[scanner.Instance], **fields: object) -> Iterator[Receiver]:
    peer = Receiver(**fields)  # type: ignore[arg-type]
    ae = AE("RECEIVER")
    for sop_class, syntax in {instance.context for instance in instances}:
        ae.add_supported_context(sop_class, syntax)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, peer.handle)])
    assert server is not None
    peer.port = server.server_address[1]
    try:
        yield peer
    finally:
        server.shutdown()


def data_set(path: Path) -> bytes:
    _, offset = split_dataset(path)
    return path.read_bytes()[offset:]


@pytest.fixture
def instances() -> list[scanner.Instance]:
    return [instance for instance in sample.packaged_instances() if instance.path.stat().st_size < 400_000]


def test_the_sample_is_in_the_packages_and_in_many_transfer_syntaxes() -> None:
    found = sample.packaged_instances()
    assert len(found) == len(sample.PACKAGED)
    assert len({instance.transfer_syntax_uid for instance in found}) == 11


def test_bytes_are_sent_as_they_are_in_their_own_syntax(instances: list[scanner.Instance]) -> None:
    counted: list[int] = []
    with receiver(instances) as peer:
        report = send(
            instances, ("127.0.0.1", peer.port), "ANY", stop=threading.Event(), progress=counted.append
        )
    assert report.unsent == report.refused == []
    assert counted == list(range(1, len(instances) + 1))
    for instance in instances:
        assert peer.received[instance.sop_instance_uid] == data_set(instance.path)
        assert peer.contexts[instance.sop_instance_uid] == instance.transfer_syntax_uid


def test_out_of_resources_is_tried_again_and_a_refusal_is_not(instances: list[scanner.Instance]) -> None:
    pair = instances[:2]
    with receiver(pair, statuses=iter([0xA700, 0xC001])) as peer:
        report = send(pair, ("127.0.0.1", peer.port), "ANY", stop=threading.Event())
    assert report.acknowledged == [pair[0]]
    assert [(refusal.instance, refusal.status) for refusal in report.refused] == [(pair[1], 0xC001)]


def test_a_broken_line_is_tried_again(instances: list[scanner.Instance]) -> None:
    breaks = iter([False, True])

    def before(event: Event) -> None:
        if next(breaks, False):
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    with receiver(instances[:3], before=before) as peer:
        report = send(instances[:3], ("127.0.0.1", peer.port), "ANY", stop=threading.Event())
    assert len(report.acknowledged) == 3
    assert report.unsent == []


def test_a_context_that_is_not_accepted_is_a_refusal(instances: list[scanner.Instance]) -> None:
    with receiver(instances[:1]) as peer:
        report = send(instances[:2], ("127.0.0.1", peer.port), "ANY", stop=threading.Event())
    assert report.acknowledged == instances[:1]
    assert [refusal.instance for refusal in report.refused] == instances[1:2]


def test_stop_ends_the_retrying(instances: list[scanner.Instance]) -> None:
    stop = threading.Event()

    def before(event: Event) -> None:
        stop.set()

    with receiver(instances[:2], before=before, statuses=iter([0xA700, 0xA700])) as peer:
        report = send(instances[:2], ("127.0.0.1", peer.port), "ANY", stop=stop)
    assert report.unsent == instances[:2]


def test_a_folder_is_searched_and_other_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    source = Path(str(get_testdata_file("MR_small.dcm", download=False)))
    (tmp_path / "deep" / "er" / "IM0001").write_bytes(source.read_bytes())
    (tmp_path / "notes.txt").write_text("not DICOM")
    dicomdir = Path(str(get_testdata_file("DICOMDIR", download=False)))
    (tmp_path / "DICOMDIR").write_bytes(dicomdir.read_bytes())
    found, others = find_instances(tmp_path)
    assert [instance.path.name for instance in found] == ["IM0001"]
    assert others == 2


def test_more_contexts_than_an_association_holds_are_spread(instances: list[scanner.Instance]) -> None:
    many = [
        scanner.Instance(instances[0].path, f"1.2.3.{n}", f"1.2.4.{n}", "1.2.5", "1.2.840.10008.1.2.1")
        for n in range(300)
    ]
    batches = list(scanner._batches(many))
    assert [len(batch) for batch in batches] == [128, 128, 44]
    assert [instance for batch in batches for instance in batch] == many


def test_a_file_that_is_no_dicom_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    assert read_instance(path) is None
