"""EST (RFC 7030) as an outside client speaks it: curl and OpenSSL against the gateways' listener."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from central.identity.pairings import PendingBox
from contract.enrolment import CA_PATH, ENROL_PATH, RENEW_PATH, Pairing
from tests.central.app.house import House
from tests.peers_installed import program


class EstClient:
    """An EST client made of two programs that know nothing of this project."""

    def __init__(self, house: House, folder: Path) -> None:
        self.url = house.gateways_url
        self.folder = folder
        folder.mkdir()

    def run(self, *command: str) -> bytes:
        done = subprocess.run(
            [program(command[0]) or command[0], *command[1:]],
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def curl(self, path: str, *options: str) -> int:
        """Status of one request; the body goes to the file `body`."""
        said = self.run(
            "curl", "--silent", "--show-error", "--max-time", "20", "--output", "body",
            "--dump-header", "head", "--write-out", "%{http_code}", *options, self.url + path,
        )  # fmt: skip
        return int(said)

    def request(self, key: str, subject: str) -> None:
        """Key `key`, and its PKCS #10 in base64 DER in `p10`."""
        self.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        self.run(
            "openssl", "req", "-new", "-key", key, "-subj", subject, "-outform", "DER", "-out", "p10.der"
        )
        self.run("openssl", "base64", "-in", "p10.der", "-out", "p10")

    def certificate(self, name: str) -> x509.Certificate:
        """The certificate in `body`, as OpenSSL reads it, kept as `name`."""
        self.run("openssl", "base64", "-d", "-in", "body", "-out", "p7.der")
        self.run("openssl", "pkcs7", "-inform", "DER", "-in", "p7.der", "-print_certs", "-out", name)
        return x509.load_pem_x509_certificate((self.folder / name).read_bytes())

    def fetch_ca(self, pairing: Pairing) -> None:
        assert self.curl(CA_PATH, "--insecure") == 200
        head = (self.folder / "head").read_text().lower()
        assert "content-type: application/pkcs7-mime" in head
        assert "content-transfer-encoding: base64" in head
        pairing.check_ca(self.certificate("ca.pem"))

    def enrol(self, pairing: Pairing) -> int:
        return self.curl(
            ENROL_PATH, "--cacert", "ca.pem", "--user", f"box:{pairing.token}",
            "--header", "Content-Type: application/pkcs10", "--data-binary", "@p10",
        )  # fmt: skip

    def renew(self, key: str, certificate: str) -> int:
        return self.curl(
            RENEW_PATH, "--cacert", "ca.pem", "--key", key, "--cert", certificate,
            "--header", "Content-Type: application/pkcs10", "--data-binary", "@p10",
        )  # fmt: skip


@pytest.fixture
def client(house: House, tmp_path: Path) -> EstClient:
    for name in ("curl", "openssl"):
        if program(name) is None:
            pytest.skip(f"{name} is not installed")
    return EstClient(house, tmp_path / "est")


def test_an_est_client_enrols_and_renews(house: House, client: EstClient) -> None:
    pairing = house.pairing("est box")
    client.fetch_ca(pairing)
    client.request("first.key", "/CN=anything")
    assert client.enrol(pairing) == 200
    assert "smime-type=certs-only" in (client.folder / "head").read_text()
    first = client.certificate("first.pem")
    assert first.subject.rfc4514_string() == "CN=est-box"
    client.run("openssl", "verify", "-CAfile", "ca.pem", "-purpose", "sslclient", "first.pem")
    client.request("second.key", "/CN=est-box")
    assert client.renew("first.key", "first.pem") == 200
    second = client.certificate("second.pem")
    assert second.subject == first.subject
    assert second.serial_number != first.serial_number
    client.request("third.key", "/CN=another")
    assert client.renew("second.key", "second.pem") == 400  # RFC 7030 section 4.2.2: the same subject
    house.revoke("est-box")
    client.request("third.key", "/CN=est-box")
    for name in ("first", "second"):
        assert client.renew(f"{name}.key", f"{name}.pem") == 403


def test_without_a_password_the_server_asks_for_one(house: House, client: EstClient) -> None:
    client.fetch_ca(house.pairing())
    client.request("key", "/CN=x")
    status = client.curl(ENROL_PATH, "--cacert", "ca.pem", "--data-binary", "@p10")
    assert status == 401
    assert "www-authenticate: basic" in (client.folder / "head").read_text().lower()


def test_an_est_client_waits_for_the_administrator(client: EstClient, tmp_path: Path) -> None:
    with House(tmp_path / "strict", gateways={"acceptance": "administrator"}) as strict:
        client.url = strict.gateways_url
        pairing = strict.pairing("slow")
        client.fetch_ca(pairing)
        client.request("key", "/CN=x")
        for _ in range(2):
            assert client.enrol(pairing) == 202
            assert "retry-after: " in (client.folder / "head").read_text().lower()
        (waiting,) = strict.central.foundation.pairings.pending()
        assert isinstance(waiting, PendingBox)
        strict.central.foundation.pairings.decide(waiting.fingerprint, "accepted")
        assert client.enrol(pairing) == 200
        assert client.certificate("own.pem").subject.rfc4514_string() == "CN=slow"
