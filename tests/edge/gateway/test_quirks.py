"""Each field of a profile changes what is on the wire, and only for whom it is meant."""

from __future__ import annotations

import struct

import pytest
from pydantic import ValidationError
from pynetdicom import AE, build_role

from edge.gateway.quirks import Quirks, choose, packaged_profiles, profiles
from tests.edge.gateway.conftest import StartGateway
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, IMPLICIT_LITTLE, small_data_set

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"


def scanner(quirks: str, ae_title: str = "CT1") -> dict[str, object]:
    return {"ae_title": ae_title, "quirks": quirks}


@pytest.mark.parametrize(
    ("quirks", "proposed", "taken"),
    [
        (None, [JPEG_BASELINE, JPEG_LOSSLESS, EXPLICIT_LITTLE], JPEG_BASELINE),
        ("lossless", [JPEG_BASELINE, JPEG_LOSSLESS, EXPLICIT_LITTLE], JPEG_LOSSLESS),
        ("lossless", [JPEG_BASELINE, EXPLICIT_LITTLE], EXPLICIT_LITTLE),
        ("lossless", [IMPLICIT_LITTLE], IMPLICIT_LITTLE),
        ("uncompressed", [JPEG_LOSSLESS, IMPLICIT_LITTLE, EXPLICIT_LITTLE], EXPLICIT_LITTLE),
        ("uncompressed", [JPEG_LOSSLESS], JPEG_LOSSLESS),
    ],
)
def test_the_order_of_transfer_syntaxes(
    quirks: str | None, proposed: list[str], taken: str, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(scanners=[{"ae_title": "CT1", "quirks": quirks}])
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CT_STORAGE, proposed)
    association = ae.associate("127.0.0.1", gateway.port, ae_title="DICOMNET")
    (context,) = association.accepted_contexts
    association.release()
    assert context.transfer_syntax == [taken]


def test_an_old_toolkit_gets_small_pdus_no_comment_and_no_roles(start_gateway: StartGateway) -> None:
    gateway = start_gateway(scanners=[scanner("old-toolkit", "OLD"), {"ae_title": "CT1"}])
    answers = {}
    for ae_title in ("OLD", "CT1"):
        with gateway.connect() as scu:
            answer = scu.associate(calling=ae_title.encode())
            refused = scu.store(small_data_set(study=""), "1.2.3.1")
            answers[ae_title] = (answer, refused)
        ae = AE(ae_title=ae_title)
        ae.add_requested_context(CT_STORAGE, EXPLICIT_LITTLE)
        role = build_role(CT_STORAGE, scu_role=True, scp_role=True)
        association = ae.associate("127.0.0.1", gateway.port, ext_neg=[role], ae_title="DICOMNET")
        (context,) = association.accepted_contexts
        assert association.acceptor.role_selection == {} or ae_title == "CT1"
        assert (context.as_scu, context.as_scp) == (True, False)
        association.release()

    small, usual = struct.pack(">I", 16_384), struct.pack(">I", 262_144)
    assert b"\x51\x00\x00\x04" + small in answers["OLD"][0]
    assert b"\x51\x00\x00\x04" + usual in answers["CT1"][0]
    assert [one.status for _, one in answers.values()] == [0xC005, 0xC005]
    assert 0x0902 not in answers["OLD"][1].elements
    assert answers["CT1"][1].comment


def test_any_called_ae_title_is_this_box_where_a_profile_says_so(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        scanners=[scanner("any-called-ae-title")], require_called_ae_title=True, unknown_scanners="accept"
    )
    with gateway.connect() as scu:
        scu.associate(called=b"BURNT_IN")


def test_a_profile_finds_its_implementation_by_itself(start_gateway: StartGateway) -> None:
    own = {"site": Quirks(implementation_version_names=["PYNETDICOM_*"], max_pdu_bytes=32_768)}
    gateway = start_gateway(quirks=own)
    ae = AE(ae_title="WHOEVER")
    ae.add_requested_context(CT_STORAGE, EXPLICIT_LITTLE)
    association = ae.associate("127.0.0.1", gateway.port)
    assert association.acceptor.maximum_length == 32_768
    association.release()
    with gateway.connect() as scu:  # another implementation
        assert struct.pack(">I", 262_144) in scu.associate()


def test_a_profile_by_class_uid_and_the_entry_beats_it() -> None:
    known = profiles({"site": Quirks(implementation_class_uids=["1.2.3.4"], omit_error_comment=True)})
    asked = {"implementation_class_uid": "1.2.3.4", "implementation_version_name": ""}
    assert choose(known, None, **asked) == known["site"]
    assert choose(known, "lossless", **asked) == known["lossless"]
    other = {"implementation_class_uid": "1.2.3.44", "implementation_version_name": "X"}
    assert choose(known, None, **other) == Quirks()


def test_what_is_announced_never_exceeds_the_gateways_own_limit(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        scanners=[scanner("big")], quirks={"big": Quirks(max_pdu_bytes=524_288)}, max_pdu_bytes=65_536
    )
    with gateway.connect() as scu:
        assert struct.pack(">I", 65_536) in scu.associate()


def test_the_packaged_profiles_are_sound_and_an_own_one_replaces_its_namesake() -> None:
    packaged = packaged_profiles()
    assert {"old-toolkit", "uncompressed", "lossless"} <= set(packaged)
    assert all(profile != Quirks() for profile in packaged.values()), "a profile that does nothing"
    own = Quirks(max_pdu_bytes=8192)
    assert profiles({"old-toolkit": own})["old-toolkit"] == own


@pytest.mark.parametrize(
    "wrong", [{"max_pdu": 16_384}, {"max_pdu_bytes": 100}, {"preferred_transfer_syntaxes": ["JPEG"]}]
)
def test_unknown_keys_and_wrong_values_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Quirks.model_validate(wrong)
