"""What somebody proves besides the password: a code of an authenticator app, or a recovery code.

What is always true
-------------------
- An app counts once a code of it has been shown; until then the password alone does, and nothing is asked for.
- A code is taken once: the step of the last one is kept, and only a later one counts. A recovery code goes when used.
- An app's secret is sealed under a key that is not in the database, for its owner; a recovery code is kept as its hash.
- `look` does the same work whether there is an app or not; only `admit`, after the right password, changes anything.
- After `MAX_WRONG_CODES` wrong codes with the right password, in a row, codes of the app count no more until a recovery
  code was right or an administrator has reset them: the throttle alone would let somebody who has the password guess
  for a year.

What a crash leaves: whole rows; the count of wrong codes begins anew. A code that was taken for nothing may be lost.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import peewee
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from central.access import totp
from central.access.errors import FactorChangeError, SecondFactorError
from central.access.hashes import derive, digest
from central.access.passkeys import Passkey
from central.access.policy import Principal, Role
from central.database import Database, make_tables, put

MAX_WRONG_CODES: Final = 100
RECOVERY_CODES: Final = 10
ENROLMENT_LIFE_S: Final = 900
_RECOVERY_CHARACTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # 32, without those that look alike
_RECOVERY_LENGTH: Final = 16  # 80 bits: a hash of it cannot be tried out
_NONCE_BYTES: Final = 12
_MAX_CODE_CHARACTERS: Final = 64
_NOBODY: Final = ""


class AppSecret(peewee.Model):
    """Table ``app_secret``: of each user one that counts (`confirmed`), or one that waits for its first code."""

    user_id = peewee.CharField()
    confirmed = peewee.BooleanField()
    sealed = peewee.BlobField()
    made_at_utc = peewee.BigIntegerField()
    last_step = peewee.BigIntegerField()

    class Meta:
        table_name = "app_secret"
        primary_key = peewee.CompositeKey("user_id", "confirmed")


class RecoveryCode(peewee.Model):
    """Table ``recovery_code``: those that have not been used."""

    code_sha256 = peewee.CharField(primary_key=True)
    user_id = peewee.CharField(index=True)

    class Meta:
        table_name = "recovery_code"


@dataclass(frozen=True)
class Held:
    """What somebody has set up."""

    app: bool
    recovery_codes: int
    passkeys: int

    def __str__(self) -> str:
        parts = ["app"] if self.app else []
        parts += [f"passkeys: {self.passkeys}"] if self.passkeys else []
        return ", ".join(parts)


@dataclass(frozen=True)
class Offered:
    """What a code is worth, before anybody has looked at the password. `step`: of the app; `recovery`: its hash."""

    held: Held
    step: int | None
    recovery: str | None


class SecondFactors:
    """Second factors in `db`; safe to call from every thread.

    Parameters
    ----------
    key : secret, and the same for as long as central is; not in the database.
    required_of : roles that reach nothing without one.
    clock : gives UTC seconds since 1970.
    """

    def __init__(
        self, db: Database, key: bytes, required_of: frozenset[Role], clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._seal = AESGCM(derive(key, "app secrets"))
        self._required_of = required_of
        self._clock = clock
        self._lock = threading.Lock()
        self._wrong_codes: dict[str, int] = {}  # of accounts with an app, so bounded by their number

    @classmethod
    def open(
        cls, db: Database, key: bytes, required_of: frozenset[Role], clock: Callable[[], float]
    ) -> SecondFactors:
        """Make the tables that are missing."""
        make_tables(db, [AppSecret, RecoveryCode, Passkey])
        return cls(db, key, required_of, clock)

    def held(self, user_id: str) -> Held:
        """What this user has set up."""
        codes = RecoveryCode.select().where(RecoveryCode.user_id == user_id).count(self._db)
        passkeys = Passkey.select().where(Passkey.user_id == user_id).count(self._db)
        return Held(self._row(user_id, confirmed=True) is not None, codes, passkeys)

    def has_any(self, user_id: str) -> bool:
        """Whether this user has set up an app or a passkey."""
        if self._row(user_id, confirmed=True) is not None:
            return True
        return bool(Passkey.select().where(Passkey.user_id == user_id).count(self._db))

    def is_required_of(self, role: Role) -> bool:
        return role in self._required_of

    # At the door ---------------------------------------------------------------------------------------------

    def look(self, user_id: str | None, code: str) -> Offered:
        """What `code` is worth to this user; None for somebody unknown, who costs what others cost."""
        whose = user_id if user_id is not None else _NOBODY
        row = self._row(whose, confirmed=True)
        secret = self._opened(whose, row.sealed) if row is not None else bytes(totp.SECRET_BYTES)
        typed = "".join(code[:_MAX_CODE_CHARACTERS].split()).replace("-", "").lower()
        step = totp.step_of(secret or b"", typed, self._clock(), row.last_step if row is not None else 0)
        hashed = _recovery_hash(whose, typed)
        known = RecoveryCode.select().where(
            (RecoveryCode.code_sha256 == hashed) & (RecoveryCode.user_id == whose)
        )
        return Offered(
            self.held(whose),
            step if row is not None and secret else None,
            hashed if known.count(self._db) else None,
        )

    def admit(self, principal: Principal, offered: Offered) -> str:
        """Take the code of somebody whose password was right; says by what they came in.

        Raises
        ------
        SecondFactorError : it is wrong or was used, or this role needs a passkey that was not shown. From outside this
            must look like a wrong password.
        """
        user_id = principal.user_id
        if not offered.held.app:
            if offered.held.passkeys and self.is_required_of(principal.role):
                raise SecondFactorError("the right password alone, where a passkey is needed")
            return "password"
        with self._lock:
            exhausted = self._wrong_codes.get(user_id, 0) >= MAX_WRONG_CODES
        if offered.recovery is not None and self._use_recovery(user_id, offered.recovery):
            means = "password and recovery code"
        elif offered.step is not None and not exhausted and self._use_step(user_id, offered.step):
            means = "password and code"
        else:
            with self._lock:
                self._wrong_codes[user_id] = self._wrong_codes.get(user_id, 0) + 1
            why = "; codes of the app count no more: reset them" if exhausted else ""
            raise SecondFactorError(f"the right password with a wrong code{why}")
        self._forget_wrong(user_id)
        return means

    def _use_step(self, user_id: str, step: int) -> bool:
        later = (AppSecret.user_id == user_id) & AppSecret.confirmed & (AppSecret.last_step < step)
        return int(AppSecret.update(last_step=step).where(later).execute(self._db)) == 1

    def _use_recovery(self, user_id: str, hashed: str) -> bool:
        this = (RecoveryCode.code_sha256 == hashed) & (RecoveryCode.user_id == user_id)
        return int(RecoveryCode.delete().where(this).execute(self._db)) == 1

    # At home -------------------------------------------------------------------------------------------------

    def begin_app(self, user_id: str) -> bytes:
        """A secret for an authenticator app, which counts once `confirm_app` has seen a code of it.

        Raises
        ------
        FactorChangeError : there is an app already.
        """
        secret = secrets.token_bytes(totp.SECRET_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        with self._db.writing():
            if self._row(user_id, confirmed=True) is not None:
                raise FactorChangeError("an authenticator app is set up already: remove it first")
            row = {
                "user_id": user_id,
                "confirmed": False,
                "sealed": nonce + self._seal.encrypt(nonce, secret, user_id.encode()),
                "made_at_utc": int(self._clock()),
                "last_step": 0,
            }
            put(self._db, AppSecret, row)
        return secret

    def confirm_app(self, user_id: str, code: str) -> list[str]:
        """The app counts from now on; gives the recovery codes, which are told this once.

        Raises
        ------
        FactorChangeError : nothing waits for a code, or not any more, or the code is wrong.
        """
        with self._db.writing():
            row = self._row(user_id, confirmed=False)
            if row is None or self._clock() - row.made_at_utc > ENROLMENT_LIFE_S:
                raise FactorChangeError("begin anew: the key has been shown for too long")
            secret = self._opened(user_id, row.sealed)
            step = totp.step_of(secret, "".join(code.split()), self._clock()) if secret else None
            if step is None:
                raise FactorChangeError("that is not the code the app shows now; is the clock right?")
            here = AppSecret.user_id == user_id
            AppSecret.update(confirmed=True, last_step=step).where(here).execute(self._db)
            self._forget_wrong(user_id)
            return self._new_recovery_codes(user_id)

    def renew_recovery_codes(self, user_id: str) -> list[str]:
        """New ones instead of all old ones; told this once. FactorChangeError: there is no app that they are for."""
        with self._db.writing():
            if self._row(user_id, confirmed=True) is None:
                raise FactorChangeError("recovery codes are for who has an authenticator app")
            return self._new_recovery_codes(user_id)

    def remove_app(self, user_id: str) -> None:
        """The app and its recovery codes count no more."""
        with self._db.writing():
            AppSecret.delete().where(AppSecret.user_id == user_id).execute(self._db)
            RecoveryCode.delete().where(RecoveryCode.user_id == user_id).execute(self._db)
        self._forget_wrong(user_id)

    def reset(self, user_id: str) -> None:
        """Nothing of this user counts any more but the password: app, recovery codes and passkeys are gone."""
        with self._db.writing():
            self.remove_app(user_id)
            Passkey.delete().where(Passkey.user_id == user_id).execute(self._db)

    def _new_recovery_codes(self, user_id: str) -> list[str]:
        codes = [
            "".join(secrets.choice(_RECOVERY_CHARACTERS) for _ in range(_RECOVERY_LENGTH))
            for _ in range(RECOVERY_CODES)
        ]
        RecoveryCode.delete().where(RecoveryCode.user_id == user_id).execute(self._db)
        rows = [{"code_sha256": _recovery_hash(user_id, code), "user_id": user_id} for code in codes]
        RecoveryCode.insert_many(rows).execute(self._db)
        return ["-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in codes]

    def _forget_wrong(self, user_id: str) -> None:
        with self._lock:
            self._wrong_codes.pop(user_id, None)

    def _row(self, user_id: str, *, confirmed: bool) -> AppSecret | None:
        query = AppSecret.select().where((AppSecret.user_id == user_id) & (AppSecret.confirmed == confirmed))
        return next(iter(query.execute(self._db)), None)

    def _opened(self, user_id: str, sealed: bytes) -> bytes | None:
        """None if it was sealed under another key: a database beside the wrong keys."""
        raw = bytes(sealed)
        try:
            return self._seal.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], user_id.encode())
        except InvalidTag:
            return None


def _recovery_hash(user_id: str, code: str) -> str:
    return digest(f"{user_id}\0{code}")
