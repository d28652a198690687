"""From the spool to central and free: every way this can go wrong leaves the object on the box."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.pack import HEADER_BYTES, Fate, PackAnswer, head_bytes, read_count, read_head
from contract.receipt import Receipt, receipt_key_id, sign_receipt, verify_receipt
from contract.sealed_object import Content
from contract.transfer import CHUNK_BYTES, UPLOADS_PATH, Problem
from edge.buffer.states import State
from edge.uplink.box_key import FileKey
from edge.uplink.identity import Enrolment, IdentityStore
from tests.edge.buffer.instances import held_files
from tests.edge.scripted_central import ScriptedCentral, ScriptedHandler
from tests.edge.uplink.conftest import Uplink

Eventually = Callable[[Callable[[], bool]], None]


def all_freed(uplink: Uplink) -> bool:
    return set(uplink.states().values()) == {State.FREED}


def sealed_files(uplink: Uplink) -> int:
    """Those that hold something: the spool keeps empty names ready."""
    return len(held_files(uplink.directory))


def test_what_is_stored_arrives_unchanged_and_is_freed(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    uplink.forward(connections=2)
    stored = [uplink.store(size) for size in (10, 5000, CHUNK_BYTES + 5)]
    eventually(lambda: all_freed(uplink))
    assert {one.object_id: one.sha256 for one in stored} == {
        object_id: content.sha256 for object_id, content in central.archived.items()
    }
    assert sealed_files(uplink) == 0
    link = uplink.link.status()
    assert link.state == "connected"
    assert link.last_receipt_at_utc is not None


def wrong_object(central: ScriptedCentral, object_id: str, content: Content) -> str:
    return central.honest_receipt(object_id, content, object_id="0" * 32)


def wrong_hash(central: ScriptedCentral, object_id: str, content: Content) -> str:
    return central.honest_receipt(object_id, content, sha256="0" * 64)


def wrong_size(central: ScriptedCentral, object_id: str, content: Content) -> str:
    return central.honest_receipt(object_id, content, size_bytes=content.size_bytes + 1)


def wrong_box(central: ScriptedCentral, object_id: str, content: Content) -> str:
    return central.honest_receipt(object_id, content, gateway_id="gw-other")


def wrong_central(central: ScriptedCentral, object_id: str, content: Content) -> str:
    return central.honest_receipt(object_id, content, central_id="another")


def wrong_key(central: ScriptedCentral, object_id: str, content: Content) -> str:
    public_key = central.receipt_key.public_key()
    honest = central.honest_receipt(object_id, content)
    receipt: Receipt = verify_receipt(honest, {receipt_key_id(public_key): public_key})
    return sign_receipt(receipt, Ed25519PrivateKey.generate())


def broken_signature(central: ScriptedCentral, object_id: str, content: Content) -> str:
    head, body, signature = central.honest_receipt(object_id, content).split(".")
    return f"{head}.{body}.{'A' * len(signature)}"


def nonsense(_central: ScriptedCentral, _object_id: str, _content: Content) -> str:
    return "yes"


@pytest.mark.parametrize(
    "lie",
    [wrong_object, wrong_hash, wrong_size, wrong_box, wrong_central, wrong_key, broken_signature, nonsense],
)
def test_a_receipt_that_does_not_fit_frees_nothing(
    lie: Callable[[ScriptedCentral, str, Content], str],
    central: ScriptedCentral,
    uplink: Uplink,
    eventually: Eventually,
) -> None:
    central.make_receipt = lambda object_id, content: lie(central, object_id, content)
    stored = uplink.store()
    uplink.forward()
    eventually(lambda: uplink.link.status().state == "waiting")
    assert central.wait_for(lambda: [method for method, *_ in central.log].count("HEAD") > 3)
    assert uplink.states()[stored.object_id] in (State.READY, State.SENDING)
    assert sealed_files(uplink) == 1
    central.make_receipt = central.honest_receipt  # and once central comes to its senses:
    eventually(lambda: all_freed(uplink))


def answer_pack(handler: ScriptedHandler) -> None:
    """Take a pack that comes in one request, and give each object in it the receipt that central makes for it."""
    central, body = handler.central, handler.body()
    pack_id = base64.b64decode(handler.headers["Upload-Metadata"].split(" ")[1]).decode()
    head = body[: head_bytes(read_count(body[:HEADER_BYTES]))]
    fates = []
    with central.lock:
        for entry in read_head(head, pack_id=pack_id, length_bytes=len(body)).entries:
            sealed = body[entry.offset_bytes : entry.offset_bytes + entry.stored_bytes]
            central.uploads[entry.object_id] = bytearray(sealed)
            central.lengths[entry.object_id] = len(sealed)
            receipt = central.complete(entry.object_id)
            fates.append(Fate(object_id=entry.object_id, receipt=receipt))
    answer = PackAnswer(pack_id=pack_id, objects=tuple(fates)).model_dump_json(exclude_none=True)
    handler.reply(201, answer.encode(), Upload_Offset=str(len(body)), Upload_Length=str(len(body)))


def test_of_a_pack_only_those_are_freed_whose_own_receipt_fits(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    lies = [wrong_object, wrong_hash, wrong_size, wrong_box, wrong_central, wrong_key, broken_signature]
    stored = [uplink.store() for _ in (*lies, "honest")]
    lie_about = {one.object_id: lie for one, lie in zip(stored, lies, strict=False)}
    honest = stored[-1].object_id

    def receipt(object_id: str, content: Content) -> str:
        return lie_about.get(object_id, ScriptedCentral.honest_receipt)(central, object_id, content)

    central.make_receipt = receipt
    central.fault("POST", answer_pack)
    uplink.forward()
    eventually(lambda: uplink.states()[honest] is State.FREED)
    assert central.wait_for(lambda: [method for method, *_ in central.log].count("HEAD") > 2 * len(lies))
    assert set(central.archived) == {one.object_id for one in stored}, "they came, in one pack"
    assert {state for one, state in uplink.states().items() if one != honest} <= {State.READY, State.SENDING}
    assert sealed_files(uplink) == len(lies)
    central.make_receipt = central.honest_receipt
    eventually(lambda: all_freed(uplink))


def test_what_a_killed_box_was_sending_goes_on_after_the_restart(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    stored = uplink.store(CHUNK_BYTES * 2)

    def half_then_cut(handler: ScriptedHandler) -> None:
        half = handler.body(1000)
        with handler.central.lock:
            handler.central.uploads[stored.object_id] += half
        handler.cut()

    central.fault("PATCH", half_then_cut)
    uplink.forward(backoff_ceiling_s=30)
    assert central.wait_for(lambda: len(central.uploads.get(stored.object_id, b"")) > 0)
    uplink.restart()
    assert uplink.states()[stored.object_id] is State.READY
    uplink.forward()
    eventually(lambda: all_freed(uplink))
    resumed = [offset for method, _, offset in central.log if method == "PATCH"][1]
    assert resumed == 1000
    assert central.doubled == []


def test_central_away_leaves_everything_ready_and_it_heals_by_itself(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    central.stop()
    stored = [uplink.store() for _ in range(5)]
    uplink.forward(connections=2)
    eventually(lambda: uplink.link.status().state == "waiting")
    assert "kept here" in uplink.link.status().detail
    eventually(lambda: len(uplink.spool.holdings.list_objects(states=[State.READY], limit=10)) == 5)
    rows = uplink.spool.holdings.list_objects(states=[State.READY], limit=10)
    assert {row.attempts for row in rows} == {0}, "nothing of them was sent, so that was no attempt"
    central.start()
    eventually(lambda: all_freed(uplink))
    assert set(central.archived) == {one.object_id for one in stored}


def test_a_new_line_begins_with_what_is_queued_and_asks_only_if_there_is_nothing(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    """On a satellite the round trip of a question is most of a second."""
    uplink.forward(connections=1)
    eventually(lambda: uplink.link.status().state == "connected")

    def asked() -> list[str]:
        return [method for method, path, _ in central.log if path.startswith(UPLOADS_PATH)]

    assert asked() == ["HEAD"], "a probe"
    uplink.restart()
    uplink.store()
    uplink.forward(connections=1)
    eventually(lambda: all_freed(uplink))
    assert asked() == ["HEAD", "POST"]
    assert uplink.link.status().state == "connected"


def test_many_objects_do_not_each_knock_on_a_central_that_fails(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    """With a long backoff, one failure closes the line for all: 60 objects cost a handful of requests."""
    for _ in range(60):
        uplink.store(100)

    def unavailable(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(503, Problem.UNAVAILABLE)

    central.fault("POST", unavailable, times=1000)
    uplink.forward(connections=2, backoff_ceiling_s=600)
    eventually(lambda: uplink.link.status().state == "waiting")
    assert not central.wait_for(lambda: len(central.log) > 40, timeout_s=1.0)


def test_tampered_on_the_way_is_sent_once_more_from_zero(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    stored = uplink.store()

    def tampered(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(422, Problem.TAMPERED)

    central.fault("POST", tampered)
    uplink.forward()
    eventually(lambda: all_freed(uplink))
    assert central.archived[stored.object_id].sha256 == stored.sha256


def test_tampered_on_the_box_is_set_aside_kept_and_disturbs_nothing(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    bad, good = uplink.store(), uplink.store()
    path = next(uplink.directory.rglob(f"{bad.object_id}.sealed"))
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(content)
    uplink.forward()
    eventually(lambda: uplink.states()[good.object_id] is State.FREED)
    eventually(lambda: uplink.states()[bad.object_id] is State.QUARANTINED)
    row = uplink.spool.holdings.list_objects(states=[State.QUARANTINED], limit=1)[0]
    assert row.last_error is not None
    assert "422" in row.last_error
    assert sealed_files(uplink) == 1
    assert bad.object_id not in central.archived


def test_a_refused_object_is_set_aside_and_can_be_queued_again(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    stored = uplink.store()

    def refuse(handler: ScriptedHandler) -> None:
        handler.body()
        handler.problem(422, Problem.UNKNOWN_KEY, "sealed for a key that is not here")

    central.fault("POST", refuse)
    uplink.forward()
    eventually(lambda: uplink.states()[stored.object_id] is State.QUARANTINED)
    assert uplink.link.status().state == "connected", "the object is refused, the box is not"
    uplink.spool.quarantine.requeue(stored.object_id)
    eventually(lambda: all_freed(uplink))


def test_a_revoked_box_says_so_and_keeps_everything(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    central.revoked = True
    stored = uplink.store()
    uplink.forward()
    eventually(lambda: uplink.link.status().state == "refused")
    assert "enrolled again" in uplink.link.status().detail
    assert uplink.states()[stored.object_id] is State.READY
    central.revoked = False
    eventually(lambda: all_freed(uplink))


def test_an_expired_certificate_is_named_by_tls_itself(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    store = IdentityStore(uplink.directory.parent / "identity")
    key = FileKey.make()
    answer = central.answer_for(key.public_key(), life=timedelta(days=-1))
    uplink.identity = store.save(
        key, Enrolment(central_host="127.0.0.1", central_port=central.port, answer=answer)
    )
    uplink.store()
    uplink.forward()
    eventually(lambda: uplink.link.status().state == "refused")
    assert "certificate" in uplink.link.status().detail


def test_a_false_central_gets_nothing(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    port = central.port
    central.stop()
    (uplink.directory.parent / "false").mkdir()
    false = ScriptedCentral(uplink.directory.parent / "false", port=port).start()
    try:
        stored = uplink.store()
        uplink.forward()
        eventually(lambda: uplink.link.status().state == "refused")
        assert "does not prove" in uplink.link.status().detail
        assert false.log == []
        assert uplink.states()[stored.object_id] is State.READY
    finally:
        false.stop()


def test_a_silent_central_is_given_up_after_the_timeout(
    central: ScriptedCentral, uplink: Uplink, eventually: Eventually
) -> None:
    release = threading.Event()

    def hang(handler: ScriptedHandler) -> None:
        handler.body()
        release.wait(20)

    central.fault("POST", hang)
    uplink.store()
    uplink.forward(timeout_s=0.5)
    try:
        eventually(lambda: all_freed(uplink))
    finally:
        release.set()
    assert central.doubled == []
