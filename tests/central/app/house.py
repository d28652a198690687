"""A whole central in this process, on free loopback ports, and a box that talks to it over real TLS."""

from __future__ import annotations

import asyncio
import base64
import io
import ssl
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

import argon2
import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from central.access.hashes import SecretHashes
from central.access.policy import Action, Principal, Role, Scope, authorize, scope_of
from central.app import Central
from central.archive.query import StudyQuery
from central.archive.rows import InstanceRow
from central.audit.reading import Wanted
from central.config import Settings
from central.identity.sealing_keys import ROOT_KEY, read_root
from contract.enrolment import (
    CA_PATH,
    ENROL_PATH,
    INTRODUCTION_PATH,
    PKCS10_TYPE,
    EnrolmentAnswer,
    Introduction,
    Pairing,
    decode_certificates,
    encode_request,
)
from contract.identifiers import ObjectId, new_object_id
from contract.key_set import verify_key_set
from contract.receipt import Receipt, receipt_key_id, verify_receipt
from contract.receipt_keys import ReceiptKeyList, sign_receipt_keys
from contract.sealed_object import Aead, Codec, SealedObjectWriter
from contract.sealing import DataKey
from contract.transfer import PATCH_CONTENT_TYPE, RECEIPT_HEADER, TUS_VERSION, UPLOADS_PATH
from tests.central.databases import open_archive_in, open_index, storage_keys
from tests.ports import free_base_port

START_S = 60
RADIOLOGIST = Principal("r", "radiologist", Role.RADIOLOGIST)


class House:
    """Central on a folder; may be stopped and started again on it."""

    def __init__(self, root: Path, **sections: dict[str, Any]) -> None:
        self.root = root
        sections.setdefault("people", {})["port"] = 0
        # Boxes find it there again in its next life.
        sections.setdefault("gateways", {}).setdefault("port", free_base_port(1))
        sections["gateways"].setdefault("acceptance", "pairing-string")  # what else is tested asks for it
        sections.setdefault("dicom", {}).setdefault("enabled", False)  # its shutdown takes half a second
        sections.setdefault("storage", {}).update({**storage_keys(root), "reserve_bytes": 0})
        self.settings = Settings.model_validate(sections)
        self.central: Central
        self._thread: threading.Thread | None = None

    def start(self) -> House:
        accepting = threading.Event()
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with ExitStack() as closing:
                    # What passwords cost is tested elsewhere; it is most of a start.
                    with mock.patch.object(
                        SecretHashes.__init__, "__defaults__", (argon2.profiles.CHEAPEST,)
                    ):
                        self.central = Central.open(self.settings, closing)
                    asyncio.run(self._serve(accepting))
            except BaseException as error:
                failed.append(error)
                accepting.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert accepting.wait(START_S)
        if failed:
            self._thread.join()
            raise failed[0]
        return self

    async def _serve(self, accepting: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.central.serve(self._stop, accepting.set)

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_S)
            assert not self._thread.is_alive()
            self._thread = None

    def __enter__(self) -> House:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def people_url(self) -> str:
        return f"http://127.0.0.1:{self.central.people.port}"

    @property
    def gateways_url(self) -> str:
        return f"https://127.0.0.1:{self.central.gateways.port}"

    def pairing(self, name: str = "", *, replaces: str | None = None) -> Pairing:
        foundation = self.central.foundation
        ticket = foundation.pairings.new_pairing(name, replaces=replaces)
        assert ticket is not None
        port = self.central.gateways.port
        return Pairing("127.0.0.1", port, foundation.identity.ca_fingerprint, ticket.token)

    def revoke(self, gateway_id: str) -> None:
        assert self.central.foundation.gateways.revoke(gateway_id)

    def refusals(self) -> list[tuple[str, str]]:
        """(action, detail) of every refusal on record, oldest first."""
        rows = self.central.foundation.audit.newest(Wanted(), limit=100)
        events = [row.event for row in reversed(rows)]
        return [(event.action, event.detail) for event in events if event.outcome == "refused"]


def rotate_receipts(house: House, *, lead: timedelta) -> ReceiptKeyList:
    """As `dicomnet-central keys rotate-receipts` does beside a running central."""
    identity = house.central.foundation.identity
    with identity.sealing_keys.changing():
        return identity.receipt_keys.publish(_by_root(house, identity.receipt_keys.rotated(lead)))


def retire_receipts(house: House, key_id: str) -> ReceiptKeyList:
    """As `dicomnet-central keys retire-receipts` does."""
    identity = house.central.foundation.identity
    with identity.sealing_keys.changing():
        return identity.receipt_keys.publish(_by_root(house, identity.receipt_keys.retired(key_id)))


def _by_root(house: House, offered: ReceiptKeyList) -> str:
    root = read_root(house.settings.storage.keys_folder / ROOT_KEY)
    assert root is not None
    return sign_receipt_keys(offered, root)


@dataclass
class Box:
    """An enrolled gateway, as far as central can tell."""

    url: str
    answer: EnrolmentAnswer
    key: ec.EllipticCurvePrivateKey
    folder: Path
    data_key: DataKey = field(init=False)
    _tls: ssl.SSLContext = field(init=False)

    def __post_init__(self) -> None:
        # Once: threads that each wrote the key's file would read each other's half of it.
        self._tls = client_tls(self.answer.ca_pem, self.folder, self.answer.certificate_pem, self.key)
        root = Ed25519PublicKey.from_public_bytes(base64.b64decode(self.answer.root_key))
        self.data_key = DataKey.generate((verify_key_set(self.answer.key_set, root).newest.recipient(),))

    @property
    def gateway_id(self) -> str:
        return self.answer.gateway_id

    def tls(self) -> ssl.SSLContext:
        return self._tls

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, verify=self.tls(), headers={"Tus-Resumable": TUS_VERSION}, timeout=30
        )

    def seal(self, content: bytes, codec: Codec = Codec.ZSTD) -> tuple[ObjectId, bytes]:
        object_id, out = new_object_id(), io.BytesIO()
        writer = SealedObjectWriter(out, object_id, self.data_key, Aead.AES_256_GCM, codec)
        writer.write(content)
        writer.finish()
        return object_id, out.getvalue()

    def receipt(self, response: httpx.Response) -> Receipt:
        keys = [Ed25519PublicKey.from_public_bytes(base64.b64decode(raw)) for raw in self.answer.receipt_keys]
        return verify_receipt(response.headers[RECEIPT_HEADER], {receipt_key_id(key): key for key in keys})

    def deliver(self, content: bytes) -> Receipt:
        """Seal and upload in one request."""
        object_id, sealed = self.seal(content)
        with self.client() as client:
            response = create(client, object_id, len(sealed), sealed)
        assert response.status_code == 201, response.text
        return self.receipt(response)


def create(client: httpx.Client, object_id: str, length: int, body: bytes = b"") -> httpx.Response:
    headers = {
        "Upload-Length": str(length),
        "Upload-Metadata": f"object_id {base64.b64encode(object_id.encode()).decode()}",
        "Content-Type": PATCH_CONTENT_TYPE,
    }
    return client.post(UPLOADS_PATH, headers=headers, content=body)


def patch(client: httpx.Client, object_id: str, offset: int, body: bytes) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": PATCH_CONTENT_TYPE}
    return client.patch(f"{UPLOADS_PATH}/{object_id}", headers=headers, content=body)


def head(client: httpx.Client, object_id: str) -> httpx.Response:
    return client.head(f"{UPLOADS_PATH}/{object_id}")


def new_key_and_request(common_name: str = "whatever") -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A key, and the body of a request for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, encode_request(request)


def client_tls(
    ca_pem: str,
    folder: Path | None = None,
    certificate_pem: str = "",
    key: ec.EllipticCurvePrivateKey | None = None,
) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca_pem)
    if folder is not None and key is not None:
        pem = folder / f"client-{threading.get_ident()}.pem"  # threads may ask at once
        pem.write_bytes(
            certificate_pem.encode()
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context.load_cert_chain(pem)
    return context


def fetch_ca(url: str, pairing: Pairing) -> str:
    """The CA, trusted because it fits the pin."""
    (certificate,) = decode_certificates(httpx.get(url + CA_PATH, verify=False).content)
    pairing.check_ca(certificate)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def ask_to_enrol(url: str, ca_pem: str, token: str, request: bytes) -> httpx.Response:
    return httpx.post(
        url + ENROL_PATH,
        content=request,
        auth=("pairing", token),
        headers={"Content-Type": PKCS10_TYPE},
        verify=client_tls(ca_pem),
    )


def introduce(url: str, ca_pem: str, token: str) -> Introduction:
    answer = httpx.get(url + INTRODUCTION_PATH, auth=("pairing", token), verify=client_tls(ca_pem))
    assert answer.status_code == 200, answer.text
    return Introduction.model_validate_json(answer.content)


def enrol(house: House, folder: Path, name: str = "") -> Box:
    """A new box, enrolled as a real one does it."""
    folder.mkdir(parents=True, exist_ok=True)
    pairing = house.pairing(name)
    key, request = new_key_and_request()
    ca_pem = fetch_ca(house.gateways_url, pairing)
    introduction = introduce(house.gateways_url, ca_pem, pairing.token)
    response = ask_to_enrol(house.gateways_url, ca_pem, pairing.token, request)
    assert response.status_code == 200, response.text
    return Box(house.gateways_url, answer_of(introduction, response, ca_pem), key, folder)


def answer_of(introduction: Introduction, response: httpx.Response, ca_pem: str) -> EnrolmentAnswer:
    """What a box keeps of both answers."""
    (certificate,) = decode_certificates(response.content)
    return EnrolmentAnswer(
        **introduction.model_dump(),
        gateway_id=str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        ca_pem=ca_pem,
    )


@dataclass(frozen=True)
class Found:
    """What a radiologist can read, straight from a house's folder."""

    row: InstanceRow
    content: bytes


def everything_in(root: Path) -> list[Found]:
    db = open_index(root)
    try:
        return [found for study in _studies(db, root) for found in study]
    finally:
        db.close()


def _studies(db: Any, root: Path) -> Sequence[Sequence[Found]]:
    archive = open_archive_in(root, db)
    scope: Scope = scope_of(RADIOLOGIST, Action.VIEW)
    found: list[list[Found]] = []
    for study in archive.reading.find_studies(scope, StudyQuery(limit=None)):
        facts = archive.reading.facts(study.study_instance_uid)
        assert facts is not None
        grant: Any = authorize(RADIOLOGIST, Action.VIEW, facts)
        found.append(
            [
                Found(
                    row,
                    archive.reading.open_instance(
                        grant, row.series.series_instance_uid, row.sop_instance_uid
                    ).path.read_bytes(),
                )
                for row in archive.reading.instances_of(grant)
            ]
        )
    return found


Poll = Callable[[], bool]
