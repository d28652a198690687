"""A whole central for outside clients: its own wiring on free ports, with people, a few studies and a peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from central.access.policy import Action
from central.access.sessions import SessionKind
from tests.central.access.house import ORIGIN, OTHER_STUDY, PASSWORD, STUDY, people_in, pydicom_file
from tests.central.app.house import House
from tests.central.databases import open_archive_in, put_in

FILES = ("CT_small.dcm", "emri_small_jpeg_ls_lossless.dcm", "SC_rgb_2frame.dcm", "test-SR.dcm")
"""What `STUDY` has, in series ``1.2.9.<number from 0>`` with one instance each."""


@dataclass(frozen=True)
class Served:
    """A running central and what was put into it."""

    house: House
    contents: dict[str, bytes]  # by SOP Instance UID

    @property
    def url(self) -> str:
        return self.house.people_url

    @property
    def dicom_port(self) -> int:
        dicom = self.house.central.dicom
        assert dicom is not None
        return dicom.port

    def data_sets(self, study: str) -> dict[str, Dataset]:
        """What is archived of a study, by SOP Instance UID."""
        read = {uid: dcmread(BytesIO(content)) for uid, content in self.contents.items()}
        return {uid: ds for uid, ds in read.items() if ds.StudyInstanceUID == study}

    def session(self, username: str, kind: SessionKind = "bearer") -> str:
        """A token as signing in gives it, to a program or to a browser."""
        accounts = self.house.central.foundation.accounts
        admitted = accounts.passwords.verify(username, PASSWORD, "127.0.0.1")
        assert admitted is not None
        return accounts.sessions.start(admitted.principal, kind, 3600)

    def api_token(self, username: str, *actions: Action) -> str:
        """An API token as a person makes it on the portal."""
        doorkeeper = self.house.central.foundation.doorkeeper
        owner = doorkeeper.accounts.passwords.verify(username, PASSWORD, "127.0.0.1")
        assert owner is not None
        return doorkeeper.tokens.make(owner.principal.user_id, "a client", frozenset(actions), 1)[1]


@contextmanager
def central_with_studies(root: Path, **sections: dict[str, Any]) -> Iterator[Served]:
    """Central in `root`, until the block ends; `sections` are its settings."""
    with House(root, **sections) as house:
        people_in(house.central.foundation.accounts)
        archive = open_archive_in(root, house.central.foundation.db)
        contents = {}
        for number, name in enumerate(FILES):
            uid = f"1.2.9.{number}.1"
            contents[uid] = pydicom_file(
                name, SeriesInstanceUID=f"1.2.9.{number}", SOPInstanceUID=uid, SeriesNumber=number
            )
        contents["1.2.8.1.1"] = pydicom_file(
            "MR_small.dcm",
            StudyInstanceUID=OTHER_STUDY,
            SeriesInstanceUID="1.2.8.1",
            SOPInstanceUID="1.2.8.1.1",
            PatientID="P2",
            StudyDate="20250101",
        )
        for content in contents.values():
            put_in(archive, content, ORIGIN)
        yield Served(house, contents)


__all__ = ["FILES", "OTHER_STUDY", "STUDY", "Served", "central_with_studies"]
