"""Uploads over real TLS: resumed, repeated, cut, tampered with; one archived object each, or a refusal on record."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from central.access.policy import Scope
from central.archive.query import StudyQuery
from contract.identifiers import new_object_id
from contract.receipt import Outcome
from contract.sealed_object import Codec
from contract.sealing import DataKey, RecipientPrivateKey
from contract.transfer import PATCH_CONTENT_TYPE, RECEIPT_HEADER, UPLOADS_PATH, Problem
from tests.central.app.house import Box, House, create, enrol, everything_in, head, patch
from tests.central.databases import arriving_in, contents_in, open_archive_in


def parts(house: House) -> list[Path]:
    return list((house.root / "uploads").rglob("*.part"))


def wait_until(holds: Callable[[], bool]) -> None:
    """Poll what another process' view would be: there is no event to wait for from outside."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_request_archives_the_identical_bytes(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        answer = create(client, object_id, len(sealed), sealed)
    receipt = box.receipt(answer)
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{UPLOADS_PATH}/{object_id}"
    assert answer.headers["Upload-Offset"] == str(len(sealed))
    assert (receipt.outcome, receipt.gateway_id, receipt.object_id) == (
        Outcome.ARCHIVED,
        "ct-room-2",
        object_id,
    )
    assert (receipt.size_bytes, receipt.stored_bytes) == (len(ct), len(sealed))
    assert [found.content for found in everything_in(house.root)] == [ct]
    assert parts(house) == []


def test_pieces_with_a_restart_between_end_in_one_object(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    third = len(sealed) // 3
    with box.client() as client:
        answer = create(client, object_id, len(sealed))
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (201, "0")
        answer = patch(client, object_id, 0, sealed[:third])
        assert (answer.status_code, answer.headers["Upload-Offset"]) == (204, str(third))
    house.stop()
    house.start()
    box.url = house.gateways_url
    with box.client() as client:
        answer = head(client, object_id)
        assert answer.headers["Upload-Offset"] == str(third)
        assert answer.headers["Upload-Length"] == str(len(sealed))
        named = f"object_id {base64.b64encode(object_id.encode()).decode()}"
        assert answer.headers["Upload-Metadata"] == named
        assert RECEIPT_HEADER not in answer.headers
        assert patch(client, object_id, third, sealed[third : 2 * third]).status_code == 204
        answer = patch(client, object_id, 2 * third, sealed[2 * third :])
        assert box.receipt(answer).outcome is Outcome.ARCHIVED
    assert len(everything_in(house.root)) == 1


def test_a_lost_answer_is_found_again_and_nothing_is_doubled(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        first = create(client, object_id, len(sealed), sealed).headers[RECEIPT_HEADER]
    house.stop()
    house.start()
    box.url = house.gateways_url
    with box.client() as client:
        assert head(client, object_id).headers[RECEIPT_HEADER] == first
        assert create(client, object_id, len(sealed), sealed).headers[RECEIPT_HEADER] == first
        assert create(client, object_id, len(sealed)).headers[RECEIPT_HEADER] == first
        assert patch(client, object_id, 0, sealed).headers[RECEIPT_HEADER] == first
    assert len(everything_in(house.root)) == 1


def test_a_whole_upload_that_central_died_over_is_finished_by_the_next_question(
    house: House, box: Box, ct: bytes
) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:-1])
    house.stop()
    (part,) = parts(house)
    part.write_bytes(sealed)  # as if the process had been killed after the last fsync, before anything else
    house.start()
    box.url = house.gateways_url
    with box.client() as client:
        assert box.receipt(head(client, object_id)).outcome is Outcome.ARCHIVED
    assert [found.content for found in everything_in(house.root)] == [ct]


def test_creating_again_goes_on_where_the_first_attempt_ended(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        assert create(client, object_id, len(sealed), sealed[:1000]).headers["Upload-Offset"] == "1000"
        assert create(client, object_id, len(sealed), sealed[:10]).headers["Upload-Offset"] == "1000"
        assert box.receipt(create(client, object_id, len(sealed), sealed)).size_bytes == len(ct)


def test_what_came_before_the_line_was_cut_is_kept(house: House, box: Box, ct: bytes) -> None:
    content = ct + random.Random(1).randbytes(4 << 20)  # nothing that compresses: several writes
    object_id, sealed = box.seal(content)
    with box.client() as client:
        create(client, object_id, len(sealed))
    (part,) = parts(house)
    with (
        socket.create_connection(("127.0.0.1", house.central.gateways.port)) as raw,
        box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        line.sendall(_patch_head(object_id, 0, len(sealed)) + sealed[: 3 << 20])
        wait_until(lambda: part.stat().st_size >= 2 << 20)
    with box.client() as client:
        here = int(head(client, object_id).headers["Upload-Offset"])
        assert 2 << 20 <= here <= 3 << 20
        assert box.receipt(patch(client, object_id, here, sealed[here:])).size_bytes == len(content)


def test_a_revocation_cuts_an_upload_in_the_middle_of_its_body(house: House, box: Box, ct: bytes) -> None:
    """Else whoever has a stolen box and a slow line goes on for hours with what was begun before."""
    object_id, sealed = box.seal(ct + random.Random(1).randbytes(1 << 20))  # nothing that compresses
    with box.client() as client:
        create(client, object_id, len(sealed))
    (part,) = parts(house)
    with (
        socket.create_connection(("127.0.0.1", house.central.gateways.port), timeout=60) as raw,
        box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as line,
    ):
        sent = 1 << 19
        line.sendall(_patch_head(object_id, 0, len(sealed)) + sealed[:sent])
        wait_until(lambda: part.stat().st_size > 0)
        house.revoke(box.gateway_id)
        line.settimeout(0.05)
        answer, deadline = b"", time.monotonic() + 60
        while not answer:
            assert time.monotonic() < deadline, "it is taken on and on"
            with contextlib.suppress(TimeoutError):
                line.sendall(sealed[sent : sent + 10])
                sent += 10
                answer = line.recv(4096)
        line.settimeout(60)
        with contextlib.suppress(OSError):  # what is still under way to it may end the line abruptly
            while more := line.recv(4096):
                answer += more
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"this box was revoked at central" in answer
    assert part.stat().st_size < sent
    assert everything_in(house.root) == []


def _patch_head(object_id: str, offset: int, length: int) -> bytes:
    return (
        f"PATCH {UPLOADS_PATH}/{object_id} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
        f"Upload-Offset: {offset}\r\nContent-Type: {PATCH_CONTENT_TYPE}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def test_a_request_that_hangs_gives_way_to_the_one_that_comes_later(
    house: House, box: Box, ct: bytes
) -> None:
    object_id, sealed = box.seal(ct)
    with (
        socket.create_connection(("127.0.0.1", house.central.gateways.port)) as raw,
        box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as hanging,
        box.client() as client,
    ):
        create(client, object_id, len(sealed))
        hanging.sendall(_patch_head(object_id, 0, len(sealed)) + sealed[:3000])
        offset = 0
        while offset == 0:  # until the hanging request has its turn; then every HEAD takes it over
            offset = int(head(client, object_id).headers["Upload-Offset"])
        assert offset == 3000
        assert box.receipt(patch(client, object_id, 3000, sealed[3000:])).outcome is Outcome.ARCHIVED


def test_the_same_object_sent_twice_at_once_is_archived_once(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    barrier = threading.Barrier(4, timeout=60)  # one that fails before it does not hang the others

    def send(_: int) -> str | None:
        with box.client() as client:
            barrier.wait(60)
            for _ in range(50):
                answer = create(client, object_id, len(sealed), sealed)
                if answer.status_code == 201:
                    return answer.headers.get(RECEIPT_HEADER)
                assert answer.status_code == 503  # had to give way: asks again, as a box does
        return None

    with ThreadPoolExecutor(4) as threads:
        receipts = set(threads.map(send, range(4)))
    assert len(receipts) == 1
    assert None not in receipts
    assert len(everything_in(house.root)) == 1


def test_the_same_content_again_is_a_duplicate_and_another_a_version(
    house: House, box: Box, ct: bytes
) -> None:
    changed = ct[:-1] + bytes([ct[-1] ^ 1])  # one bit of the pixels
    assert box.deliver(ct).outcome is Outcome.ARCHIVED
    assert box.deliver(ct).outcome is Outcome.DUPLICATE
    assert box.deliver(changed).outcome is Outcome.VERSION
    (found,) = everything_in(house.root)
    assert found.content == ct
    assert found.row.flagged
    kept = sorted(contents_in(house.root))
    assert kept == sorted([ct, changed])


@pytest.mark.parametrize("codec", list(Codec))
def test_tampered_and_truncated_uploads_are_refused_dropped_and_on_record(
    house: House, box: Box, ct: bytes, codec: Codec
) -> None:
    object_id, sealed = box.seal(ct, codec)
    swapped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    in_the_middle = bytearray(sealed)
    in_the_middle[len(sealed) // 2] ^= 1
    with box.client() as client:
        for bad in (swapped, bytes(in_the_middle), sealed[:-40], sealed[:100], b"\0" * 5000):
            answer = create(client, object_id, len(bad), bad)
            assert (answer.status_code, answer.json()["type"]) == (422, Problem.TAMPERED)
            assert head(client, object_id).status_code == 404
        assert parts(house) == []
        assert len([action for action, _ in house.refusals() if action == "upload-refused"]) >= 2
        assert box.receipt(create(client, object_id, len(sealed), sealed)).outcome is Outcome.ARCHIVED
    assert len(contents_in(house.root)) == 1


def test_a_partial_upload_that_the_disk_changed_is_refused_by_name_and_sent_anew(
    house: House, box: Box, ct: bytes
) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        assert create(client, object_id, len(sealed), sealed[:-100]).status_code == 201
        (path,) = parts(house)
        kept = bytearray(path.read_bytes())
        kept[-500] ^= 1
        path.write_bytes(kept)
        answer = patch(client, object_id, len(sealed) - 100, sealed[-100:])
        assert (answer.status_code, answer.json()["type"]) == (422, Problem.TAMPERED)
        assert any(object_id in detail for _, detail in house.refusals())
        assert parts(house) == []
        assert box.receipt(create(client, object_id, len(sealed), sealed)).outcome is Outcome.ARCHIVED


def test_an_object_under_anothers_id_is_refused(house: House, box: Box, ct: bytes) -> None:
    _, sealed = box.seal(ct)
    with box.client() as client:
        assert create(client, new_object_id(), len(sealed), sealed).json()["type"] == Problem.TAMPERED


def test_an_object_sealed_for_somebody_else_is_refused(house: House, box: Box, ct: bytes) -> None:
    box.data_key = DataKey.generate((RecipientPrivateKey.generate().public_key(),))
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        answer = create(client, object_id, len(sealed), sealed)
    assert (answer.status_code, answer.json()["type"]) == (422, Problem.UNKNOWN_KEY)


def test_what_is_not_dicom_is_refused_and_leaves_no_file(house: House, box: Box) -> None:
    object_id, sealed = box.seal(b"GIF89a" + bytes(2000))
    with box.client() as client:
        answer = create(client, object_id, len(sealed), sealed)
    assert (answer.status_code, answer.json()["type"]) == (422, Problem.NOT_DICOM)
    assert (contents_in(house.root), arriving_in(house.root)) == ([], [])


def test_a_wrong_offset_is_told_where_to_go_on(house: House, box: Box, ct: bytes) -> None:
    object_id, sealed = box.seal(ct)
    with box.client() as client:
        create(client, object_id, len(sealed), sealed[:100])
        answer = patch(client, object_id, 50, sealed[50:200])
        assert (answer.status_code, answer.json()["type"]) == (409, Problem.OFFSET_MISMATCH)
        assert answer.headers["Upload-Offset"] == "100"


def test_one_gateways_uploads_are_not_anothers(house: House, box: Box, tmp_path: Path, ct: bytes) -> None:
    other = enrol(house, tmp_path / "other")
    object_id, sealed = box.seal(ct)
    with box.client() as client, other.client() as stranger:
        create(client, object_id, len(sealed), sealed[:100])
        assert head(stranger, object_id).status_code == 404
        assert patch(stranger, object_id, 100, sealed[100:]).status_code == 404
        create(client, object_id, len(sealed), sealed)
        assert head(stranger, object_id).status_code == 404


def test_requests_that_are_none(house: House, box: Box) -> None:
    with box.client() as client:
        good = new_object_id()
        assert create(client, "../../etc/passwd", 10).status_code == 400
        assert create(client, good, 10, b"x" * 11).status_code == 400
        assert client.post(UPLOADS_PATH).status_code == 400
        assert head(client, "x" * 32).status_code == 400
        assert head(client, good).status_code == 404
        create(client, good, 10)
        assert client.patch(f"{UPLOADS_PATH}/{good}", headers={"Upload-Offset": "0"}).status_code == 415
        assert patch(client, good, 0, b"x" * 11).status_code == 400
        other_tus = client.post(UPLOADS_PATH, headers={"Tus-Resumable": "0.2"})
        assert (other_tus.status_code, other_tus.headers["Tus-Version"]) == (412, "1.0.0")
        assert client.delete(f"{UPLOADS_PATH}/{good}").status_code == 405


def test_limits_hold_before_anything_is_written(tmp_path: Path, ct: bytes) -> None:
    limits = {"max_object_bytes": 1 << 20, "max_uploads_per_gateway": 2}
    with House(tmp_path / "central", limits=limits) as house:
        box = enrol(house, tmp_path / "box")
        with box.client() as client:
            answer = create(client, new_object_id(), (1 << 20) + 1)
            assert (answer.status_code, answer.json()["type"]) == (413, Problem.TOO_LARGE)
            assert [create(client, new_object_id(), 10).status_code for _ in range(3)] == [201, 201, 503]
    with House(tmp_path / "central", limits=limits) as house:
        box = enrol(house, tmp_path / "box2")
        # Small on the line, large when opened: refused when the limit is passed, not when memory is.
        object_id, sealed = box.seal(ct + bytes(4 << 20))
        assert len(sealed) < 1 << 20
        with box.client() as client:
            answer = create(client, object_id, len(sealed), sealed)
        assert (answer.status_code, answer.json()["type"]) == (413, Problem.TOO_LARGE)


def test_a_gateway_that_brought_its_share_of_the_day_waits_and_the_others_do_not(
    tmp_path: Path, ct: bytes
) -> None:
    limits = {"gateway_day_bytes": len(ct) + 1, "gateway": {"mr1": {"day_bytes": 1 << 40}}}
    house = House(tmp_path / "central", limits=limits)
    with house:
        box, other = enrol(house, tmp_path / "ct1", "ct1"), enrol(house, tmp_path / "mr1", "mr1")
        endless = enrol(house, tmp_path / "us1", "us1")
        with box.client() as client:
            for number in range(2):  # the one that passes the limit is taken
                object_id, sealed = box.seal(ct + bytes(2 * number))
                assert create(client, object_id, len(sealed), sealed).status_code == 201
        with endless.client() as client:
            assert create(client, new_object_id(), len(ct) + 1).status_code == 201
    with house:  # counted from what is archived, and from what was begun: a restart forgives nothing
        for one in (box, other, endless):
            one.url = house.gateways_url
        with box.client() as client:
            answer = create(client, new_object_id(), 100)
            assert (answer.status_code, answer.json()["type"]) == (429, Problem.QUOTA)
            assert "limits.gateway_day_bytes" in answer.json()["detail"]
            assert head(client, object_id).headers[RECEIPT_HEADER], "what it brought is answered for"
        with endless.client() as client:
            assert create(client, new_object_id(), 100).status_code == 429
        with other.client() as client:
            assert create(client, new_object_id(), 100).status_code == 201
        over = {view.gateway_id: view.over_quota for view in house.central.fleet.boxes()}
        assert over == {"ct1": True, "mr1": False, "us1": True}


def test_a_full_disk_puts_off_and_says_so(tmp_path: Path, ct: bytes) -> None:
    with House(tmp_path / "central", storage={}) as house:
        box = enrol(house, tmp_path / "box")
    storage = house.settings.storage.model_copy(update={"reserve_bytes": 1 << 62})
    house.settings = house.settings.model_copy(update={"storage": storage})
    with house:
        box.url = house.gateways_url
        with box.client() as client:
            answer = create(client, new_object_id(), 100)
            assert (answer.status_code, answer.json()["type"]) == (507, Problem.STORAGE)


def test_an_upload_that_has_begun_leaves_the_reserve_alone(tmp_path: Path, ct: bytes) -> None:
    house = House(tmp_path / "central")
    storage = house.settings.storage
    with house:
        box = enrol(house, tmp_path / "box")
        object_id, sealed = box.seal(ct)
        with box.client() as client:
            create(client, object_id, len(sealed), sealed[:100])
    full = storage.model_copy(update={"reserve_bytes": 1 << 62})
    house.settings = house.settings.model_copy(update={"storage": full})
    with house, box.client() as client:
        for answer in (
            patch(client, object_id, 100, sealed[100:]),
            create(client, object_id, len(sealed), sealed),
        ):
            assert (answer.status_code, answer.json()["type"]) == (507, Problem.STORAGE)
        assert head(client, object_id).headers["Upload-Offset"] == "100"
    house.settings = house.settings.model_copy(update={"storage": storage})
    with house, box.client() as client:
        assert box.receipt(patch(client, object_id, 100, sealed[100:])).outcome is Outcome.ARCHIVED


def test_an_old_tls_is_not_spoken(house: House, box: Box) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", house.central.gateways.port)) as raw,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(raw)


def test_a_box_that_is_refused_while_it_resumes_can_learn_why(house: House, box: Box) -> None:
    """HEAD's answer has no body, so the box asks once more with GET; nothing else can be got there."""
    object_id = new_object_id()
    with box.client() as client:
        create(client, object_id, 10, b"x" * 5)
        answer = client.get(f"{UPLOADS_PATH}/{object_id}")
        assert (answer.status_code, answer.headers["Allow"]) == (405, "HEAD, PATCH")
        house.revoke(box.gateway_id)
        assert head(client, object_id).status_code == 403
        answer = client.get(f"{UPLOADS_PATH}/{object_id}")
    assert (answer.status_code, answer.json()["type"]) == (403, Problem.CERTIFICATE)
    assert "revoked at central" in answer.json()["detail"]


def test_what_a_box_sends_is_its_institutions(house: House, box: Box, ct: bytes) -> None:
    foundation = house.central.foundation
    archive = open_archive_in(house.root, foundation.db)

    def send() -> Outcome:
        object_id, sealed = box.seal(ct)
        with box.client() as client:
            return box.receipt(create(client, object_id, len(sealed), sealed)).outcome

    assert send() is Outcome.ARCHIVED
    assert foundation.gateways.move("ct-room-2", "north", former="default")
    assert [send(), send()] == [Outcome.ARCHIVED, Outcome.DUPLICATE]
    assert len(contents_in(house.root)) == 1  # kept once, whoever sent it
    scope = Scope(everything=True)
    assert [row.institution for row in archive.reading.find_studies(scope, StudyQuery())] == [
        "north",
        "default",
    ]
    assert foundation.gateways.listed("default") == []
    assert house.central.fleet.boxes("default") == []
    assert [view.institution for view in house.central.fleet.boxes("north")] == ["north"]
    assert not foundation.gateways.is_admitted("ct-room-2", "default")
