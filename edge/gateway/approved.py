"""The scanners that a technician approved or refused on this box: one small file in the state directory.

Always true: the file is a complete list, the former or the new one, because it is replaced as a whole. A damaged file
(a bad disk, an editor) is never taken for an empty list, which could open the box to everybody: reading it raises, and
it stays where it is until a technician's next decision, which puts it aside.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, ValidationError

from contract.settings import Section
from edge.buffer.durable_file import replace_file
from edge.gateway.errors import AdmissionError, AdmissionNotSavedError
from edge.gateway.settings import AeTitle, ScannerSettings, plain_address

MAX_SCANNERS: Final = 256
MAX_REFUSED: Final = 256
_MAX_FILE_BYTES: Final = 4 << 20


class RefusedScanner(Section):
    """A caller that a technician turned away, by what it called with and where from."""

    ae_title: AeTitle
    address: Annotated[str, AfterValidator(plain_address)] = Field(max_length=64)
    refused_at_utc: datetime


class Approved(Section):
    """What the file holds."""

    format: Literal["dicomnet-scanners-1"] = "dicomnet-scanners-1"
    scanners: list[ScannerSettings] = Field(default=[], max_length=MAX_SCANNERS)
    refused: list[RefusedScanner] = Field(default=[], max_length=MAX_REFUSED)


class ApprovedFile:
    """The file at `path`. Not safe from several threads; `Admission` holds its lock."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damaged = False

    def load(self) -> Approved:
        """What was saved last, or an empty list if nothing was.

        Raises
        ------
        AdmissionError : the file is there and cannot be used.
        """
        try:
            with self._path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES + 1)
            return Approved.model_validate_json(content)
        except FileNotFoundError:
            return Approved()
        except OSError as error:
            self._damaged = True
            raise AdmissionError(f"{self._path} cannot be read: {error.strerror}") from error
        except ValidationError as error:
            self._damaged = True
            raise AdmissionError(f"{self._path} is damaged") from error

    def save(self, approved: Approved) -> None:
        """Durable when this returns.

        Raises
        ------
        AdmissionNotSavedError : the former content is in place still.
        """
        try:
            if self._damaged:
                self._path.replace(self._path.with_name(f"{self._path.name}.damaged"))
            replace_file(self._path, approved.model_dump_json(indent=1).encode())
        except OSError as error:
            raise AdmissionNotSavedError(
                f"the list of scanners could not be saved in {self._path}: {error.strerror}; nothing was changed"
            ) from error
        self._damaged = False
