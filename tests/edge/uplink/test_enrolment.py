"""Enrolment against a real TLS server, and what is kept of it."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from contract.enrolment import ENROL_PATH, BrokerAddress, PairingError, encode_certificates, new_token
from edge.uplink.enrolment import enrol
from edge.uplink.errors import CentralUnreachableError, EnrolmentRefusedError, IdentityError
from edge.uplink.identity import Enrolment, IdentityStore
from tests.edge.scripted_central import ScriptedCentral, TestAuthority


def test_an_identity_is_bought_kept_and_read_back(central: ScriptedCentral, tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "identity")
    assert store.load() is None
    saved = store.save(*enrol(central.pairing))
    loaded = store.load()
    assert loaded == saved
    assert loaded is not None
    assert loaded.gateway_id == central.gateway_id
    assert loaded.central_url == f"https://127.0.0.1:{central.port}"
    assert loaded.recipients == (central.sealing_key.public_key(),)
    assert loaded.tls_context().check_hostname
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in saved.directory.iterdir()}
    assert modes == dict.fromkeys(["key.pem", "certificate.pem", "enrolment.json"], 0o600)
    assert stat.S_IMODE(saved.directory.stat().st_mode) == 0o700


def test_the_token_is_not_said_to_a_server_that_is_not_the_pinned_one(central: ScriptedCentral) -> None:
    with pytest.raises(PairingError, match="not the central of this pairing"):
        enrol(replace(central.pairing, ca_fingerprint="0" * 64))
    assert [path for _, path, _ in central.log if path == ENROL_PATH] == []


def test_a_server_that_only_repeats_the_pinned_ca_does_not_get_the_token(
    central: ScriptedCentral, tmp_path: Path
) -> None:
    """A man in the middle can hand out the true CA, but has no certificate from it."""
    honest_ca = central.authority
    central.stop()
    (tmp_path / "false").mkdir()
    false = ScriptedCentral(tmp_path / "false").start()
    false_pairing = replace(central.pairing, port=false.port)
    repeated = encode_certificates([honest_ca.certificate])
    false.fault("GET", lambda handler: handler.reply(200, repeated))
    try:
        with pytest.raises(CentralUnreachableError, match="does not prove"):
            enrol(false_pairing)
        assert [method for method, _, _ in false.log] == ["GET"]
    finally:
        false.stop()


def test_a_used_or_unknown_token_is_refused_with_a_sentence(central: ScriptedCentral) -> None:
    with pytest.raises(EnrolmentRefusedError, match="wrong, used, or older than 15 minutes"):
        enrol(replace(central.pairing, token=new_token()))


def test_nobody_there_is_said_so(central: ScriptedCentral) -> None:
    pairing = central.pairing
    central.stop()
    with pytest.raises(CentralUnreachableError, match="cannot be reached"):
        enrol(pairing)


def test_an_answer_whose_parts_do_not_fit_is_never_kept(central: ScriptedCentral, tmp_path: Path) -> None:
    store = IdentityStore(tmp_path / "identity")
    key = ec.generate_private_key(ec.SECP256R1())
    good = central.answer_for(key.public_key())
    other_key = ec.generate_private_key(ec.SECP256R1())
    bad = [
        central.answer_for(other_key.public_key()),
        good.model_copy(update={"gateway_id": "gw-other"}),
        good.model_copy(update={"gateway_id": "../escape"}),
        good.model_copy(update={"ca_pem": TestAuthority().pem}),
        good.model_copy(update={"key_set": "AAAA"}),
        good.model_copy(update={"root_key": good.receipt_keys[0]}),
        good.model_copy(update={"central_id": "another"}),
        good.model_copy(update={"receipt_keys": ["not base64!"]}),
        good.model_copy(update={"broker": BrokerAddress(host="broker.example", port=1883, tls=False)}),
    ]
    for answer in bad:
        with pytest.raises(IdentityError):
            store.save(key, Enrolment(central_host="h", central_port=1, answer=answer))
    assert store.load() is None


def test_a_new_identity_replaces_the_old_one_and_a_damaged_one_says_what_to_do(
    central: ScriptedCentral, tmp_path: Path
) -> None:
    store = IdentityStore(tmp_path / "identity")
    first = store.save(*enrol(central.pairing))
    central.tokens = {new_token()}
    torn = tmp_path / "identity" / "torn-by-a-crash"
    torn.mkdir()
    second = store.save(*enrol(central.pairing))
    assert store.load() == second
    assert first.directory.exists()  # for whoever is connecting with it
    assert not torn.exists()
    central.tokens = {new_token()}
    second = store.save(*enrol(central.pairing))
    assert not first.directory.exists()
    (second.directory / "enrolment.json").write_text("{")
    with pytest.raises(IdentityError, match="enrol the box again"):
        store.load()
