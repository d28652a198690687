"""The chain that makes a changed audit record show: docs/formats/audit.md, in code.

Each record carries the SHA-256 over the chain value before it and its own canonical form. So a record that is changed,
taken out, put in or moved breaks the chain at its place; whoever computes the rest anew breaks the checkpoints, which
central signs as it goes and which lie outside as soon as somebody has exported them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.signed import SignedError, sign, signing_key_id, verify

GENESIS: Final = hashlib.sha256(b"dicomnet audit chain 1").hexdigest()
FIELDS: Final = (
    "id",
    "at_utc",
    "actor",
    "actor_role",
    "action",
    "outcome",
    "source_address",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "detail",
)
_TYPE: Final = "dicomnet-audit+jws"
_PRUNED_TYPE: Final = "dicomnet-audit-pruned+jws"
_MAX_LENGTH: Final = 4096
_CLOCK_SLACK: Final = timedelta(days=1)
_MAX_PROBLEMS: Final = 20


class Checkpoint(BaseModel):
    """What central vouches for: up to `last_id` the chain ended in `chain`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str
    last_id: int = Field(ge=1)
    chain: str = Field(pattern=r"^[0-9a-f]{64}$")
    at_utc: datetime


class Pruned(BaseModel):
    """What central vouches for: up to `through_id`, where the chain stood at `chain`, records were removed on purpose.

    They were all from before `before_utc`, and are in the export whose SHA-256 this is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    central_id: str
    through_id: int = Field(ge=1)
    chain: str = Field(pattern=r"^[0-9a-f]{64}$")
    before_utc: datetime
    export_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    at_utc: datetime

    def accounts_for(self, checkpoint: Checkpoint) -> bool:
        """Whether what `checkpoint` signed is gone by this removal: not where it is of a time that was to be kept."""
        if checkpoint.last_id == self.through_id:
            return checkpoint.chain == self.chain
        return checkpoint.last_id < self.through_id and checkpoint.at_utc < self.before_utc + _CLOCK_SLACK


@dataclass(frozen=True, repr=False)
class Notary:
    """Signs checkpoints in central's name."""

    central_id: str
    key: Ed25519PrivateKey

    def checkpoint(self, last_id: int, chain: str) -> str:
        """The signed word, a compact JWS."""
        word = Checkpoint(central_id=self.central_id, last_id=last_id, chain=chain, at_utc=datetime.now(UTC))
        return sign(word.model_dump(mode="json"), self.key, typ=_TYPE)

    def pruned(self, through_id: int, chain: str, before_utc: str, export_sha256: str) -> str:
        """The signed word on a removal, a compact JWS."""
        word = Pruned(
            central_id=self.central_id,
            through_id=through_id,
            chain=chain,
            before_utc=datetime.fromisoformat(before_utc),
            export_sha256=export_sha256,
            at_utc=datetime.now(UTC),
        )
        return sign(word.model_dump(mode="json"), self.key, typ=_PRUNED_TYPE)


@dataclass
class Verdict:
    """What a verification found. `problems` are sentences; none means that nothing was changed that is visible here.

    `witnessed`: words of boxes that central's key signed. `remarks`: what boxes show and proves nothing.
    """

    records: int = 0
    checkpoints: int = 0
    last_id: int = 0
    signed_upto_id: int = 0
    pruned: Pruned | None = None
    problems: list[str] = field(default_factory=list)
    witnessed: int = 0
    witnessed_upto_id: int = 0
    remarks: list[str] = field(default_factory=list)


def link(before: str, row: Mapping[str, Any]) -> str:
    """The chain value of `row`, in hex. Its canonical form is a JSON array of `FIELDS` (RFC 8785), in UTF-8."""
    canonical = json.dumps([row[name] for name in FIELDS], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(bytes.fromhex(before) + canonical.encode("utf-8")).hexdigest()


def check(
    rows: Iterable[Mapping[str, Any]],
    checkpoints: Iterable[str],
    public_key: Ed25519PublicKey,
    witnessed: Iterable[tuple[str, str]] = (),
    pruned: Iterable[str] = (),
) -> Verdict:
    """Follow the whole chain, in the order of ids, and compare it with every checkpoint.

    Parameters
    ----------
    rows : with `FIELDS` and ``chain``.
    checkpoints : in the order in which they were made.
    witnessed : who keeps a checkpoint elsewhere, and the checkpoint.
    pruned : words on what was removed, in the order in which they were made; the chain begins behind the last.
    """
    verdict = Verdict()
    testimony = _testimony(witnessed, public_key, verdict)
    words = _read(checkpoints, public_key, verdict)
    due = next(words, None)
    before = _beginning(pruned, public_key, verdict)
    _compare_with_removal(testimony, verdict)
    for row in rows:
        if row["id"] != verdict.last_id + 1:
            _say(verdict, f"records {verdict.last_id + 1} to {row['id'] - 1} are missing")
        if row["chain"] != link(before, row):
            _say(
                verdict, f"record {row['id']} does not continue the chain: it, or one before it, was changed"
            )
        before = row["chain"]
        verdict.last_id = row["id"]
        verdict.records += 1
        for who, word in testimony.pop(row["id"], ()):
            _compare(who, word, before, verdict)
        while due is not None and due.last_id <= verdict.last_id:
            if due.last_id == verdict.last_id and due.chain == before:
                verdict.signed_upto_id = due.last_id
            else:
                _say(
                    verdict,
                    f"the checkpoint of {due.at_utc:%Y-%m-%d %H:%M:%S} UTC signed another record up to {due.last_id}: "
                    "something was changed after it",
                )
            due = next(words, None)
    while due is not None:
        _say(
            verdict,
            f"the checkpoint of {due.at_utc:%Y-%m-%d %H:%M:%S} UTC knows records up to {due.last_id}, "
            f"and {verdict.last_id} is the last: the end was cut off",
        )
        due = next(words, None)
    for last_id in sorted(testimony):
        for who, word in testimony[last_id]:
            _say(
                verdict,
                f"{who} has witnessed records up to {last_id} ({word.at_utc:%Y-%m-%d %H:%M:%S} UTC), and "
                f"{verdict.last_id} is the last: the end was cut off, with its checkpoints",
            )
    return verdict


def _compare(who: str, word: Checkpoint, chain: str, verdict: Verdict) -> None:
    if word.chain == chain:
        verdict.witnessed_upto_id = word.last_id
        return
    _say(
        verdict,
        f"{who} has witnessed another record up to {word.last_id}, which central signed at "
        f"{word.at_utc:%Y-%m-%d %H:%M:%S} UTC: the record was rewritten, with its checkpoints",
    )


def _compare_with_removal(testimony: dict[int, list[tuple[str, Checkpoint]]], verdict: Verdict) -> None:
    """Words on what was removed, which the export alone knows, leave `testimony`."""
    removal = verdict.pruned
    if removal is None:
        return
    for last_id in sorted(last_id for last_id in testimony if last_id <= removal.through_id):
        for who, word in testimony.pop(last_id):
            if removal.accounts_for(word):
                verdict.witnessed_upto_id = last_id
            else:
                _say(
                    verdict,
                    f"{who} has witnessed records up to {last_id} at {word.at_utc:%Y-%m-%d %H:%M:%S} UTC, and those "
                    f"up to {removal.through_id} were removed as if from before {removal.before_utc:%Y-%m-%d}",
                )


def last_pruned(tokens: Iterable[str], public_key: Ed25519PublicKey) -> Pruned | None:
    """What was removed last; words that are not central's do not count."""
    verdict = Verdict()
    _beginning(tokens, public_key, verdict)
    return verdict.pruned


def _beginning(pruned: Iterable[str], public_key: Ed25519PublicKey, verdict: Verdict) -> str:
    """The chain value before the first record that is kept; what it is up to, `verdict` says."""
    keys, before = {signing_key_id(public_key): public_key}, GENESIS
    for token in pruned:
        try:
            payload = verify(token, keys, typ=_PRUNED_TYPE, kind="word of pruning", max_length=_MAX_LENGTH)
            word = Pruned.model_validate_json(payload)
        except (SignedError, ValidationError) as error:
            _say(verdict, f"a word that records were pruned is not central's: {error}")
            continue
        before, verdict.pruned = word.chain, word
    if verdict.pruned is not None:
        verdict.last_id = verdict.signed_upto_id = verdict.pruned.through_id
    return before


def read_checkpoint(token: str, public_key: Ed25519PublicKey) -> Checkpoint | None:
    """What central vouched for; None if `token` is not central's."""
    keys = {signing_key_id(public_key): public_key}
    try:
        payload = verify(token, keys, typ=_TYPE, kind="checkpoint", max_length=_MAX_LENGTH)
        return Checkpoint.model_validate_json(payload)
    except (SignedError, ValidationError):
        return None


def _testimony(
    witnessed: Iterable[tuple[str, str]], public_key: Ed25519PublicKey, verdict: Verdict
) -> dict[int, list[tuple[str, Checkpoint]]]:
    found: dict[int, list[tuple[str, Checkpoint]]] = {}
    for who, token in witnessed:
        word = read_checkpoint(token, public_key)
        if word is not None:
            verdict.witnessed += 1
            found.setdefault(word.last_id, []).append((who, word))
        elif len(verdict.remarks) < _MAX_PROBLEMS:
            verdict.remarks.append(
                f"{who} shows a word that this central's key did not sign; it proves nothing"
            )
    return found


def _read(tokens: Iterable[str], public_key: Ed25519PublicKey, verdict: Verdict) -> Iterator[Checkpoint]:
    keys = {signing_key_id(public_key): public_key}
    for number, token in enumerate(tokens, 1):
        try:
            payload = verify(token, keys, typ=_TYPE, kind="checkpoint", max_length=_MAX_LENGTH)
            word = Checkpoint.model_validate_json(payload)
        except (SignedError, ValidationError) as error:
            _say(verdict, f"checkpoint {number} is not central's: {error}")
            continue
        verdict.checkpoints += 1
        yield word


def _say(verdict: Verdict, problem: str) -> None:
    if len(verdict.problems) < _MAX_PROBLEMS:
        verdict.problems.append(problem)
