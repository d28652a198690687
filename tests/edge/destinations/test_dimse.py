"""C-STORE to DCMTK's storescp: there, away, killed, full, refusing; and TLS."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt
from pynetdicom.events import Event

from edge.buffer.states import State
from edge.gateway.calling_tls import CallingTls
from edge.gateway.errors import CannotCallError
from tests.edge.destinations.conftest import MakeBox
from tests.edge.destinations.sending import StoreScp, data_set, wait_until
from tests.edge.gateway.authority import Authority
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE

JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def encapsulated(uid: str) -> bytes:
    """A data set whose pixels are one fragment (PS3.5 Annex A.4); nobody here looks inside."""
    items = ((0xE000, b""), (0xE000, bytes(64)), (0xE0DD, b""))
    head = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return (
        data_set(uid, pixels=None)
        + head
        + b"".join(struct.pack("<HHI", 0xFFFE, element, len(value)) + value for element, value in items)
    )


def pacs_settings(port: int, **more: object) -> dict[str, object]:
    return {"dimse": [{"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": port, **more}]}


@pytest.mark.needs("dcmtk")
def test_what_is_stored_arrives_as_it_was_sent_and_is_freed(make_box: MakeBox, pacs: StoreScp) -> None:
    box = make_box(**pacs_settings(pacs.port))
    pacs.start("+B")  # bit for bit
    box.start()
    pixels = bytes(range(256)) * 20_000
    for _ in range(5):
        box.store(pixels=pixels)
    box.give_to_central()
    wait_until(lambda: box.states() == {State.FREED})

    assert pacs.uids() == {f"1.2.3.{number}" for number in range(1, 6)}
    for path in pacs.folder.iterdir():
        with path.open("rb") as file:
            read = dcmread(file, stop_before_pixels=True)
            uid = str(read.SOPInstanceUID)
        assert path.read_bytes().endswith(data_set(uid, pixels=pixels))
        assert read.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE
    assert box.trouble("PACS") == ""
    assert not list(box.folder.rglob("*.dcm"))


@pytest.mark.needs("dcmtk")
def test_what_is_away_is_waited_for_and_a_restart_forgets_nothing(make_box: MakeBox, pacs: StoreScp) -> None:
    box = make_box(**pacs_settings(pacs.port)).start()
    for _ in range(3):
        box.store()
    box.give_to_central()
    wait_until(lambda: "check address, port and cable" in box.trouble("PACS"))
    assert box.states() == {State.OWED}
    assert box.waits("PACS") == 3

    box.restart()
    wait_until(lambda: "check address, port and cable" in box.trouble("PACS"))
    assert box.waits("PACS") == 3
    pacs.start()
    wait_until(lambda: box.states() == {State.FREED})
    assert pacs.uids() == {"1.2.3.1", "1.2.3.2", "1.2.3.3"}


@pytest.mark.needs("dcmtk")
def test_a_peer_that_is_killed_in_the_middle_has_nothing_and_gets_it_again(
    make_box: MakeBox, pacs: StoreScp
) -> None:
    box = make_box(**pacs_settings(pacs.port))
    pacs.start("--sleep-during", "1")
    box.start()
    box.store(pixels=bytes(20_000_000))
    wait_until(lambda: any(pacs.folder.iterdir()) or bool(box.trouble("PACS")) or _sending(box))
    pacs.kill()
    wait_until(lambda: bool(box.trouble("PACS")))
    assert box.waits("PACS") == 1
    for path in pacs.folder.iterdir():
        path.unlink()
    pacs.start()
    wait_until(lambda: box.waits("PACS") == 0)
    assert pacs.uids() == {"1.2.3.1"}
    assert box.reasons("PACS") == []


def _sending(box: object) -> bool:
    """Whether the courier has its association: its side of the socket stands."""
    port = box.settings.destinations.dimse[0].port  # type: ignore[attr-defined]
    rows = [row.split()[1:4] for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(int(to.rpartition(":")[2], 16) == port and state == "01" for _, to, state in rows)


@pytest.mark.needs("dcmtk")
def test_a_peer_that_is_full_is_waited_for(make_box: MakeBox, pacs: StoreScp) -> None:
    box = make_box(**pacs_settings(pacs.port))
    pacs.start()
    pacs.lose_its_disk()
    box.start()
    for _ in range(2):
        box.store()
    wait_until(lambda: "A700: out of resources" in box.trouble("PACS"))
    assert box.waits("PACS") == 2
    pacs.folder.mkdir()
    wait_until(lambda: box.waits("PACS") == 0)
    assert pacs.uids() == {"1.2.3.1", "1.2.3.2"}
    assert box.trouble("PACS") == ""


@pytest.mark.needs("dcmtk")
def test_what_is_refused_for_good_is_set_aside_and_the_rest_goes_on(
    make_box: MakeBox, pacs: StoreScp
) -> None:
    box = make_box(**pacs_settings(pacs.port))
    pacs.start()
    box.start()
    box.store(sop_class=None)  # storescp answers C000
    box.store(sop_class=MR_STORAGE)  # and A900
    jpeg = box.store(encapsulated("1.2.3.3"), syntax=JPEG_LOSSLESS)  # it was not started to take that
    box.store()
    wait_until(lambda: pacs.uids() >= {"1.2.3.4"} and box.waits("PACS") == 0)
    understood, matched, taken = box.reasons("PACS")
    assert "C0" in understood
    assert "cannot understand" in understood
    assert "A900" in matched
    assert f"does not take SOP class {CT_STORAGE} in transfer syntax {JPEG_LOSSLESS}" in taken
    box.give_to_central()
    assert box.tally("PACS").set_aside == 3

    pacs.kill()
    pacs.start("+xa")  # all that it knows
    box.destinations.try_again("PACS", jpeg)
    wait_until(lambda: box.tally("PACS").set_aside == 2 and box.waits("PACS") == 0)
    assert "1.2.3.3" in pacs.uids()
    box.destinations.give_up("PACS", None)
    assert box.states() == {State.FREED}


@pytest.mark.parametrize("tls", [False, True])
def test_an_association_is_kept_while_there_is_work_and_renewed_when_the_peer_ended_it(
    make_box: MakeBox, tmp_path: Path, tls: bool
) -> None:
    """A peer that releases nothing by itself counts associations; then it ends one, as idle peers do."""
    associations: list[Event] = []
    stored: list[str] = []
    ae = AE("PACS")
    ae.add_supported_context(CT_STORAGE, EXPLICIT_LITTLE)

    def take(event: Event) -> int:
        stored.append(str(event.request.AffectedSOPInstanceUID))
        return 0xB007 if len(stored) == 2 else 0x0000

    handlers = [(evt.EVT_C_STORE, take), (evt.EVT_ACCEPTED, associations.append)]
    authority = Authority(tmp_path / "ca")
    context: ssl.SSLContext | None = None
    if tls:
        theirs = authority.issue("pacs")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(theirs.certificate, theirs.key)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers, ssl_context=context)
    try:
        more = {"tls": True, "ca": str(authority.ca)} if tls else {}
        box = make_box(**pacs_settings(server.server_address[1], **more)).start()
        for _ in range(4):
            box.store()
        wait_until(lambda: box.waits("PACS") == 0)
        assert len(associations) == 1
        associations[0].assoc.abort()
        wait_until(lambda: not associations[0].assoc.is_alive())
        box.store()
        wait_until(lambda: box.waits("PACS") == 0)
        assert len(associations) == 2
        assert stored == [f"1.2.3.{number}" for number in range(1, 6)]
        assert box.reasons("PACS") == []  # B007 is a warning: it has it
    finally:
        server.shutdown()


@pytest.mark.needs("dcmtk")
def test_tls_checks_chain_and_name_and_shows_a_certificate(
    make_box: MakeBox, pacs: StoreScp, tmp_path: Path
) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Another CA")
    theirs, ours = authority.issue("pacs"), authority.issue("box")
    pacs.start("+tls", str(theirs.key), str(theirs.certificate), "+cf", str(authority.ca))
    with_us = {"certificate": str(ours.certificate), "key": str(ours.key)}

    trusted = make_box(**pacs_settings(pacs.port, tls=True, ca=str(authority.ca), **with_us)).start()
    trusted.store()
    wait_until(lambda: trusted.waits("PACS") == 0)
    assert pacs.uids() == {"1.2.3.1"}

    stranger = make_box(**pacs_settings(pacs.port, tls=True, ca=str(other.ca), **with_us)).start()
    stranger.store()
    wait_until(lambda: "its certificate is not accepted" in stranger.trouble("PACS"))
    named = make_box(
        **pacs_settings(pacs.port, tls=True, ca=str(authority.ca), tls_name="elsewhere.test", **with_us)
    ).start()
    named.store()
    wait_until(lambda: "check the CA, the name in it" in named.trouble("PACS"))
    nobody = make_box(**pacs_settings(pacs.port, tls=True, ca=str(authority.ca))).start()
    nobody.store()
    wait_until(lambda: "does it want a certificate of this box" in nobody.trouble("PACS"))
    plain = make_box(**pacs_settings(pacs.port)).start()
    plain.store()
    wait_until(lambda: "did not answer as a DICOM node does" in plain.trouble("PACS"))
    for box in (stranger, named, nobody, plain):
        assert box.waits("PACS") == 1
    assert pacs.uids() == {"1.2.3.1"}


def test_a_file_for_tls_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for ca in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(CannotCallError, match=f"{ca} is not there or holds no PEM"):
            CallingTls(ca=ca, name="pacs", certificate=None, key=None)
