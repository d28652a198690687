"""A small, real central for tests of the box: TLS with its own CA, tus, unsealing, signed receipts, faults on order.

It does the honest thing unless told otherwise: `fault(...)` queues one misbehaviour for the next request of a
method, and a few attributes change how it answers for good.
"""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from contract.enrolment import (
    CA_PATH,
    ENROL_PATH,
    INTRODUCTION_PATH,
    RENEW_PATH,
    BrokerAddress,
    EnrolmentAnswer,
    Introduction,
    Pairing,
    ca_fingerprint,
    decode_request,
    encode_certificates,
    new_token,
)
from contract.identifiers import ObjectId
from contract.key_set import KeySet, SealingKeyEntry, sign_key_set
from contract.receipt import Outcome, Receipt, sign_receipt
from contract.receipt_check import RECEIPT_CHECK_PATH, ReceiptCheck, ReceiptCheckAnswer
from contract.receipt_keys import RECEIPT_KEYS_PATH
from contract.sealed_object import Content, SealedObjectError, read_sealed
from contract.sealing import RecipientPrivateKey, Unwrapper
from contract.signed_time import SignedTime, sign_time
from contract.standing import STANDING_PATH, StandingAnswer, StandingReport
from contract.transfer import PROBLEM_CONTENT_TYPE, RECEIPT_HEADER, TIME_PATH, UPLOADS_PATH, Problem
from tests.ports import free_base_port


class TestAuthority:
    """A CA that signs whatever a test asks for."""

    __test__ = False

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = (
            _builder(name, name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def server_files(self, directory: Path, name: str = "server") -> tuple[Path, Path]:
        """Certificate and key of a server on 127.0.0.1, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        certificate = (
            _builder(subject, self.certificate.subject, key.public_key())
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        certificate_path, key_path = directory / f"{name}.pem", directory / f"{name}.key"
        certificate_path.write_bytes(certificate.public_bytes(Encoding.PEM))
        key_path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate_path, key_path

    def client_pem(
        self, public_key: ec.EllipticCurvePublicKey, common_name: str, *, life: timedelta = timedelta(days=60)
    ) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            _builder(subject, self.certificate.subject, public_key, life)
            .add_extension(usage, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM).decode()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    life: timedelta = timedelta(days=60),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + life)
    )


@dataclass
class Fault:
    """One misbehaviour: what to do when the next request of `method` arrives, at an address that begins with `path`."""

    method: str
    act: Callable[[ScriptedHandler], None]
    path: str = ""


@dataclass
class ScriptedCentral:
    directory: Path
    gateway_id: str = "gw-test"
    central_id: str = "central-test"
    broker: BrokerAddress | None = None
    port: int = 0
    revoked: bool = False
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, Upload-Offset sent (or -1)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    archived: dict[str, Content] = field(default_factory=dict)
    doubled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = TestAuthority()
        self.sealing_key = RecipientPrivateKey.generate()
        self.receipt_key = Ed25519PrivateKey.generate()
        self.root_key = Ed25519PrivateKey.generate()
        self.sealing_keys = [self.sealing_key]
        self.key_set_version = 1
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.certificate_life = timedelta(days=60)
        self.pending = False
        self.reports: list[StandingReport] = []
        self.seen_twice = False
        self.tokens = {new_token()}
        self.make_receipt: Callable[[str, Content], str] = self.honest_receipt
        self.answer_check: Callable[[ReceiptCheck], bytes] = self.honest_check
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> ScriptedCentral:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.authority.server_files(self.directory))
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        handler = type("Handler", (ScriptedHandler,), {"central": self})
        # Not a port of the kernel's choice: it may lend that to a client while this central is away.
        server = _Server(("127.0.0.1", self.port or free_base_port(1)), handler)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = server.server_address[1]
        self._server = server
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Go away; what is archived stays, so that `start` comes back as the same central."""
        if self._server is not None:
            self._server.shutdown()
            self._server.hang_up()
            self._server.server_close()
            self._server = None

    @property
    def pairing(self) -> Pairing:
        fingerprint = ca_fingerprint(self.authority.certificate)
        return Pairing("127.0.0.1", self.port, fingerprint, next(iter(self.tokens), new_token()))

    def answer_for(self, public_key: ec.EllipticCurvePublicKey, **certificate: timedelta) -> EnrolmentAnswer:
        return EnrolmentAnswer(
            gateway_id=self.gateway_id,
            certificate_pem=self.authority.client_pem(public_key, self.gateway_id, **certificate),
            ca_pem=self.authority.pem,
            **self.introduction().model_dump(),
        )

    def introduction(self) -> Introduction:
        return Introduction(
            central_id=self.central_id,
            receipt_keys=[base64.b64encode(self.receipt_key.public_key().public_bytes_raw()).decode()],
            root_key=base64.b64encode(self.root_key.public_key().public_bytes_raw()).decode(),
            key_set=self.key_set(),
            broker=self.broker,
        )

    def rotate(self) -> RecipientPrivateKey:
        """A new sealing key, in the next key set."""
        self.sealing_keys.append(RecipientPrivateKey.generate())
        self.key_set_version += 1
        return self.sealing_keys[-1]

    def key_set(self) -> str:
        entries = [
            SealingKeyEntry(
                key_id=key.public_key().key_id.hex(),
                created_at_utc=datetime(2026, 1, 1, tzinfo=UTC),
                public_key=base64.b64encode(key.public_key().raw).decode(),
            )
            for key in self.sealing_keys
        ]
        issued = datetime(2026, 1, 1, tzinfo=UTC)
        made = KeySet(
            central_id=self.central_id,
            version=self.key_set_version,
            issued_at_utc=issued,
            keys=tuple(entries),
        )
        return sign_key_set(made, self.root_key)

    def honest_receipt(self, object_id: str, content: Content, /, **changes: object) -> str:
        fields: dict[str, object] = {
            "central_id": self.central_id,
            "gateway_id": self.gateway_id,
            "object_id": object_id,
            "sha256": content.sha256,
            "size_bytes": content.size_bytes,
            "stored_bytes": self.lengths[object_id],
            "outcome": Outcome.ARCHIVED,
            "archived_at_utc": datetime.now(UTC),
        }
        return sign_receipt(Receipt.model_validate(fields | changes), self.receipt_key)

    def honest_check(self, asked: ReceiptCheck) -> bytes:
        unknown = [one.object_id for one in asked.receipts if one.object_id not in self.archived]
        return ReceiptCheckAnswer(unknown=tuple(unknown)).model_dump_json().encode()

    def fault(
        self, method: str, act: Callable[[ScriptedHandler], None], times: int = 1, path: str = ""
    ) -> None:
        with self.lock:
            self.faults += [Fault(method, act, path)] * times

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float = 60) -> bool:
        """Block until something arrived that makes `predicate` true."""
        with self.changed:
            return self.changed.wait_for(predicate, timeout_s)

    def complete(self, object_id: str) -> str | None:
        """Unseal and archive a complete upload; None if it does not verify (and then it is dropped)."""
        opened: Content | None = None
        try:
            source = io.BytesIO(bytes(self.uploads[object_id]))
            unwrap = Unwrapper({key.public_key().key_id: key for key in self.sealing_keys})
            for piece in read_sealed(source, unwrap, expected_object_id=ObjectId(object_id)):
                if isinstance(piece, Content):
                    opened = piece
        except SealedObjectError:
            del self.uploads[object_id], self.lengths[object_id]
            return None
        assert opened is not None
        if object_id in self.archived:
            self.doubled.append(object_id)
        self.archived[object_id] = opened
        return self.make_receipt(object_id, opened)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._open: set[socket.socket] = set()

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def hang_up(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: object) -> None:
        """Cut lines are the point of these tests; their tracebacks are not."""


class ScriptedHandler(BaseHTTPRequestHandler):
    """One request; what a fault gets in hand."""

    central: ScriptedCentral
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_HEAD = do_PATCH = do_GET

    def body(self, at_most: int | None = None) -> bytes:
        length = int(self.headers.get("Content-Length", 0))
        return self.rfile.read(length if at_most is None else min(length, at_most))

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def problem(self, status: int, problem: Problem, detail: str = "scripted") -> None:
        body = json.dumps({"type": problem, "title": problem.name, "status": status, "detail": detail})
        self.reply(status, body.encode(), Content_Type=PROBLEM_CONTENT_TYPE)

    def cut(self) -> None:
        """Drop the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        central = self.central
        with central.changed:
            central.log.append((self.command, self.path, int(self.headers.get("Upload-Offset", -1))))
            act = None
            for fault in central.faults:
                meant = fault.method == self.command and self.path.startswith(fault.path)
                if meant and not (self.command == "HEAD" and not self.known()):
                    act = fault.act
                    central.faults.remove(fault)
                    break
            central.changed.notify_all()
        if act is not None:
            act(self)
        elif self.path == CA_PATH:
            self.reply(200, encode_certificates([central.authority.certificate]))
        elif self.path == INTRODUCTION_PATH:
            self._introduce()
        elif self.path == ENROL_PATH:
            self._enrol()
        elif self.path == RENEW_PATH:
            self._renew()
        elif self.path == RECEIPT_KEYS_PATH:
            self.reply(204)
        elif self.path.startswith(TIME_PATH + "?nonce="):
            nonce = self.path.rpartition("=")[2]
            said = SignedTime(central_id=central.central_id, nonce=nonce, at_utc=central.now())
            self.reply(200, sign_time(said, central.receipt_key).encode())
        elif self.path == STANDING_PATH:
            self._exchange()
        elif self.path == RECEIPT_CHECK_PATH:
            self._check_receipts()
        else:
            self.honest()
        with central.changed:
            central.changed.notify_all()

    def known(self) -> bool:
        return self.path.rpartition("/")[2] in self.central.lengths

    def _token(self) -> str:
        _, _, encoded = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(encoded).decode().partition(":")[2]

    def _certified(self) -> bool:
        good = not self.central.revoked and bool(self.connection.getpeercert())  # type: ignore[attr-defined]
        if not good:
            self.problem(403, Problem.CERTIFICATE)
        return good

    def _introduce(self) -> None:
        central = self.central
        if not self.headers.get("Authorization"):
            if not self._certified():
                return
        elif self._token() not in central.tokens:
            self.problem(403, Problem.PAIRING)
            return
        self.reply(200, central.introduction().model_dump_json().encode())

    def _enrol(self) -> None:
        token, body = self._token(), self.body()
        if token not in self.central.tokens:
            self.problem(403, Problem.PAIRING)
        elif self.central.pending:
            self.reply(202, Retry_After="1")
        else:
            self.central.tokens.discard(token)
            self._certify(body)

    def _renew(self) -> None:
        body = self.body()
        if self._certified():
            self._certify(body)

    def _certify(self, body: bytes) -> None:
        public_key = decode_request(body).public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        answer = self.central.answer_for(public_key, life=self.central.certificate_life)
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
        self.reply(200, encode_certificates([certificate]))

    def _exchange(self) -> None:
        central, body = self.central, self.body()
        if self._certified():
            with central.changed:
                central.reports.append(StandingReport.model_validate_json(body))
            answer = StandingAnswer(
                key_set=central.key_set(), ticket=new_token(), seen_twice=central.seen_twice
            )
            self.reply(200, answer.model_dump_json().encode())

    def _check_receipts(self) -> None:
        central, asked = self.central, ReceiptCheck.model_validate_json(self.body())
        if self._certified():
            self.reply(200, central.answer_check(asked))

    def honest(self) -> None:
        """Serve an upload request as contract.transfer says."""
        central = self.central
        body = self.body()
        if central.revoked or not self.connection.getpeercert():  # type: ignore[attr-defined]
            self.problem(403, Problem.CERTIFICATE)
            return
        with central.lock:
            if self.path == UPLOADS_PATH:
                _, encoded = self.headers["Upload-Metadata"].split(" ")
                object_id = base64.b64decode(encoded).decode()
                if object_id not in central.lengths:
                    central.lengths[object_id] = int(self.headers["Upload-Length"])
                    central.uploads[object_id] = bytearray(body)
                self._progress(201, object_id)
                return
            object_id = self.path.rpartition("/")[2]
            if object_id not in central.lengths:
                self.problem(404, Problem.NO_SUCH_UPLOAD)
            elif self.command == "HEAD":
                self._progress(200, object_id)
            elif int(self.headers["Upload-Offset"]) != len(central.uploads[object_id]):
                self.problem(409, Problem.OFFSET_MISMATCH)
            else:
                central.uploads[object_id] += body
                self._progress(204, object_id)

    def _progress(self, status: int, object_id: str) -> None:
        central = self.central
        headers = {"Upload_Offset": str(len(central.uploads[object_id])), "Tus_Resumable": "1.0.0"}
        headers["Upload_Length"] = str(central.lengths[object_id])
        if len(central.uploads[object_id]) == central.lengths[object_id]:
            if object_id in central.archived:
                headers[RECEIPT_HEADER.replace("-", "_")] = central.make_receipt(
                    object_id, central.archived[object_id]
                )
            else:
                receipt = central.complete(object_id)
                if receipt is None:
                    self.problem(422, Problem.TAMPERED)
                    return
                headers[RECEIPT_HEADER.replace("-", "_")] = receipt
        self.reply(status, **headers)
