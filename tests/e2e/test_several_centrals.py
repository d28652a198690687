"""Four central processes on one PostgreSQL and one bucket; one is killed while boxes send. Nothing lost or doubled.

And two that share what arrives: each goes on with an upload that the other began.
"""

from __future__ import annotations

import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from central.access.policy import Role
from central.archive.settings import StorageSettings
from central.config import Settings
from central.foundation import Foundation
from contract.enrolment import Pairing
from contract.receipt import Outcome
from contract.transfer import PATCH_CONTENT_TYPE, UPLOADS_PATH
from tests.central.app.house import (
    Box,
    answer_of,
    ask_to_enrol,
    create,
    fetch_ca,
    head,
    introduce,
    new_key_and_request,
    patch,
)
from tests.central.app.program import CentralProcess
from tests.postgres import postgres_server
from tests.seaweed import s3_server

pytestmark = pytest.mark.needs("postgresql")

CENTRALS, SENDERS, OBJECTS = 4, 4, 25
PASSWORD = "correct horse battery"


@dataclass
class Cluster:
    storage: dict[str, Any]
    folder: Path

    def root(self, number: int) -> dict[str, Any]:
        return {**self.storage, "root": str(self.folder / f"central-{number}")}

    def foundation(self) -> Foundation:
        settings = Settings(storage=StorageSettings.model_validate(self.root(0)))
        return Foundation.open(settings)

    def central(self, number: int, arriving: Path | None = None) -> CentralProcess:
        s3 = self.storage["s3"]
        config = self.folder / f"central-{number}.toml"
        config.write_text(
            '[people]\nport = 0\n[gateways]\nport = 0\nacceptance = "pairing-string"\n[dicom]\nenabled = false\n'
            f'[storage]\nroot = "{self.root(number)["root"]}"\nkeys = "{self.storage["keys"]}"\n'
            + (f'arriving = "{arriving}"\n' if arriving is not None else "")
            + f'database = "{self.storage["database"]}"\nreserve_bytes = 0\n[storage.s3]\n'
            + "".join(f'{name} = "{value}"\n' for name, value in s3.items())
        )
        return CentralProcess(config)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with postgres_server() as postgres, s3_server() as s3:
        yield Cluster(
            {
                "keys": str(tmp_path / "keys"),
                "database": postgres.database("central"),
                "s3": {"endpoint": s3.endpoint, "credentials": str(s3.credentials)},
            },
            tmp_path,
        )


def enrol(foundation: Foundation, url: str, folder: Path) -> Box:
    ticket = foundation.pairings.new_pairing(folder.name)
    assert ticket is not None
    folder.mkdir()
    key, request = new_key_and_request()
    port = int(url.rpartition(":")[2])
    ca_pem = fetch_ca(url, Pairing("127.0.0.1", port, foundation.identity.ca_fingerprint, ticket.token))
    introduction = introduce(url, ca_pem, ticket.token)
    response = ask_to_enrol(url, ca_pem, ticket.token, request)
    assert response.status_code == 200, response.text
    return Box(url, answer_of(introduction, response, ca_pem), key, folder)


def images(count: int) -> dict[str, bytes]:
    """Small CT images of one study, by SOP Instance UID; all of one length, so the UIDs are too."""
    path = get_testdata_file("CT_small.dcm", download=False)
    assert path is not None
    plain = Path(str(path)).read_bytes()
    old = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    assert old in plain
    made = {}
    for _ in range(count):
        uid = generate_uid(prefix=None)[: len(old)].ljust(len(old), "1")
        made[uid] = plain.replace(old, uid.encode())
    return made


def sops(client: httpx.Client) -> list[str]:
    answer = client.get("/dicom-web/instances", params={"limit": 1000})
    answer.raise_for_status()
    return [item["00080018"]["Value"][0] for item in answer.json()]


def test_four_centrals_of_which_one_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    foundation = cluster.foundation()
    foundation.accounts.create_user("rad", PASSWORD, Role.RADIOLOGIST)
    with ExitStack() as running:
        centrals = [running.enter_context(cluster.central(number)) for number in range(CENTRALS)]
        boxes = [
            enrol(foundation, centrals[at % CENTRALS].gateways_url, tmp_path / f"box{at}")
            for at in range(SENDERS)
        ]
        contents = [images(OBJECTS) for _ in boxes]
        killed = threading.Event()
        sent = threading.Semaphore(0)
        failed: list[BaseException] = []
        receipts: list[tuple[str, Outcome]] = []

        def send(box: Box, mine: dict[str, bytes], seed: int) -> None:
            chance = random.Random(seed)
            try:
                for uid, content in mine.items():
                    object_id, sealed = box.seal(content)
                    while True:  # as a box does: again, to whichever central answers
                        box.url = chance.choice(centrals).gateways_url
                        try:
                            with box.client() as client:
                                answer = create(client, object_id, len(sealed), sealed)
                        except httpx.TransportError:
                            assert killed.is_set()
                            continue
                        assert answer.status_code == 201, answer.text
                        receipts.append((uid, box.receipt(answer).outcome))
                        break
                    sent.release()
            except BaseException as error:
                failed.append(error)
                sent.release()

        threads = [
            threading.Thread(target=send, args=(box, mine, at))
            for at, (box, mine) in enumerate(zip(boxes, contents, strict=True))
        ]
        for thread in threads:
            thread.start()
        for _ in range(SENDERS * OBJECTS // 3):
            assert sent.acquire(timeout=120)
        killed.set()
        centrals[1].stop(signal.SIGKILL)
        for thread in threads:
            thread.join(150)
        assert failed == []

        wanted = sorted(uid for mine in contents for uid in mine)
        assert sorted(uid for uid, _ in receipts) == wanted
        for central in (centrals[0], centrals[2], centrals[3]):
            with httpx.Client(base_url=central.people_url, timeout=60, trust_env=False) as client:
                token = client.post(
                    "/api/auth/token",
                    data={"grant_type": "password", "username": "rad", "password": PASSWORD},
                )
                client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
                assert sorted(sops(client)) == wanted  # each once
                uid, content = next(iter(contents[0].items()))
                row = client.get("/dicom-web/instances", params={"SOPInstanceUID": uid}).json()[0]
                study, series = (row[tag]["Value"][0] for tag in ("0020000D", "0020000E"))
                answer = client.get(
                    f"/dicom-web/studies/{study}/series/{series}/instances/{uid}",
                    headers={"Accept": "application/dicom; transfer-syntax=*"},
                )
                assert answer.content == content
    verdict = foundation.audit.verify()
    assert verdict.problems == []
    assert verdict.records > 0
    foundation.close()


def test_an_upload_that_one_began_goes_on_at_another(cluster: Cluster, tmp_path: Path) -> None:
    """The box comes back at another process, while the first still waits for the rest of its request."""
    foundation, arriving = cluster.foundation(), tmp_path / "arriving"
    (content,) = images(1).values()
    with cluster.central(0, arriving) as first, cluster.central(1, arriving) as other:
        box = enrol(foundation, first.gateways_url, tmp_path / "box")
        object_id, sealed = box.seal(content)
        port = int(first.gateways_url.rpartition(":")[2])
        with (
            box.client() as client,
            socket.create_connection(("127.0.0.1", port)) as raw,
            box.tls().wrap_socket(raw, server_hostname="127.0.0.1") as hanging,
        ):
            assert create(client, object_id, len(sealed), sealed[:1000]).status_code == 201
            hanging.sendall(
                f"PATCH {UPLOADS_PATH}/{object_id} HTTP/1.1\r\nHost: x\r\nTus-Resumable: 1.0.0\r\n"
                f"Upload-Offset: 1000\r\nContent-Type: {PATCH_CONTENT_TYPE}\r\n"
                f"Content-Length: {len(sealed) - 1000}\r\n\r\n".encode()
                + sealed[1000:3000]
            )
            box.url, offset = other.gateways_url, 0
            with box.client() as newcomer:
                while offset < 3000:  # until the hanging request has its turn, which the next HEAD takes over
                    offset = int(head(newcomer, object_id).headers["Upload-Offset"])
                done = patch(newcomer, object_id, offset, sealed[offset:])
            assert (offset, box.receipt(done).outcome) == (3000, Outcome.ARCHIVED)
    assert list(arriving.rglob("*.part")) == list(arriving.rglob("turns/*/*")) == []
    foundation.close()
