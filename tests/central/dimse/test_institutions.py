"""Peers of two institutions at one port: each finds, gets, stores and is told of what is its own institution's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE

from central.access.policy import Sharing
from central.dimse.association import STUDY_ROOT_FIND
from central.dimse.peers import Peer
from central.dimse.settings import PeerSettings
from central.dimse.worklist import MODALITY_WORKLIST_FIND
from central.workflow.data_sets import scheduled_item
from central.workflow.worklist import Entry
from tests.central.access.house import OTHER_STUDY, STUDY, pydicom_file
from tests.central.dimse.house import EVERYTHING, PEER, House, open_house
from tests.central.dimse.test_retrieve import CT, ExplicitVRLittleEndian, get, move
from tests.central.workflow.test_people_routes import item_json

NORTH_STUDY = "1.2.826.0.1.3680043.8.498.3"
NORTH = {"ae_title": "NORTH", "address": "127.0.0.1", "may": EVERYTHING, "institution": "north"}
OURS = pydicom_file("CT_small.dcm")
THEIRS = pydicom_file("CT_small.dcm", PatientName="Secret^North")  # the same UIDs, another content
IN_BOTH = pydicom_file("CT_small.dcm", StudyInstanceUID=OTHER_STUDY, SOPInstanceUID="1.2.3.9")
ONLY_THEIRS = pydicom_file("CT_small.dcm", StudyInstanceUID=NORTH_STUDY, SOPInstanceUID="1.2.3.7")
KEYS = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", "PatientName": ""}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    destination = {"ae_title": "DEST", "address": "192.0.2.9", "host": "127.0.0.1", "port": 1, "may": []}
    peers = [PEER, NORTH, {**destination, "institution": "north"}]
    with open_house(tmp_path, peers=peers) as opened:
        for content in (OURS, IN_BOTH):
            opened.put(content)
        for content in (THEIRS, IN_BOTH, ONLY_THEIRS):
            opened.put(content, "north")
        opened.institutions.add("north")
        yield opened


def found(house: House, ae_title: str) -> list[tuple[str, str]]:
    status, answers = house.find(KEYS, STUDY_ROOT_FIND, ae_title=ae_title)
    assert status == 0x0000
    return sorted((one.StudyInstanceUID, str(one.PatientName)) for one in answers)


def gotten(house: House, ae_title: str, study: str) -> list[str]:
    """Patients' names on what a C-GET of a study brings."""
    keys: dict[str, object] = {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": study}
    _, came = get(house, keys, {CT: [ExplicitVRLittleEndian]}, ae_title=ae_title)
    return [str(dcmread(BytesIO(body), force=True).PatientName) for _, body in came.values()]


def test_each_finds_and_gets_its_own(house: House) -> None:
    assert found(house, "PEER") == [(STUDY, "Doe^Jané"), (OTHER_STUDY, "Doe^Jané")]
    assert found(house, "NORTH") == [
        (STUDY, "Secret^North"), (OTHER_STUDY, "Doe^Jané"), (NORTH_STUDY, "Doe^Jané"),
    ]  # fmt: skip
    assert gotten(house, "PEER", NORTH_STUDY) == []
    assert len(gotten(house, "NORTH", NORTH_STUDY)) == 1
    for ae_title, name in (("PEER", "Doe"), ("NORTH", "Secret")):
        (one,) = gotten(house, ae_title, STUDY)
        assert one.startswith(name)
    # Nobody moves anything to another institution's peer.
    (status,) = move(house, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
    assert status.Status == 0xA801


def test_what_is_agreed_for_peers_holds_until_it_is_ended(house: House) -> None:
    institutions = house.institutions
    agreed = institutions.agree(Sharing.PEERS, opened_by="north", opened_to="default", made_by="admin")
    assert [uid for uid, _ in found(house, "PEER")] == [STUDY, STUDY, OTHER_STUDY, OTHER_STUDY, NORTH_STUDY]
    (one,) = gotten(house, "PEER", STUDY)  # once, the own
    assert one.startswith("Doe")
    assert len(gotten(house, "PEER", NORTH_STUDY)) == 1
    assert [uid for uid, _ in found(house, "NORTH")] == [STUDY, OTHER_STUDY, NORTH_STUDY]
    institutions.end(agreed)
    assert gotten(house, "PEER", NORTH_STUDY) == []


def test_what_a_peer_stores_is_its_institutions(house: House) -> None:
    ae = AE("NORTH")
    ae.add_requested_context(CT, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert assoc.is_established
    sent = pydicom_file("CT_small.dcm", StudyInstanceUID="1.2.3.4", SOPInstanceUID="1.2.3.4.5")
    assert assoc.send_c_store(dcmread(BytesIO(sent))).Status == 0x0000
    assoc.release()
    facts = house.archive.reading.facts("1.2.3.4")
    assert facts is not None
    assert (facts.institution, facts.elsewhere) == ("north", ())
    assert "1.2.3.4" not in {uid for uid, _ in found(house, "PEER")}


def test_the_worklist_is_an_institutions_own(house: House) -> None:
    for institution in ("default", "north"):  # by the same item id, as two senders may have it
        item = item_json(name=f"Of^{institution}")
        house.worklist.put(Entry("RIS-1", (), item, institution), scheduled_item(item), date(2026, 1, 5))
    query: dict[str, object] = {"PatientName": "", "ScheduledProcedureStepSequence": [Dataset()]}
    for ae_title, institution in (("PEER", "default"), ("NORTH", "north")):
        _, answers = house.find(query, MODALITY_WORKLIST_FIND, ae_title=ae_title)
        assert [str(one.PatientName) for one in answers] == [f"Of^{institution}"]
    assert house.worklist.remove("RIS-1") is not None
    assert [one.item_id for one in house.worklist.entries(limit=9, institution="north")] == ["RIS-1"]
    assert house.worklist.for_gateway("gw", today=date.today(), horizon_days=30) == ([], False)  # noqa: DTZ011


def test_a_peer_of_the_same_title_elsewhere_is_another_sender() -> None:
    both = [PeerSettings.model_validate({**PEER, "institution": one}) for one in ("default", "north")]
    assert [Peer("PEER", "127.0.0.1", one).source for one in both] == ["ae:PEER", "ae:north/PEER"]
