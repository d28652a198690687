"""C-MOVE and C-GET by DCMTK and by scripts, on a real archive: what comes is what is stored, for those who may."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation
from pynetdicom.presentation import build_role

from central.access.consent import Consents
from central.access.policy import PatientKey
from central.audit.events import Action
from central.audit.reading import Wanted
from central.dimse import suboperations
from central.dimse.association import (
    PATIENT_ROOT_GET,
    PATIENT_ROOT_MOVE,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from central.dimse.sending import skip_meta
from tests.central.access.house import OTHER_STUDY, STUDY, pydicom_file
from tests.central.dimse.house import PEER, House, dcmtk, identifier, open_house, storage_scp
from tests.ports import free_base_port

CT, MR, US = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.6.1"
RLE_FILE, JPEG_FILE, BIG_ENDIAN_FILE = "MR_small_RLE.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_bigendian.dcm"


def data_set(part10: bytes) -> bytes:
    """What follows the File Meta Information."""
    file = BytesIO(part10)
    skip_meta(file)
    return file.read()


@pytest.fixture(scope="module")
def destination() -> int:
    return free_base_port(1)


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """SOP Instance UID → Part 10 file: two CT slices in two series, and an RLE coded MR in another study."""
    made = [
        pydicom_file("CT_small.dcm", SOPInstanceUID=f"{STUDY}.{n}", SeriesInstanceUID=f"{STUDY}.1{n}")
        for n in (1, 2)
    ]
    made.append(pydicom_file(RLE_FILE, StudyInstanceUID=OTHER_STUDY, SeriesInstanceUID=f"{OTHER_STUDY}.1"))
    return {str(dcmread(BytesIO(one)).SOPInstanceUID): one for one in made}


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], destination: int
) -> Iterator[House]:
    peers = [
        PEER,
        {"ae_title": "DEST", "address": "192.0.2.9", "host": "127.0.0.1", "port": destination, "may": []},
        {"ae_title": "NOWHERE", "address": "192.0.2.9", "host": "127.0.0.1", "port": 1, "may": []},
        {"ae_title": "ASKS", "address": "127.0.0.1", "may": ["query"]},
    ]
    with open_house(tmp_path_factory.mktemp("central"), peers=peers) as opened:
        for file in files.values():
            opened.put(file)
        yield opened


def move(
    house: House, keys: dict[str, object], to: str = "DEST", model: str = STUDY_ROOT_MOVE
) -> list[Dataset]:
    """The statuses of a C-MOVE, each with its identifier's failed UIDs as `failed`."""
    ae = AE("PEER")
    ae.add_requested_context(model)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert assoc.is_established
    statuses = []
    for status, answer in assoc.send_c_move(identifier(keys), to, UID(model)):
        status.failed = answer.get("FailedSOPInstanceUIDList") if answer is not None else None
        statuses.append(status)
    assoc.release()
    return statuses


def get(
    house: House,
    keys: dict[str, object],
    classes: dict[str, list[str]],
    model: str = STUDY_ROOT_GET,
    *,
    relational: bool = False,
    ae_title: str = "PEER",
    came: dict[str, tuple[str, bytes]] | None = None,
) -> tuple[list[Dataset], dict[str, tuple[str, bytes]]]:
    """The statuses of a C-GET; SOP Instance UID → transfer syntax and bytes of what came (in `came`, as it comes)."""
    came = {} if came is None else came

    def store(event: evt.Event) -> int:
        request = event.request
        came[request.AffectedSOPInstanceUID] = (event.context.transfer_syntax, request.DataSet.getvalue())
        return 0x0000

    ae = AE(ae_title)
    ae.add_requested_context(model)
    for uid, syntaxes in classes.items():
        for syntax in syntaxes:
            ae.add_requested_context(uid, syntax)
    extension = SOPClassExtendedNegotiation()
    extension.sop_class_uid, extension.service_class_application_information = UID(model), b"\x01"
    roles = [build_role(uid, scp_role=True) for uid in classes]
    assoc = ae.associate(
        "127.0.0.1",
        house.port,
        ae_title="DICOMNET",
        ext_neg=[*roles, *([extension] if relational else [])],
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    assert assoc.is_established
    statuses = [status for status, _ in assoc.send_c_get(identifier(keys), UID(model))]
    assoc.release()
    return statuses, came


@pytest.mark.needs("dcmtk")
def test_movescu_gets_the_bytes_that_are_stored(
    house: House, files: dict[str, bytes], destination: int, tmp_path: Path
) -> None:
    with storage_scp(destination, tmp_path / "came", "+xa"):
        moved = dcmtk(
            "movescu", "-v", "-S", "-aet", "PEER", "-aec", "DICOMNET", "-aem", "DEST",
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", "127.0.0.1", house.port,
        )  # fmt: skip
    assert moved.returncode == 0, moved.stderr
    came = {file.name.split(".", 1)[1]: file.read_bytes() for file in (tmp_path / "came").iterdir()}
    expected = {uid: data_set(file) for uid, file in files.items() if uid.startswith(f"{STUDY}.")}
    assert {uid: data_set(file) for uid, file in came.items()} == expected


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize(
    ("keys", "model", "instances"),
    [
        (
            {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": STUDY, "SeriesInstanceUID": f"{STUDY}.11"},
            "-S",
            1,
        ),
        (
            {
                "QueryRetrieveLevel": "IMAGE",
                "StudyInstanceUID": STUDY,
                "SeriesInstanceUID": f"{STUDY}.12",
                "SOPInstanceUID": f"{STUDY}.2",
            },
            "-P",
            1,
        ),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, "-P", 3),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": f"{STUDY}\\{OTHER_STUDY}"}, "-S", 3),
    ],
)
def test_getscu_at_every_level(
    house: House, tmp_path: Path, keys: dict[str, str], model: str, instances: int
) -> None:
    keyed = [part for keyword, value in keys.items() for part in ("-k", f"{keyword}={value}")]
    got = dcmtk(
        "getscu",
        model,
        "-aet",
        "PEER",
        "-aec",
        "DICOMNET",
        "+B",
        "-od",
        tmp_path,
        *keyed,
        "127.0.0.1",
        house.port,
    )
    assert got.returncode == 0, got.stderr
    assert len(list(tmp_path.iterdir())) == instances


def test_what_is_stored_goes_first_and_else_it_is_converted(house: House, files: dict[str, bytes]) -> None:
    [(rle_uid, rle)] = [(uid, file) for uid, file in files.items() if not uid.startswith(f"{STUDY}.")]
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": OTHER_STUDY}
    statuses, came = get(house, keys, {MR: [ExplicitVRLittleEndian, RLELossless]})
    assert statuses[-1].Status == 0
    assert came == {rle_uid: (RLELossless, data_set(rle))}
    _, came = get(house, keys, {MR: [ImplicitVRLittleEndian]})
    syntax, converted = came[rle_uid]
    assert syntax == ImplicitVRLittleEndian
    back = _decoded(converted, syntax)
    assert (back.pixel_array == dcmread(BytesIO(rle)).pixel_array).all()
    assert str(back.PatientName) == "Doe^Jané"


@pytest.mark.parametrize(
    "name", [JPEG_FILE, BIG_ENDIAN_FILE, "image_dfl.dcm", "CT_small.dcm", "reportsi.dcm"]
)
def test_every_stored_kind_can_be_had_uncompressed(tmp_path: Path, name: str) -> None:
    file = pydicom_file(name)
    stored = dcmread(BytesIO(file))
    with open_house(tmp_path) as house:
        house.put(file)
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            statuses, came = get(house, keys, {stored.SOPClassUID: [syntax]})
            assert statuses[-1].Status == 0
            [(got_syntax, got)] = came.values()
            assert got_syntax == syntax
            plain = _decoded(got, syntax)
            assert plain.PatientID == "P1"
            if "PixelData" in stored and name != JPEG_FILE:
                assert (plain.pixel_array == stored.pixel_array).all()
            elif name == JPEG_FILE:
                assert plain.PhotometricInterpretation == "RGB"
                assert plain.pixel_array.shape == stored.pixel_array.shape


def _decoded(encoded: bytes, syntax: str) -> Dataset:
    plain = decode(BytesIO(encoded), UID(syntax).is_implicit_VR, True)
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = UID(syntax)
    return plain


def test_what_nobody_takes_fails_by_name(house: House, files: dict[str, bytes]) -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": OTHER_STUDY}
    statuses, came = get(house, keys, {CT: [ExplicitVRLittleEndian]})
    assert came == {}
    assert (statuses[-1].Status, statuses[-1].NumberOfFailedSuboperations) == (0xA702, 1)
    statuses, came = get(house, keys, {MR: [JPEGBaseline8Bit]})
    assert (statuses[-1].Status, came) == (0xA702, {})


def test_some_fail_and_are_listed(house: House, destination: int) -> None:
    seen: list[tuple[str | None, int | None]] = []

    def store(event: evt.Event) -> int:
        request = event.request
        seen.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return {f"{STUDY}.1": 0xB000, f"{STUDY}.2": 0xA700}[request.AffectedSOPInstanceUID]

    ae = AE("DEST")
    ae.add_supported_context(CT, [ExplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", destination), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        statuses = move(house, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
    finally:
        server.shutdown()
    assert [status.Status for status in statuses] == [0xFF00, 0xB000]
    assert statuses[0].NumberOfRemainingSuboperations == 1
    last = statuses[-1]
    assert (
        last.NumberOfCompletedSuboperations,
        last.NumberOfWarningSuboperations,
        last.NumberOfFailedSuboperations,
    ) == (0, 1, 1)
    assert last.failed == f"{STUDY}.2"
    assert seen == [("PEER", 1)] * 2


def test_only_configured_destinations_and_those_that_answer(house: House) -> None:
    keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
    assert [status.Status for status in move(house, keys, to="ELSEWHERE")] == [0xA801]
    event = house.audit.newest(Wanted(), limit=1)[0].event
    assert (event.action, event.outcome) == (Action.EXPORT, "refused")
    assert [status.Status for status in move(house, keys, to="PEER")] == [0xA801]  # a peer without a host
    [last] = move(house, keys, to="NOWHERE")
    assert (last.Status, last.NumberOfFailedSuboperations) == (0xA702, 2)
    assert sorted(last.failed) == [f"{STUDY}.1", f"{STUDY}.2"]


@pytest.mark.parametrize(
    ("keys", "model"),
    [
        ({"QueryRetrieveLevel": "STUDY"}, STUDY_ROOT_MOVE),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"}, STUDY_ROOT_MOVE),
        ({"QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": f"{STUDY}.11"}, STUDY_ROOT_MOVE),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}, STUDY_ROOT_MOVE),
        ({"QueryRetrieveLevel": "PATIENT", "PatientID": "P*"}, PATIENT_ROOT_MOVE),
        ({"QueryRetrieveLevel": "PATIENT"}, PATIENT_ROOT_MOVE),
        ({"StudyInstanceUID": STUDY}, STUDY_ROOT_MOVE),
    ],
)
def test_identifiers_that_name_too_much_or_nothing(house: House, keys: dict[str, object], model: str) -> None:
    assert [status.Status for status in move(house, keys, model=model)] == [0xA900]


def test_what_is_not_here_is_nothing_found(house: House) -> None:
    [last] = move(house, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.3.4"})
    assert (last.Status, last.NumberOfCompletedSuboperations) == (0, 0)


def test_a_relational_retrieval_by_image_alone(house: House) -> None:
    keys = {"QueryRetrieveLevel": "IMAGE", "SOPInstanceUID": f"{STUDY}.1"}
    statuses, _ = get(house, keys, {CT: [ExplicitVRLittleEndian]}, PATIENT_ROOT_GET)
    assert statuses[-1].Status == 0xA900
    statuses, came = get(house, keys, {CT: [ExplicitVRLittleEndian]}, PATIENT_ROOT_GET, relational=True)
    assert (statuses[-1].Status, list(came)) == (0, [f"{STUDY}.1"])


def test_each_study_is_on_record_before_it_leaves(house: House) -> None:
    keys = {"QueryRetrieveLevel": "PATIENT", "PatientID": "P1"}
    get(house, keys, {CT: [ExplicitVRLittleEndian]}, PATIENT_ROOT_GET)
    events = [row.event for row in house.audit.newest(Wanted(), limit=2)]
    assert {event.study_instance_uid for event in events} == {STUDY, OTHER_STUDY}
    assert {(event.actor, event.action, event.outcome) for event in events} == {
        ("PEER", Action.EXPORT, "success")
    }


def test_withdrawn_consent_holds_for_peers_as_well(tmp_path: Path, files: dict[str, bytes]) -> None:
    with open_house(tmp_path) as house:
        for one in files.values():
            house.put(one)
        consents = Consents.open(house.db)
        wanted: dict[str, object] = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
        for patient, there in ((PatientKey("HOSP", "P1"), False), (None, True)):
            withdrawal_id = consents.withdraw(patient, "admin") if patient else ""
            assert bool(house.find(wanted, STUDY_ROOT_FIND)[1]) == there
            _, came = get(house, wanted, {CT: [ExplicitVRLittleEndian]})
            assert bool(came) == there
            consents.end(withdrawal_id)


def test_consent_that_is_withdrawn_while_images_leave_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suboperations, "STANDS_S", 0.0)
    with open_house(tmp_path) as house:
        for number in range(5):
            house.put(pydicom_file("CT_small.dcm", SOPInstanceUID=f"{STUDY}.{number}", InstanceNumber=number))
        consents = Consents.open(house.db)
        came = Withdrawing(lambda: consents.withdraw(PatientKey("HOSP", "P1"), "admin"))
        wanted: dict[str, object] = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
        statuses, _ = get(house, wanted, {CT: [ExplicitVRLittleEndian]}, came=came)
        # While the first was answered the second was ready.
        assert 1 <= len(came) <= 2
        assert (statuses[-1].Status, statuses[-1].NumberOfFailedSuboperations) == (0xB000, 5 - len(came))
        refused = [
            row.event for row in house.audit.newest(Wanted(), limit=9) if row.event.outcome == "refused"
        ]
        assert [(one.study_instance_uid, one.detail) for one in refused] == [
            (STUDY, "C-GET: ended while it ran: consent-withdrawn")
        ]


class Withdrawing(dict[str, tuple[str, bytes]]):
    """Does something when the first image comes, before that is answered."""

    def __init__(self, withdraw: Callable[[], object]) -> None:
        super().__init__()
        self._withdraw = withdraw

    def __setitem__(self, uid: str, image: tuple[str, bytes]) -> None:
        if not self:
            self._withdraw()
        super().__setitem__(uid, image)


def test_without_a_record_nothing_leaves(tmp_path: Path, files: dict[str, bytes]) -> None:
    with open_house(tmp_path) as house:
        house.put(next(iter(files.values())))
        house.audit.close()
        keys = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
        statuses, came = get(house, keys, {CT: [ExplicitVRLittleEndian]})
        assert (statuses[-1].Status, came) == (0xC000, {})


def test_nothing_leaves_while_its_record_is_synced(house: House) -> None:
    keys: dict[str, object] = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}
    came: dict[str, tuple[str, bytes]] = {}
    with ThreadPoolExecutor(1) as asking:
        with house.audit._write_lock:
            asked = asking.submit(get, house, keys, {CT: [ExplicitVRLittleEndian]}, came=came)
            with pytest.raises(TimeoutError):
                asked.result(0.5)
            assert came == {}
        asked.result(60)
    assert came


def test_a_move_can_be_cancelled(house: House, destination: int) -> None:
    arrived, go_on, cancels = threading.Event(), threading.Event(), threading.Event()

    def store(_: evt.Event) -> int:
        arrived.set()
        assert go_on.wait(60)
        return 0

    def sent(_: evt.Event) -> None:
        if cancels.is_set():
            go_on.set()

    ae = AE("DEST")
    ae.add_supported_context(CT, [ExplicitVRLittleEndian])
    server = ae.start_server(("127.0.0.1", destination), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    asker = AE("PEER")
    asker.add_requested_context(STUDY_ROOT_MOVE)
    assoc = asker.associate(
        "127.0.0.1", house.port, ae_title="DICOMNET", evt_handlers=[(evt.EVT_PDU_SENT, sent)]
    )
    answers = assoc.send_c_move(
        identifier({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY}),
        "DEST",
        STUDY_ROOT_MOVE,
        msg_id=7,
    )

    def cancel() -> None:
        assert arrived.wait(60)
        cancels.set()
        assoc.send_c_cancel(7, None, STUDY_ROOT_MOVE)

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        statuses = [status for status, _ in answers]
    finally:
        go_on.set()
        thread.join()
        assoc.release()
        server.shutdown()
    assert statuses[-1].Status == 0xFE00
    assert statuses[-1].NumberOfRemainingSuboperations == 1


def test_a_peer_that_may_only_ask_retrieves_nothing(house: House) -> None:
    ae = AE("ASKS")
    ae.add_requested_context(STUDY_ROOT_GET)
    ae.add_requested_context("1.2.840.10008.1.1")
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert [context.abstract_syntax for context in assoc.accepted_contexts] == ["1.2.840.10008.1.1"]
    assoc.release()
