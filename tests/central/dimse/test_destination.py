"""A C-MOVE's destination, called by our own hand: pynetdicom understands the same, and what a bad one can do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.presentation import PresentationContext, build_context

from central.dimse.association import STUDY_ROOT_MOVE
from central.dimse.calling import associate_rq, read_associate_ac
from central.dimse.command_set import store_rsp
from central.dimse.lane import taken_of
from central.dimse.settings import DimseSettings
from tests.central.access.house import STUDY, pydicom_file
from tests.central.dimse.house import PEER, House, identifier, open_house
from tests.peers.scripted_scu import p_data, pdu
from tests.ports import free_base_port

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
IMAGES = 3
UIDS = [f"{STUDY}.{number}" for number in range(IMAGES)]
CONTEXTS = [(CT, (ExplicitVRLittleEndian,)), (CT, (ImplicitVRLittleEndian,)), (MR, (ExplicitVRLittleEndian,))]
BOUND_S = 60
RELEASE_RQ, RELEASE_RP, ABORT = pdu(5, bytes(4)), pdu(6, bytes(4)), pdu(7, bytes(4))


def accepted(results: list[int], max_pdu_bytes: int = 16_384) -> bytes:
    """pynetdicom's A-ASSOCIATE-AC, with the result of each context of ours."""
    answer = A_ASSOCIATE()
    answer.application_context_name = "1.2.840.10008.3.1.1.1"
    answer.calling_ae_title, answer.called_ae_title = "DICOMNET", "DEST"
    answer.result, answer.result_source = 0, 1
    made = []
    for number, result in enumerate(results):
        context = PresentationContext()
        context.context_id, context.result = 2 * number + 1, result
        context.transfer_syntax = list(CONTEXTS[number][1])
        made.append(context)
    answer.presentation_context_definition_results_list = made
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu_bytes
    answer.user_information = [length]
    encoded = A_ASSOCIATE_AC()
    encoded.from_primitive(answer)
    return bytes(encoded.encode())


@pytest.fixture(scope="module")
def port() -> int:
    return free_base_port(1)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[House]:
    destination = {"ae_title": "DEST", "address": "192.0.2.9", "host": "127.0.0.1", "port": port, "may": []}
    with open_house(
        tmp_path_factory.mktemp("central"), peers=[PEER, destination], idle_timeout_s=2
    ) as opened:
        for number, uid in enumerate(
            UIDS
        ):  # each in a series of its own, so that each is asked for by itself
            opened.put(
                pydicom_file(
                    "CT_small.dcm",
                    SOPInstanceUID=uid,
                    SeriesInstanceUID=f"{STUDY}.1{number}",
                    InstanceNumber=number,
                )
            )
        yield opened


def move(house: House) -> Dataset:
    """The last status of a C-MOVE of the study, with its list of failed UIDs as `failed`."""
    ae = AE("PEER")
    ae.add_requested_context(STUDY_ROOT_MOVE)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    keys = identifier({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
    *_, (status, answer) = assoc.send_c_move(keys, "DEST", UID(STUDY_ROOT_MOVE))
    status.failed = answer.get("FailedSOPInstanceUIDList") if answer is not None else None
    assoc.release()
    return status


class Bad:
    """A destination of our own, one PDU after the other, for one association."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.heard: list[bytes] = []

    def say(self, data: bytes) -> None:
        self.sock.sendall(data)

    def pdu(self) -> bytes:
        head = self._take(6)
        self.heard.append(head + self._take(struct.unpack(">L", head[2:])[0]))
        return self.heard[-1]

    def instance(self) -> None:
        """Until the last fragment of a data set."""
        while (one := self.pdu())[0] == 4 and one[11] != 2:
            pass

    def until_over(self) -> None:
        """Until central has closed the connection."""
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                self.pdu()

    def _take(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self.sock.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data


@contextmanager
def destination(port: int, acts: Callable[[Bad], None]) -> Iterator[list[bytes]]:
    """One that `acts` when it is called; what it heard."""
    heard: list[bytes] = []

    def serve() -> None:
        sock, _ = listening.accept()
        with sock:
            sock.settimeout(BOUND_S)
            bad = Bad(sock)
            bad.heard = heard
            acts(bad)

    with closing(socket.create_server(("127.0.0.1", port))) as listening:
        listening.settimeout(BOUND_S)
        thread = threading.Thread(target=serve)
        thread.start()
        yield heard
        thread.join(BOUND_S)
        assert not thread.is_alive()


def test_pynetdicom_reads_the_same_request() -> None:
    settings = DimseSettings.model_validate({"ae_title": "CENTRAL", "max_pdu_bytes": 65_536})
    read = A_ASSOCIATE_RQ()
    read.decode(associate_rq(settings, "DEST", CONTEXTS))
    asked = read.to_primitive()
    assert (asked.calling_ae_title, asked.called_ae_title) == ("CENTRAL", "DEST")
    assert asked.application_context_name == "1.2.840.10008.3.1.1.1"
    assert asked.maximum_length_received == 65_536
    assert asked.implementation_class_uid.startswith("2.25.")
    assert [
        (one.context_id, one.abstract_syntax, tuple(one.transfer_syntax))
        for one in asked.presentation_context_definition_list
    ] == [(2 * at + 1, *context) for at, context in enumerate(CONTEXTS)]


def test_what_is_accepted_is_read_from_pynetdicoms_answer() -> None:
    body = accepted([0, 3, 0], max_pdu_bytes=4_096)[6:]
    taken = {CT: {ExplicitVRLittleEndian: 1}, MR: {ExplicitVRLittleEndian: 5}}
    accepts = read_associate_ac(body, CONTEXTS)
    assert (accepts.max_pdu_bytes, taken_of(accepts.answered)) == (4_096, taken)
    # What was not proposed is not taken, whatever the other side says.
    assert taken_of(read_associate_ac(body, CONTEXTS[:1]).answered) == {CT: {ExplicitVRLittleEndian: 1}}
    assert taken_of(read_associate_ac(body, [(CT, (ImplicitVRLittleEndian,))]).answered) == {}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(pdu(3, b"\0\1\1\1"), id="rejected"),
        pytest.param(ABORT, id="aborted"),
        pytest.param(b"", id="closed"),
        pytest.param(RELEASE_RQ, id="released"),
        pytest.param(accepted([3, 3, 3]), id="nothing accepted"),
        pytest.param(pdu(2, accepted([0])[6:-3]), id="cut short"),
        pytest.param(pdu(2, b""), id="empty"),
        pytest.param(struct.pack(">BxL", 2, 1 << 30), id="longer than is taken"),
    ],
)
def test_who_does_not_accept_gets_nothing(house: House, port: int, answer: bytes) -> None:
    def act(bad: Bad) -> None:
        bad.pdu()
        bad.say(answer)
        if answer:
            bad.until_over()

    with destination(port, act) as heard:
        status = move(house)
    assert status.Status == 0xA702
    assert list(status.failed) == UIDS
    assert all(one[0] in (1, 7) for one in heard)


@pytest.mark.parametrize("last", [ABORT, b"", RELEASE_RQ, p_data(1, 2, b"data")])
def test_who_leaves_in_the_middle_leaves_the_rest_listed(house: House, port: int, last: bytes) -> None:
    def act(bad: Bad) -> None:
        bad.pdu()
        bad.say(accepted([0, 3, 3]))
        bad.instance()
        bad.say(p_data(1, 3, store_rsp(CT, UIDS[0], 2, 0, "")))
        bad.instance()
        bad.say(last)

    with destination(port, act):
        status = move(house)
    assert status.Status == 0xB000
    assert (status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations) == (1, IMAGES - 1)
    assert list(status.failed) == UIDS[1:]


def test_who_never_answers_is_left(house: House, port: int) -> None:
    def act(bad: Bad) -> None:
        bad.pdu()
        bad.say(accepted([0, 3, 3]))
        bad.until_over()

    with destination(port, act) as heard:
        status = move(house)
    assert status.Status == 0xA702
    assert heard[-1][0] == 7, "an A-ABORT"


def test_both_may_release_at_once(house: House, port: int) -> None:
    def act(bad: Bad) -> None:
        bad.pdu()
        bad.say(accepted([0, 3, 3]))
        for number, uid in enumerate(UIDS):
            bad.instance()
            bad.say(p_data(1, 3, store_rsp(CT, uid, number + 2, 0, "")))
        assert bad.pdu() == RELEASE_RQ
        bad.say(RELEASE_RQ)
        assert bad.pdu() == RELEASE_RP
        bad.say(RELEASE_RP)

    with destination(port, act) as heard:
        status = move(house)
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0, IMAGES)
    assert heard[-1] == RELEASE_RP


def test_one_instance_is_ready_while_another_is_answered(
    house: House, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    came: list[str] = []
    open_instance = house.archive.reading.open_instance

    def opening(grant: object, series: str, uid: str) -> object:
        opened.append(uid)
        return open_instance(grant, series, uid)  # type: ignore[arg-type]  # handed on as it came

    def store(event: evt.Event) -> int:
        came.append(event.request.AffectedSOPInstanceUID)
        deadline_s = time.monotonic() + BOUND_S
        while len(opened) < min(len(came) + 1, IMAGES) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert opened == UIDS[: len(came) + 1]
        return 0

    monkeypatch.setattr(house.archive.reading, "open_instance", opening)
    ae = AE("DEST")
    ae.supported_contexts = [build_context(CT, ExplicitVRLittleEndian)]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        status = move(house)
    finally:
        server.shutdown()
    assert (status.Status, status.NumberOfCompletedSuboperations) == (0, IMAGES)
    assert came == UIDS
