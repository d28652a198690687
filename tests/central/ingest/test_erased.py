"""An erased study and the boxes: they are told for good and keep what they have; receipts stay what they were."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from central.foundation import Foundation
from contract.transfer import PACKS_PATH, RECEIPT_HEADER, Problem, ProblemDetails
from tests.central.app.house import Box, House, create, enrol, everything_in
from tests.central.databases import contents_in, open_archive_in
from tests.central.ingest.test_packs import Made, fates, small_instance
from tests.central.ingest.test_packs import create as create_pack


def of_study(content: bytes, study: str) -> bytes:
    ds = dcmread(io.BytesIO(content))
    ds.StudyInstanceUID = study
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    out = io.BytesIO()
    ds.save_as(out, enforce_file_format=True)
    return out.getvalue()


def erase(foundation: Foundation, root: Path, study: str) -> None:
    archive = open_archive_in(root, foundation.db)
    archive.erasures.erase(study, "ann", lambda _: None)
    archive.removal.run()


def test_a_box_is_told_for_good_and_its_receipts_stay(house: House, box: Box, ct: bytes) -> None:
    small = small_instance(ct)
    erased = [of_study(small, "1.2.3") for _ in range(3)]
    other = of_study(small, "1.2.4")
    object_id, sealed = box.seal(erased[0])
    with box.client() as client:
        first = create(client, object_id, len(sealed), sealed)
        receipt = first.headers[RECEIPT_HEADER]
        erase(house.central.foundation, house.root, "1.2.3")
        assert contents_in(house.root) == []

        # What is on its way, or new: refused, with a word that a box does not argue with.
        late_id, late = box.seal(erased[1])
        answer = create(client, late_id, len(late), late)
        assert answer.status_code == 410
        said = ProblemDetails.model_validate_json(answer.content)
        assert (said.type, "was erased" in said.detail) == (Problem.ERASED, True)

        # In a pack its neighbours are taken all the same.
        made = Made(box, [erased[2], other])
        (refused, taken) = made.sealed
        answer = create_pack(client, made.pack.pack_id, len(made.content), made.content)
        assert fates(answer) == {refused: Problem.ERASED, taken: None}
        assert client.get(f"{PACKS_PATH}/{made.pack.pack_id}").content == answer.content

        # What central signed for it signed for; nothing is taken in for it a second time.
        again = create(client, object_id, len(sealed), sealed)
        assert (again.status_code, again.headers[RECEIPT_HEADER]) == (201, receipt)
    assert [found.content for found in everything_in(house.root)] == [other]
    assert contents_in(house.root) == [other]
    assert house.central.foundation.audit.verify().problems == []


def test_an_allowed_study_is_taken_again(
    house: House, box: Box, ct: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("central.archive.erasure.ON_ITS_WAY_S", 0.0)
    content = of_study(small_instance(ct), "1.2.3")
    box.deliver(content)
    erase(house.central.foundation, house.root, "1.2.3")
    open_archive_in(house.root, house.central.foundation.db).erasures.allow("1.2.3")
    other = enrol(house, tmp_path / "other")
    other.deliver(content)
    assert [found.content for found in everything_in(house.root)] == [content]
