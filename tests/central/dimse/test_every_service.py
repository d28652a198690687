"""Every DIMSE service for every kind of peer, from the server's own table: a new service without a rule here fails.

(What a *person* of each role and relation may reach is asked of the same policy by tests/central/access.)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from central.dimse.settings import Service
from tests.central.access.house import STUDY, pydicom_file
from tests.central.dimse.house import PEER, House, open_house
from tests.peers.scripted_scu import ScriptedScu, command, p_data

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
ROOTS: Final = ("1.2.840.10008.5.1.4.1.2.1", "1.2.840.10008.5.1.4.1.2.2")
RULES: Final[dict[tuple[str, str | None], Service | None]] = {
    ("C_ECHO", "1.2.840.10008.1.1"): None,
    **{("C_FIND", f"{root}.1"): Service.QUERY for root in ROOTS},
    **{("C_MOVE", f"{root}.2"): Service.RETRIEVE for root in ROOTS},
    **{("C_GET", f"{root}.3"): Service.RETRIEVE for root in ROOTS},
    ("C_STORE", None): Service.STORE,
    ("N_ACTION", "1.2.840.10008.1.20.1"): Service.COMMITMENT,
    ("C_FIND", "1.2.840.10008.5.1.4.31"): Service.WORKLIST,
    ("N_CREATE", "1.2.840.10008.3.1.2.3.3"): Service.PROCEDURE_STEP,
    ("N_SET", "1.2.840.10008.3.1.2.3.3"): Service.PROCEDURE_STEP,
}
PEERS: Final = {service.value.upper()[:16]: [service.value] for service in Service}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    peers = [{**PEER, "ae_title": title, "may": may} for title, may in PEERS.items()]
    peers.append({**PEER, "ae_title": "ELSEWHERE", "address": "192.0.2.1"})
    with open_house(tmp_path_factory.mktemp("central"), peers=peers) as opened:
        opened.put(pydicom_file("CT_small.dcm"))
        yield opened


def test_the_table_is_the_servers_own(house: House) -> None:
    assert house.routes.table() == RULES


@pytest.mark.parametrize("title", [*PEERS, "ELSEWHERE", "STRANGER"])
def test_a_peer_gets_the_contexts_of_what_it_may_and_no_others(house: House, title: str) -> None:
    may = set(PEERS.get(title, []))
    ae = AE(title)
    offered = {uid or CT: service for (_, uid), service in RULES.items()}
    for uid in offered:
        ae.add_requested_context(uid, ExplicitVRLittleEndian)
    assoc = ae.associate("127.0.0.1", house.port, ae_title="DICOMNET")
    assert assoc.is_established  # for the C-ECHO that is among them
    accepted = {str(context.abstract_syntax) for context in assoc.accepted_contexts}
    assoc.release()
    assert accepted == {uid for uid, service in offered.items() if service is None or service in may}


@pytest.mark.parametrize("title", ["STRANGER", "ELSEWHERE"])
@pytest.mark.parametrize("uid", sorted({uid or CT for (_, uid), service in RULES.items() if service}))
def test_nobody_else_gets_an_association(house: House, title: str, uid: str) -> None:
    ae = AE(title)
    ae.add_requested_context(uid)
    # pynetdicom as the caller sometimes misses who ended it, so this asks for no more than that it was.
    assert not ae.associate("127.0.0.1", house.port, ae_title="DICOMNET").is_established


def test_a_message_of_another_service_than_the_contexts_is_not_served(house: House) -> None:
    """C-GET sent on the context of a query: the context decides what may come, not the message."""
    with ScriptedScu(house.port) as scu:
        scu.associate([(1, f"{ROOTS[1]}.1", ["1.2.840.10008.1.2"])], calling=b"QUERY")
        scu.send(p_data(1, 3, command(0x0010, has_data_set=True)) + p_data(1, 2, b""))
        kind, _ = scu.read_pdu()
    assert kind in (0x04, 0x07)  # unrecognized operation, or an abort
    assert house.archive.reading.facts(STUDY) is not None
