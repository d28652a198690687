"""What central records leaves as audit messages, from the running program, with the patient that the index knows."""

from __future__ import annotations

from pathlib import Path

import httpx

from central.access.policy import Role
from tests.central.access.house import ORIGIN, PASSWORD, STUDY, pydicom_file
from tests.central.app.house import House
from tests.central.audit.repository import Papers, Repository, until
from tests.central.databases import open_archive_in, open_index, put_in


def test_a_look_is_told_to_the_repository_with_its_patient(tmp_path: Path) -> None:
    papers = Papers(tmp_path / "papers")
    with Repository(papers) as repository:
        section = repository.settings(papers).model_dump(exclude_none=True)
        with House(tmp_path / "central", audit=section) as house:
            db = open_index(tmp_path / "central")
            archive = open_archive_in(tmp_path / "central", db)
            put_in(archive, pydicom_file("CT_small.dcm"), ORIGIN)
            db.close()
            house.central.foundation.accounts.create_user("anna", PASSWORD, Role.RADIOLOGIST)
            with httpx.Client(base_url=house.people_url, timeout=60) as client:
                form = {"username": "anna", "password": PASSWORD}
                token = client.post("/api/auth/token", data=form).json()["access_token"]
                client.headers["Authorization"] = f"Bearer {token}"
                assert client.get(f"/dicom-web/studies/{STUDY}/metadata").status_code == 200

                def looks() -> list[bytes]:
                    return [message for message in repository.messages if STUDY.encode() in message]

                repository.wait_for(lambda: bool(looks()))
                assert b"P1^^^HOSP" in looks()[0]
                assert b'UserID="anna"' in looks()[0]
                assert client.get("/healthz").json()["audit_messages"] == "delivered"
                repository.stop()
                client.get("/dicom-web/studies")
                until(lambda: client.get("/healthz").json()["audit_messages"] == "waiting")
