"""A handshake that is signed elsewhere, against Python's own TLS server; the key is one that a test can hold."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.uplink.errors import KeyUnavailableError
from edge.uplink.tls_signer import SignDigest, SigningFailedError, show_certificate
from tests.edge.gateway.authority import Authority, Pair


class Server:
    """Wants a certificate of `authority` and answers with the name in it."""

    def __init__(self, authority: Authority, version: ssl.TLSVersion) -> None:
        own = authority.issue("server")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(own.certificate, own.key)
        self._context.load_verify_locations(authority.ca)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.maximum_version = version
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                raw, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(raw,), daemon=True).start()

    def _answer(self, raw: socket.socket) -> None:
        try:
            with self._context.wrap_socket(raw, server_side=True) as secured:
                subject = dict(secured.getpeercert())["subject"]  # type: ignore[arg-type]
                secured.sendall(str(subject[0][0][1]).encode())  # type: ignore[index]
        except OSError:
            raw.close()

    def close(self) -> None:
        self._listening.close()

    def greet(self, context: ssl.SSLContext) -> str:
        with (
            socket.create_connection(("127.0.0.1", self.port), 30) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as secured,
        ):
            return secured.recv(100).decode()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2], ids=["1.3", "1.2"])
def server(authority: Authority, request: pytest.FixtureRequest) -> Iterator[Server]:
    made = Server(authority, request.param)
    yield made
    made.close()


def key_of(pair: Pair) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pair.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def signer(key: ec.EllipticCurvePrivateKey) -> SignDigest:
    return lambda digest: key.sign(digest, ec.ECDSA(utils.Prehashed(SHA256())))


def client(authority: Authority, pair: Pair, sign: SignDigest) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca)
    show_certificate(context, pair.certificate, key_of(pair).public_key(), sign)
    return context


def test_each_handshake_is_signed_with_its_own_contexts_key(authority: Authority, server: Server) -> None:
    pairs = {name: authority.issue(name) for name in ("one", "two")}
    contexts = {name: client(authority, pair, signer(key_of(pair))) for name, pair in pairs.items()}
    asked = ["one", "two"] * 20
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda name: server.greet(contexts[name]), asked)) == asked


def test_a_signature_that_cannot_be_had_says_why_and_the_next_may_be_had(
    authority: Authority, server: Server
) -> None:
    pair = authority.issue("box")
    good = signer(key_of(pair))
    faults = [KeyUnavailableError("the TPM is busy")]

    def sign(digest: bytes) -> bytes:
        if faults:
            raise faults.pop()
        return good(digest)

    context = client(authority, pair, sign)
    with pytest.raises(SigningFailedError, match="the TPM is busy") as failed:
        server.greet(context)
    assert isinstance(failed.value.__cause__, KeyUnavailableError)
    assert server.greet(context) == "box"


def test_a_certificate_for_another_key_is_not_taken(authority: Authority) -> None:
    box, other = authority.issue("box"), authority.issue("other")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ssl.SSLError, match=r"box\.pem cannot be used with this box's key"):
        show_certificate(context, box.certificate, key_of(other).public_key(), signer(key_of(other)))
    missing = box.certificate.with_name("none.pem")
    with pytest.raises(ssl.SSLError, match=r"none\.pem cannot be used"):
        show_certificate(context, missing, key_of(box).public_key(), signer(key_of(box)))
