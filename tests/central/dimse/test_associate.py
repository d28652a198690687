"""A-ASSOCIATE by our own hand: pynetdicom says and understands the same, and what cannot be read is refused."""

from __future__ import annotations

import itertools
import struct

import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
)
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from central.dimse.associate import ACCEPTED, AssociateRequest, associate_ac
from central.dimse.association import STUDY_ROOT_FIND, STUDY_ROOT_GET, Routes
from central.dimse.echo import Echo
from central.dimse.errors import RefusedError
from central.dimse.negotiation import agreement
from central.dimse.peers import Peer
from central.dimse.settings import PeerSettings, Service
from tests.central.dimse.house import PEER
from tests.peers.scripted_scu import EXPLICIT_LITTLE, IMPLICIT_LITTLE, VERIFICATION, associate_rq

CT, MR, UNKNOWN = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.1.9"
PROPOSED = [
    (VERIFICATION, [ImplicitVRLittleEndian]),
    (STUDY_ROOT_FIND, [JPEGBaseline8Bit]),  # in which no query can be said
    (STUDY_ROOT_GET, [ImplicitVRLittleEndian, ExplicitVRLittleEndian]),
    (CT, [ImplicitVRLittleEndian, JPEGBaseline8Bit, ExplicitVRLittleEndian]),
    (CT, [ImplicitVRLittleEndian]),
    (MR, [JPEGBaseline8Bit]),
    (UNKNOWN, [ExplicitVRLittleEndian]),
]
ROLES = [None, (True, True), (True, False), (False, True)]
SERVICES = [[], [Service.STORE], [Service.QUERY, Service.RETRIEVE], [*Service]]


def routes() -> Routes:
    made = Routes()
    made.add(object, Echo(), None, VERIFICATION)
    made.add(object, Echo(), Service.QUERY, STUDY_ROOT_FIND)
    made.add(object, Echo(), Service.RETRIEVE, STUDY_ROOT_GET)
    return made


def peer(services: list[Service]) -> Peer:
    settings = PeerSettings.model_validate({**PEER, "may": [service.value for service in services]})
    return Peer("PEER", "127.0.0.1", settings)


def asked(roles: tuple[bool, bool] | None) -> tuple[bytes, list[PresentationContext]]:
    """pynetdicom's A-ASSOCIATE-RQ, and the contexts in it."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = "PEER", "DICOMNET"
    contexts = [build_context(abstract, list(transfer)) for abstract, transfer in PROPOSED]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = contexts
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received, implementation.implementation_class_uid = 32_768, UID("1.2.3")
    relational = SOPClassExtendedNegotiation()
    relational.sop_class_uid = STUDY_ROOT_GET
    relational.service_class_application_information = b"\x01\x01"
    request.user_information = [length, implementation, relational]
    for uid in (CT, MR) if roles is not None else ():
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid = UID(uid)
        role.scu_role, role.scp_role = roles or (None, None)
        request.user_information.append(role)
    encoded = A_ASSOCIATE_RQ()
    encoded.from_primitive(request)
    return bytes(encoded.encode()), contexts


@pytest.mark.parametrize("services", SERVICES)
def test_pynetdicom_answers_and_understands_the_same(services: list[Service]) -> None:
    who, at = peer(services), routes()
    for roles in ROLES:
        pdu, contexts = asked(roles)
        request = AssociateRequest.read(pdu)
        assert (request.calling_ae_title, request.called_ae_title) == ("PEER", "DICOMNET")
        assert request.proposal.said.max_pdu_bytes == 32_768
        agreed = agreement(request.proposal, who, at)

        gets = who.may(Service.RETRIEVE) and roles is not None and roles[1]
        supported = [build_context(VERIFICATION, [ImplicitVRLittleEndian])]
        for uid, service in ((STUDY_ROOT_FIND, Service.QUERY), (STUDY_ROOT_GET, Service.RETRIEVE)):
            if who.may(service):
                supported.append(build_context(uid, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]))
        if who.may(Service.STORE) or gets:
            order = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            order.insert(2 if gets else 0, JPEGBaseline8Bit)
            for uid in (CT, MR):
                context = build_context(uid, order)
                context.scu_role, context.scp_role = who.may(Service.STORE), gets
                supported.append(context)
        named = {UID(uid): roles for uid in (CT, MR)} if roles is not None else {}
        expected, expected_roles = negotiate_as_acceptor(contexts, supported, named)  # type: ignore[arg-type]

        answer = A_ASSOCIATE_AC()
        answer.decode(associate_ac(request, agreed, 65_536))
        heard = answer.to_primitive()
        assert [
            (one.context_id, one.result, one.transfer_syntax[0] if one.result == ACCEPTED else None)
            for one in heard.presentation_context_definition_results_list
        ] == [
            (one.context_id, one.result, one.transfer_syntax[0] if one.result == ACCEPTED else None)
            for one in expected
        ], (services, roles)
        assert {number for number, one in agreed.accepted.items() if one.peer_is_scp} == {
            one.context_id for one in expected if one.result == ACCEPTED and one.as_scu
        }
        said = {type(item).__name__: item for item in heard.user_information}
        assert said["MaximumLengthNotification"].maximum_length_received == 65_536
        assert ("SOPClassExtendedNegotiation" in said) == who.may(Service.RETRIEVE)
        assert {
            (one.sop_class_uid, one.scu_role, one.scp_role)
            for one in heard.user_information
            if isinstance(one, SCP_SCU_RoleSelectionNegotiation)
        } == {(one.sop_class_uid, one.scu_role, one.scp_role) for one in expected_roles}


GOOD = associate_rq([(1, VERIFICATION, [IMPLICIT_LITTLE]), (3, CT, [EXPLICIT_LITTLE])])


def replaced(old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    assert old in GOOD
    return GOOD.replace(old, new, 1)


@pytest.mark.parametrize(
    "pdu",
    [
        pytest.param(associate_rq([(2, VERIFICATION, [IMPLICIT_LITTLE])]), id="an even id"),
        pytest.param(associate_rq([(1, VERIFICATION, [IMPLICIT_LITTLE])] * 2), id="an id twice"),
        pytest.param(associate_rq([(1, VERIFICATION, [])]), id="no transfer syntax"),
        pytest.param(replaced(b"\x30\x00\x00\x11", b"\x40\x00\x00\x11"), id="no abstract syntax"),
        pytest.param(replaced(b"\x30\x00\x00\x11", b"\x30\x00\xff\x11"), id="a sub-item beyond its item"),
        pytest.param(replaced(b"1.2.840.10008.1.1", b"1.2.840.10008.1.\xe9"), id="no UID"),
        pytest.param(GOOD[:10] + bytes(32) + GOOD[42:], id="no AE titles"),
        pytest.param(GOOD[:10] + b"\xff" * 32 + GOOD[42:], id="AE titles of other characters"),
        pytest.param(GOOD[:40], id="cut short in its fixed fields"),
        pytest.param(GOOD[:-1], id="cut short"),
    ],
)
def test_what_cannot_be_read_is_refused(pdu: bytes) -> None:
    AssociateRequest.read(GOOD)
    with pytest.raises(RefusedError) as refused:
        AssociateRequest.read(pdu)
    assert refused.value.result is None


def test_another_version_of_the_protocol_is_rejected() -> None:
    later = GOOD[:6] + struct.pack(">H", 0b10) + GOOD[8:]
    with pytest.raises(RefusedError) as refused:
        AssociateRequest.read(later)
    assert refused.value.result == (1, 2, 2)
    AssociateRequest.read(GOOD[:6] + struct.pack(">H", 0b11) + GOOD[8:])  # a bit for each version


def test_no_request_is_answered_by_more_than_it_asks_for() -> None:
    for services, roles in itertools.product(SERVICES, ROLES):
        pdu, _ = asked(roles)
        request = AssociateRequest.read(pdu)
        for one, proposed in zip(
            agreement(request.proposal, peer(services), routes()).answered,
            request.proposal.contexts,
            strict=True,
        ):
            assert one.context_id == proposed.context_id
            assert one.transfer_syntax_uid in proposed.transfer_syntax_uids
