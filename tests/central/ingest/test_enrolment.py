"""Enrolment over real TLS: one pairing string, one key, one certificate; every refusal alike and on record."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import httpx
import peewee
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from central.audit.reading import Wanted
from central.foundation import Foundation
from central.identity.authority import CertificateAuthority
from central.identity.standings import Standings
from contract.enrolment import (
    CA_PATH,
    PKCS10_TYPE,
    RENEW_PATH,
    PairingError,
    decode_certificates,
    encode_request,
)
from contract.transfer import UPLOADS_PATH, Problem
from tests.central.app.house import (
    Box,
    House,
    ask_to_enrol,
    client_tls,
    create,
    enrol,
    fetch_ca,
    head,
    new_key_and_request,
)
from tests.central.databases import open_record


def common_name(answer: httpx.Response) -> str:
    (certificate,) = decode_certificates(answer.content)
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_a_box_gets_a_certificate_for_itself_and_everything_it_must_know(house: House, box: Box) -> None:
    certificate = x509.load_pem_x509_certificate(box.answer.certificate_pem.encode())
    assert box.gateway_id == "ct-room-2"
    assert [name.value for name in certificate.subject] == ["ct-room-2"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert 59 <= (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days <= 61
    assert box.answer.central_id.startswith("central-")
    assert box.answer.broker is None


def test_the_ca_is_told_to_anybody_and_fits_the_pin_only_of_this_central(
    house: House, tmp_path: Path
) -> None:
    with House(tmp_path / "another") as another:
        with pytest.raises(PairingError):
            fetch_ca(another.gateways_url, house.pairing())
        fetch_ca(house.gateways_url, house.pairing())


def test_a_second_box_of_the_same_name_gets_an_id_of_its_own(house: House, box: Box, tmp_path: Path) -> None:
    assert enrol(house, tmp_path / "second", "CT room 2").gateway_id == "ct-room-2-2"
    assert enrol(house, tmp_path / "nameless").gateway_id.startswith("gw-")


def test_a_lost_answer_is_asked_for_again_with_the_same_key_and_no_other(house: House) -> None:
    pairing = house.pairing("lost")
    ca_pem = fetch_ca(house.gateways_url, pairing)
    _, request = new_key_and_request()
    first = ask_to_enrol(house.gateways_url, ca_pem, pairing.token, request)
    again = ask_to_enrol(house.gateways_url, ca_pem, pairing.token, request)
    thief = ask_to_enrol(house.gateways_url, ca_pem, pairing.token, new_key_and_request()[1])
    assert common_name(first) == common_name(again) == "lost"
    assert decode_certificates(first.content) == decode_certificates(again.content)
    assert thief.status_code == 403


def test_a_replacement_that_was_cut_short_ends_the_former_box_when_it_is_asked_for_again(
    house: House, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def end_session(_foundation: Foundation, gateway_id: str) -> str:
        ended.append(gateway_id)
        return ""

    monkeypatch.setattr("central.gateway_app.end_session_of", end_session)
    pairing, (_, request) = house.pairing(replaces=box.gateway_id), new_key_and_request()
    with mock.patch.object(Standings, "forget", side_effect=peewee.OperationalError("database is locked")):
        cut = ask_to_enrol(house.gateways_url, box.answer.ca_pem, pairing.token, request)
    assert (cut.status_code, ended) == (500, [])
    again = ask_to_enrol(house.gateways_url, box.answer.ca_pem, pairing.token, request)
    assert (common_name(again), ended) == (box.gateway_id, [box.gateway_id])


def test_every_refusal_has_the_same_answer_and_is_on_record_with_its_reason(house: House, box: Box) -> None:
    used = house.pairing()
    ca_pem = fetch_ca(house.gateways_url, used)
    assert ask_to_enrol(house.gateways_url, ca_pem, used.token, new_key_and_request()[1]).status_code == 200
    rsa_key = rsa.generate_private_key(65537, 2048)
    rsa_csr = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(rsa_key, hashes.SHA256())
    )
    answers = [
        ask_to_enrol(house.gateways_url, ca_pem, "0" * 32, new_key_and_request()[1]),
        ask_to_enrol(house.gateways_url, ca_pem, used.token, new_key_and_request()[1]),
        ask_to_enrol(house.gateways_url, ca_pem, house.pairing().token, b"not a request"),
        ask_to_enrol(house.gateways_url, ca_pem, house.pairing().token, encode_request(rsa_csr)),
        ask_to_enrol(house.gateways_url, ca_pem, house.pairing().token, b""),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert {answer.text for answer in answers} == {answers[0].text}
    assert answers[0].json()["type"] == Problem.PAIRING
    assert [detail for action, detail in house.refusals() if action == "enrol-refused"] == [
        "unknown token",
        "token used before, by another key",
        "malformed certificate request",
        "certificate request for a key that is not ECDSA P-256",
    ]  # the last one, the same again within a minute, is not written twice


def test_guessing_is_slowed_down(house: House) -> None:
    ca_pem = fetch_ca(house.gateways_url, house.pairing())
    for guess in range(10):
        assert ask_to_enrol(house.gateways_url, ca_pem, f"{guess:032x}", b"x").status_code == 403
    good = house.pairing()
    answer = ask_to_enrol(house.gateways_url, ca_pem, good.token, new_key_and_request()[1])
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0


def test_a_body_without_end_is_not_read(house: House) -> None:
    ca_pem = fetch_ca(house.gateways_url, house.pairing())
    answer = ask_to_enrol(house.gateways_url, ca_pem, house.pairing().token, b"x" * 100_000)
    assert answer.status_code == 400


def test_without_a_certificate_only_enrolment_answers(house: House, box: Box) -> None:
    with httpx.Client(base_url=house.gateways_url, verify=client_tls(box.answer.ca_pem)) as nobody:
        assert nobody.get(CA_PATH).status_code == 200
        answer = create(nobody, "0" * 32, 10, b"x" * 10)
        assert answer.status_code == 403
        assert answer.json()["type"] == Problem.CERTIFICATE
        assert head(nobody, "0" * 32).status_code == 403
        for path in ("/", "/healthz", "/signin", "/dicom-web/studies", "/api/fleet"):
            assert nobody.get(path).status_code == 404, path


def test_a_revoked_gateway_is_refused_on_the_connection_it_has(house: House, box: Box) -> None:
    with box.client() as client:
        assert head(client, "0" * 32).status_code == 404
        house.revoke(box.gateway_id)
        assert head(client, "0" * 32).status_code == 403
    assert ("upload-refused", "revoked gateway") in house.refusals()


def test_a_renewal_that_was_held_back_gives_a_box_that_was_replaced_nothing(
    house: House, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_in = threading.Event()
    gateways, pairing = house.central.foundation.gateways, house.pairing(replaces=box.gateway_id)
    check = gateways.gateway_of

    def checked(certificate_der: bytes | None) -> str:
        gateway_id = check(certificate_der)
        let_in.set()
        return gateway_id

    monkeypatch.setattr(gateways, "gateway_of", checked)

    def held_back(body: bytes) -> Iterator[bytes]:
        yield body[:10]
        assert let_in.wait(30)
        house.revoke(box.gateway_id)
        answer = ask_to_enrol(house.gateways_url, box.answer.ca_pem, pairing.token, new_key_and_request()[1])
        assert answer.status_code == 200
        yield body[10:]

    _, body = new_key_and_request(box.gateway_id)
    headers = {"Content-Type": PKCS10_TYPE, "Content-Length": str(len(body))}
    with box.client() as client:
        answer = client.post(RENEW_PATH, content=held_back(body), headers=headers)
    assert answer.status_code == 403
    assert answer.json()["type"] == Problem.CERTIFICATE
    assert ("upload-refused", "certificate of a box that was replaced") in house.refusals()


def test_a_certificate_of_the_ca_that_is_no_gateways_opens_nothing(
    house: House, box: Box, tmp_path: Path
) -> None:
    authority = CertificateAuthority.open(house.root / "keys")
    key = ec.generate_private_key(ec.SECP256R1())
    # Issued, but never registered: as after restoring an old database, or by a thief of the CA's key alone.
    for name, advice in ((box.gateway_id, f"--replaces {box.gateway_id}"), ("gone", "pair --name")):
        certificate = authority.issue_gateway(name, key.public_key())
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        answer = box.answer.model_copy(update={"certificate_pem": pem})
        with Box(house.gateways_url, answer, key, tmp_path).client() as client:
            refused = client.get(f"{UPLOADS_PATH}/{'0' * 32}")
            assert refused.status_code == 403
            assert advice in refused.json()["detail"]
    assert ("upload-refused", "certificate of no known gateway") in house.refusals()


def test_a_certificate_of_another_ca_does_not_get_through_tls(house: House, box: Box, tmp_path: Path) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    foreign = CertificateAuthority.open(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = foreign.issue_gateway(box.gateway_id, key.public_key()).public_bytes(serialization.Encoding.PEM)
    answer = box.answer.model_copy(update={"certificate_pem": pem.decode()})
    with (
        Box(house.gateways_url, answer, key, folder).client() as client,
        pytest.raises((httpx.TransportError, ssl.SSLError)),
    ):
        head(client, "0" * 32)
    house.stop()  # so that what was under way on threads is on record
    rows = open_record(house.root).newest(Wanted(), limit=5)
    assert any("client certificate does not verify" in row.event.detail for row in rows)


def test_a_gateways_certificate_cannot_pass_for_central(house: House, box: Box) -> None:
    certificate = x509.load_pem_x509_certificate(box.answer.certificate_pem.encode())
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == box.gateway_id
