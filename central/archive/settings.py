"""``[storage]``: what is kept, and where."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import Field, field_validator

from central.hosts import is_loopback
from contract.settings import Section


class S3Settings(Section):
    endpoint: str = Field(
        default="", description="URL of an S3-compatible object store; empty: objects lie in root"
    )
    bucket: str = Field(default="dicomnet", description="bucket, which must be there already")
    prefix: str = Field(default="objects/", description="what the names of our objects begin with")
    region: str = Field(default="us-east-1", description="region that requests are signed for")
    credentials: Path = Field(
        default=Path("/etc/dicomnet/s3-credentials"),
        description="file with [default], aws_access_key_id and aws_secret_access_key; mode 0600",
    )
    cache_bytes: int = Field(
        default=20 << 30, ge=0, description="bytes of objects used last that are kept below root"
    )

    @field_validator("endpoint")
    @classmethod
    def _closed(cls, value: str) -> str:
        if not value:
            return value
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
            raise ValueError("an endpoint is https://HOST or https://HOST:PORT, without a user or password")
        if url.scheme == "http" and not is_loopback(url.hostname):
            raise ValueError("images do not travel in clear: use https://")
        return value


class StorageSettings(Section):
    root: Path = Field(
        default=Path("/var/lib/dicomnet-central"),
        description="folder of the index, the audit record, the objects and the keys; made at first start",
    )
    keys: Path | None = Field(
        default=None,
        description="folder of the keys; empty: keys in root. Processes on one database share it",
    )
    arriving: Path | None = Field(
        default=None,
        description="folder of uploads that have begun; empty: in root. Processes on one database may share it, on "
        "storage that knows locks: then each goes on with what another began",
    )
    database: str = Field(
        default="",
        description="PostgreSQL for index and audit, such as postgresql://dicomnet@db/dicomnet; empty: SQLite in root",
    )
    database_connections: int = Field(
        default=16, ge=2, le=200, description="connections to that PostgreSQL, at most"
    )
    s3: S3Settings = Field(
        default=S3Settings.model_validate({}), description="Objects on S3 instead of files in root."
    )
    encrypt: bool = Field(
        default=False,
        description="encrypt objects that come from now on, a key a study; back up the keys at once",
    )
    renditions_bytes: int = Field(
        default=20 << 30,
        ge=0,
        description="bytes of ready-made metadata and pictures that are kept, those used last; 0: none are kept",
    )
    reserve_bytes: int = Field(
        default=2 << 30, ge=0, description="bytes of the disk that stay free: uploads are put off below that"
    )
    scrub_bytes_per_s: int = Field(
        default=20 << 20,
        ge=0,
        description="pace at which objects are read and compared with their hashes; 0: never",
    )
    scrub_days: int = Field(
        default=30, ge=1, description="days from the end of one such pass to the next one's start"
    )

    @property
    def keys_folder(self) -> Path:
        return self.keys or self.root / "keys"

    @property
    def arriving_folder(self) -> Path:
        return self.arriving or self.root

    @property
    def uploads_folder(self) -> Path:
        return self.arriving_folder / "uploads"

    @property
    def packs_folder(self) -> Path:
        return self.arriving_folder / "packs"

    @property
    def support_folder(self) -> Path:
        return self.root / "support"

    @field_validator("database")
    @classmethod
    def _no_password(cls, value: str) -> str:
        try:
            named = conninfo_to_dict(value)
        except psycopg.ProgrammingError as error:
            raise ValueError(f"not a PostgreSQL connection string: {error}") from error
        if "password" in named:
            raise ValueError(
                "a password does not belong into settings: put it into a password file "
                "(PGPASSFILE, or ~/.pgpass of central's user), mode 0600"
            )
        return value
