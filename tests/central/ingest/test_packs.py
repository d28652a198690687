"""Packs over real TLS: cut anywhere, resumed, replayed, tampered with; each object has its own fate."""

from __future__ import annotations

import base64
import io
import os
import random
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from central.archive.errors import StorageFullError
from central.archive.examining import Indexable
from central.audit.refusals import Refusals
from central.ingest.acceptance import Acceptance
from central.ingest.pack_acceptance import PackAcceptance
from central.ingest.partial import KEPT_S, Appender, PartialUploads, UploadLimits
from central.institution import DEFAULT_INSTITUTION
from contract.identifiers import ObjectId
from contract.pack import MAX_PACK_BYTES, PackAnswer, make_pack
from contract.receipt import Outcome, ReceiptError, verify_receipt
from contract.transfer import PACKS_PATH, PATCH_CONTENT_TYPE, RECEIPT_HEADER, Problem
from tests.central.app.house import Box, House, enrol, everything_in, head, retire_receipts, rotate_receipts
from tests.central.app.house import create as create_object
from tests.central.databases import open_archive_in, open_index, open_record

SOAK = bool(os.environ.get("DICOMNET_SOAK"))


class Made:
    """A pack of small real instances and all of its bytes."""

    def __init__(self, box: Box, contents: list[bytes]) -> None:
        self.sealed = dict(box.seal(content) for content in contents)
        self.pack = make_pack((object_id, len(sealed)) for object_id, sealed in self.sealed.items())
        self.content = self.pack.head + b"".join(self.sealed[one.object_id] for one in self.pack.entries)

    @property
    def path(self) -> str:
        return f"{PACKS_PATH}/{self.pack.pack_id}"


@pytest.fixture(scope="module")
def instances(ct_small: bytes) -> list[bytes]:
    return [small_instance(ct_small) for _ in range(3)]


@pytest.fixture(scope="module")
def ct_small() -> bytes:
    return Path(str(get_testdata_file("CT_small.dcm", download=False))).read_bytes()


def small_instance(ct: bytes, side: int = 4) -> bytes:
    """A CT of a few pixels, which are noise, under UIDs of its own."""
    ds = dcmread(io.BytesIO(ct))
    ds.Rows = ds.Columns = side
    ds.PixelData = random.Random(1).randbytes(2 * side * side)
    del ds.DataSetTrailingPadding
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def create(
    client: httpx.Client,
    pack_id: str,
    length: int,
    body: bytes | Iterator[bytes] = b"",
    key: str = "pack_id",
) -> httpx.Response:
    headers = {
        "Upload-Length": str(length),
        "Content-Length": str(len(body) if isinstance(body, bytes) else length),
        "Upload-Metadata": f"{key} {base64.b64encode(pack_id.encode()).decode()}",
        "Content-Type": PATCH_CONTENT_TYPE,
    }
    return client.post(PACKS_PATH, headers=headers, content=body)


def patch(client: httpx.Client, made: Made, offset: int, body: bytes) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": PATCH_CONTENT_TYPE}
    return client.patch(made.path, headers=headers, content=body)


def fates(response: httpx.Response) -> dict[str, Problem | None]:
    answer = PackAnswer.model_validate_json(response.content)
    return {fate.object_id: fate.problem for fate in answer.objects}


def left_over(house: House) -> list[Path]:
    return list((house.root / "packs").rglob("*.part"))


def test_one_request_archives_all_and_brings_their_receipts(
    house: House, box: Box, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    with box.client() as client:
        answer = create(client, made.pack.pack_id, len(made.content), made.content)
        assert answer.status_code == 201, answer.text
        assert answer.headers["Location"] == made.path
        assert fates(answer) == dict.fromkeys((one.object_id for one in made.pack.entries), None)
        # Replayed: the same receipts, nothing twice.
        assert create(client, made.pack.pack_id, len(made.content), made.content).content == answer.content
        assert client.get(made.path).content == answer.content
        known = client.head(made.path).headers
        assert known["Upload-Offset"] == str(len(made.content))
        assert known["Upload-Metadata"] == f"pack_id {base64.b64encode(made.pack.pack_id.encode()).decode()}"
    assert sorted(found.content for found in everything_in(house.root)) == sorted(instances)
    assert left_over(house) == []


def test_receipts_of_a_retired_key_are_signed_anew_for_a_box_that_still_wants_them(
    house: House, box: Box, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    object_id, sealed = box.seal(instances[0])
    (first,) = house.central.foundation.identity.receipt_keys.verifying()
    with box.client() as client:
        kept = create(client, made.pack.pack_id, len(made.content), made.content)
        alone = create_object(client, object_id, len(sealed), sealed)
        rotate_receipts(house, lead=timedelta(0))
        assert client.get(made.path).content == kept.content, "a former key's receipts stay as they are"
        trusted = retire_receipts(house, first).verifying()
        again = PackAnswer.model_validate_json(client.get(made.path).content)
        alone_again = head(client, object_id)
    for answer in PackAnswer.model_validate_json(kept.content).objects:
        with pytest.raises(ReceiptError):
            verify_receipt(answer.receipt or "", trusted)
    receipts = [verify_receipt(fate.receipt or "", trusted) for fate in again.objects]
    assert [one.object_id for one in receipts] == [one.object_id for one in made.pack.entries]
    assert verify_receipt(alone_again.headers[RECEIPT_HEADER], trusted) == box.receipt(alone)


def test_a_pack_is_resumed_at_any_byte(house: House, box: Box, instances: list[bytes]) -> None:
    """In the soak at every byte; else at some, and always where parts of the pack meet."""
    length = len(Made(box, instances[:2]).content)
    joints = {1, 7, 8, 9, 28, 48, 49, length - 1}
    at = range(1, length) if SOAK else sorted(joints | set(random.SystemRandom().sample(range(length), 6)))
    with box.client() as client:
        for cut in at:
            made = Made(box, instances[:2])  # the same instances, sealed anew: duplicates, and so receipts
            begun = create(client, made.pack.pack_id, len(made.content), made.content[:cut])
            assert (begun.status_code, begun.headers["Upload-Offset"]) == (201, str(cut)), cut
            assert "Upload-Expires" in begun.headers
            missing = client.get(made.path)
            assert (missing.status_code, missing.headers["Upload-Offset"]) == (409, str(cut))
            ended = patch(client, made, cut, made.content[cut:])
            assert (ended.status_code, ended.headers["Upload-Offset"]) == (204, str(len(made.content)))
            assert set(fates(client.get(made.path)).values()) == {None}, cut
    assert len(everything_in(house.root)) == 2


class LineBrokeError(Exception):
    pass


@pytest.mark.parametrize("breaks", [False, True])
def test_what_is_here_of_a_pack_is_archived_while_the_rest_is_on_its_way(
    house: House, box: Box, ct_small: bytes, breaks: bool
) -> None:
    made = Made(box, [small_instance(ct_small, side=128) for _ in range(12)])
    shown: list[int] = []

    def body() -> Iterator[bytes]:
        yield made.content[:-1000]
        until_s = time.monotonic() + 30
        while not shown and time.monotonic() < until_s:
            shown.extend([count] if (count := len(everything_in(house.root))) else [])
            time.sleep(0.02)  # central tells nobody before it answers
        if breaks:
            raise LineBrokeError
        yield made.content[-1000:]

    with box.client() as client:
        try:
            answer = create(client, made.pack.pack_id, len(made.content), body())
        except LineBrokeError:
            offset = int(client.head(made.path).headers["Upload-Offset"])
            assert patch(client, made, offset, made.content[offset:]).status_code == 204
            answer = client.get(made.path)
        assert fates(answer) == dict.fromkeys((one.object_id for one in made.pack.entries), None)
    assert shown, "before the last byte had left"
    assert len(everything_in(house.root)) == 12
    assert left_over(house) == []


def test_fates_are_found_after_central_died_over_a_whole_pack(
    house: House, box: Box, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    with box.client() as client:
        create(client, made.pack.pack_id, len(made.content), made.content[:-1])
    house.stop()
    (part,) = left_over(house)
    part.write_bytes(
        made.content
    )  # as if the process had been killed after the last fsync, before anything else
    house.start()
    box.url = house.gateways_url
    with box.client() as client:
        first = client.get(made.path)
        assert set(fates(first).values()) == {None}
    house.stop()
    house.start()
    box.url = house.gateways_url
    with box.client() as client:
        assert client.get(made.path).content == first.content
    assert len(everything_in(house.root)) == 3


def test_a_bad_object_does_not_harm_its_neighbours(house: House, box: Box, instances: list[bytes]) -> None:
    made = Made(box, [*instances, b"GIF89a" + bytes(900)])
    tampered, *_ = made.pack.entries
    content = bytearray(made.content)
    content[tampered.offset_bytes + tampered.stored_bytes - 1] ^= 1
    with box.client() as client:
        told = fates(create(client, made.pack.pack_id, len(content), bytes(content)))
        assert told[tampered.object_id] is Problem.TAMPERED
        assert sorted(told.values(), key=str).count(None) >= 2
        assert [action for action, _ in house.refusals()].count("upload-refused") >= 1
        # Sent anew, because something was refused: judged anew, and what has its receipt keeps it.
        healed = fates(create(client, made.pack.pack_id, len(made.content), made.content))
    assert [problem for problem in healed.values() if problem] == [Problem.NOT_DICOM]
    assert len(everything_in(house.root)) == 3


def test_a_manifest_that_is_not_the_announced_one_is_refused_and_dropped(
    house: House, box: Box, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    head = len(made.pack.head)
    swapped = made.content[:8] + made.content[28:48] + made.content[8:28] + made.content[48:]
    bad = {
        "tampered": made.content[:20] + b"\0" + made.content[21:],
        "reordered": swapped,
        "truncated": made.content[:-5],
        "longer": made.content + b"x",
        "head only": made.content[:head],
        "no pack": bytes(500),
        "shorter than a header": made.content[:5],
    }
    with box.client() as client:
        for why, content in bad.items():
            answer = create(client, made.pack.pack_id, len(content), content)
            assert (answer.status_code, answer.json()["type"]) == (422, Problem.PACK), why
            assert client.head(made.path).status_code == 404, why
        foreign = create(client, "0" * 32, len(made.content), made.content[:head])
        assert foreign.json()["type"] == Problem.PACK, "as soon as the head is there"
        too_large = create(client, made.pack.pack_id, MAX_PACK_BYTES + 1)
        assert (too_large.status_code, too_large.json()["type"]) == (413, Problem.TOO_LARGE)
        assert create(client, made.pack.pack_id, 10, key="object_id").status_code == 400
        assert client.get(f"{PACKS_PATH}/..%2f..").status_code in (400, 404)
    assert left_over(house) == []
    assert everything_in(house.root) == []


def test_requests_out_of_turn_change_nothing(
    house: House, box: Box, tmp_path: Path, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    other = enrol(house, tmp_path / "other")
    with box.client() as client, other.client() as stranger:
        assert patch(client, made, 0, made.content).status_code == 404
        create(client, made.pack.pack_id, len(made.content), made.content[:100])
        ahead = patch(client, made, 200, made.content[200:])
        assert (ahead.status_code, ahead.headers["Upload-Offset"]) == (409, "100")
        assert patch(client, made, 0, made.content[:100]).status_code == 409
        assert create(client, made.pack.pack_id, len(made.content), made.content[:50]).headers[
            "Upload-Offset"
        ] == str(100)
        assert stranger.get(made.path).status_code == stranger.head(made.path).status_code == 404
        assert patch(client, made, 100, made.content[100:]).status_code == 204
        late = patch(client, made, 100, made.content[100:])  # a duplicate that was under way
        assert late.status_code == 204
        assert set(fates(client.get(made.path)).values()) == {None}
    assert len(everything_in(house.root)) == 3


def test_an_object_that_came_alone_is_not_doubled_by_its_pack(
    house: House, box: Box, instances: list[bytes]
) -> None:
    made = Made(box, instances)
    object_id = made.pack.entries[0].object_id
    sealed = made.sealed[object_id]
    with box.client() as client:
        alone = create_object(client, object_id, len(sealed), sealed)
        answer = create(client, made.pack.pack_id, len(made.content), made.content)
    told = PackAnswer.model_validate_json(answer.content).objects[0]
    assert told.receipt == alone.headers["Dicomnet-Receipt"]
    assert len(everything_in(house.root)) == 3


def test_a_full_disk_puts_a_pack_off(tmp_path: Path, instances: list[bytes]) -> None:
    with House(tmp_path / "central") as house:
        box = enrol(house, tmp_path / "box")
    storage = house.settings.storage.model_copy(update={"reserve_bytes": 1 << 62})
    house.settings = house.settings.model_copy(update={"storage": storage})
    made = Made(box, instances)
    with house:
        box.url = house.gateways_url
        with box.client() as client:
            answer = create(client, made.pack.pack_id, len(made.content), made.content)
    assert (answer.status_code, answer.json()["type"]) == (507, Problem.STORAGE)


class Inside:
    """A stopped house's archive and pack acceptance, and one whole pack that is not decided yet."""

    def __init__(self, house: House, made: Made, folder: Path) -> None:
        identity = house.central.foundation.identity
        house.stop()
        self.db = open_index(house.root)
        self.audit = open_record(folder)
        self.archive = open_archive_in(house.root, self.db)
        acceptance = Acceptance(
            self.db,
            self.archive.receiving,
            central_id="c",
            sealing_keys=identity.sealing_keys,
            receipt_keys=identity.receipt_keys,
            max_object_bytes=1 << 30,
            institution_of=lambda _gateway_id: DEFAULT_INSTITUTION,
        )
        self.packs = PackAcceptance(self.db, acceptance, Refusals(self.audit))
        self._pack_id = made.pack.pack_id
        partials = PartialUploads.open(folder / "packs", UploadLimits(MAX_PACK_BYTES, 4, 0))
        self.upload = partials.create("gw", ObjectId(made.pack.pack_id), len(made.content))
        with Appender(self.upload) as appender:
            appender.write(made.content)

    def decide(self) -> PackAnswer:
        return PackAnswer.model_validate_json(self.packs.decide("gw", self._pack_id, self.upload, "test", ()))

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.packs.close()
        self.audit.close()
        self.db.close()


def test_a_disk_that_fills_in_the_middle_keeps_the_pack_for_the_rest(
    house: House, box: Box, tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(box, instances)
    room = iter([True, False])
    with Inside(house, made, tmp_path) as inside:
        new_object = inside.archive.receiving.new_object

        def new_object_while_there_is_room() -> object:
            if not next(room, True):
                raise StorageFullError("full")
            return new_object()

        monkeypatch.setattr(inside.archive.receiving, "new_object", new_object_while_there_is_room)
        first = inside.decide()
        # They are opened side by side: which of them met the full disk is chance.
        assert sorted(str(fate.problem) for fate in first.objects) == ["None", "None", Problem.STORAGE]
        assert inside.packs.decided("gw", made.pack.pack_id) is None
        assert inside.upload.is_whole
        second = inside.decide()
        assert [fate.problem for fate in second.objects] == [None, None, None]
        assert {fate.receipt for fate in first.objects} - {None} < {fate.receipt for fate in second.objects}
        assert not inside.upload.path.exists()


def test_a_group_that_cannot_be_indexed_together_is_indexed_one_by_one(
    house: House, box: Box, tmp_path: Path, instances: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(box, instances)
    bad = made.pack.entries[1].object_id
    with Inside(house, made, tmp_path) as inside:
        index_all = inside.archive.receiving.index_all

        def index_all_but_one(objects: Sequence[Indexable], in_transaction: object) -> list[Outcome]:
            if any(one.origin.object_id == bad for one in objects):
                raise ValueError("a fault that one object brings about")
            return index_all(objects, in_transaction)  # type: ignore[arg-type]  # passed on as it is

        monkeypatch.setattr(inside.archive.receiving, "index_all", index_all_but_one)
        told = inside.decide()
        assert [fate.problem for fate in told.objects] == [None, Problem.UNAVAILABLE, None]
        assert inside.upload.is_whole, "the pack is kept for the one that has no fate yet"
        monkeypatch.undo()
        assert [fate.problem for fate in inside.decide().objects] == [None, None, None]
    assert len(everything_in(house.root)) == 3


def test_what_was_given_up_is_swept_with_its_folder(tmp_path: Path) -> None:
    partials = PartialUploads.open(tmp_path, UploadLimits(1000, 4, 0))
    old = partials.create("gw-old", ObjectId("a" * 32), 10)
    new = partials.create("gw-new", ObjectId("b" * 32), 10)
    long_ago = old.path.stat().st_mtime - KEPT_S - 1
    os.utime(old.path, (long_ago, long_ago))
    partials.sweep()
    assert not old.path.parent.exists()
    assert new.path.exists()
