"""People's accounts: made, changed, blocked; and what ends with each of these.

Why it exists: the rest of central knows a `Principal` and never a password.

What is always true
-------------------
- Every session ends when the password is changed or the account is blocked, also one that is about to begin.
- What holds for somebody besides the account (grants, refusals, …) is not known here.

What a crash leaves: whole rows.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import peewee

from central.access.account_directory import (
    AccountDirectory,
    UserAccount,
    holder_of,
    make_accounts_table,
)
from central.access.api_tokens import ApiToken
from central.access.errors import AccountError, PasskeyRefusedError
from central.access.hashes import SecretHashes
from central.access.passwords import Admitted, Passwords
from central.access.policy import PatientKey, Principal, Role
from central.access.second_factors import SecondFactors
from central.access.sessions import Session, Sessions
from central.database import Database, make_tables
from central.institution import (
    DEFAULT_INSTITUTION,
    WHOLE_CENTRAL,
    InvalidInstitutionError,
    check_institution,
)

MAX_NAMES: Final = 50
_USERNAME: Final = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


class Accounts(AccountDirectory):
    """Accounts in `db`, with their `passwords`, `sessions` and second `factors`; safe to call from every thread."""

    def __init__(
        self, db: Database, clock: Callable[[], float], hashes: SecretHashes, factors: SecondFactors
    ) -> None:
        super().__init__(db, factors)
        self.passwords = Passwords(db, hashes, factors)
        self.sessions = Sessions.open(db, clock)
        self._clock = clock

    @classmethod
    def open(
        cls,
        db: Database,
        factors: SecondFactors,
        clock: Callable[[], float] = time.time,
        hashes: SecretHashes | None = None,
    ) -> Accounts:
        """Make the tables if they are missing. `clock` gives UTC seconds since 1970."""
        with db.writing():
            make_accounts_table(db)
            make_tables(db, [ApiToken])
        return cls(db, clock, hashes or SecretHashes(), factors)

    def create_user(
        self,
        username: str,
        password: str,
        role: Role,
        *,
        referring_physician_names: Sequence[str] = (),
        patient_ids: Sequence[PatientKey] = (),
        institution: str | None = None,
        departments: Sequence[str] = (),
        gateway_ids: Sequence[str] = (),
    ) -> Principal:
        """Make an account. Usernames are folded to lower case.

        Parameters
        ----------
        institution : None is the default one, or for an administrator the whole central.

        Raises
        ------
        AccountError : the username is taken or unusable, the password too short, the role is PEER, or the institution
            or a list cannot be.
        """
        username = username.lower()
        if not _USERNAME.fullmatch(username):
            raise AccountError("a username has 1 to 64 of a-z, 0-9, '.', '_', '@' and '-'")
        if role is Role.PEER:
            raise AccountError("peers are configured under [[dicom.peers]]; they have no account")
        if role is Role.GUEST:
            raise AccountError("guests come by a link to one study; they have no account")
        row = {
            "user_id": uuid.uuid4().hex,
            "username": username,
            "password_hash": self.passwords.hash(password),
            "role": role.value,
            "referring_physician_names": json.dumps(list(referring_physician_names)),
            "patient_ids": json.dumps([list(key) for key in patient_ids]),
            "institution": _institution(role, institution),
            "departments": _json(departments),
            "gateway_ids": _json(gateway_ids),
            "sign_outs": 0,
        }
        try:
            UserAccount.insert(**row).execute(self._db)
        except peewee.IntegrityError as error:
            raise AccountError(f"there is already a user {username}") from error
        return holder_of(row)

    def check_sign_on(self, principal: Principal) -> Principal:
        """`principal` with what is known here of their sign-outs, if `sign_on` may make or change this account.

        Raises
        ------
        AccountError : the account is blocked, or its name is somebody else's.
        """
        mine = UserAccount.user_id == principal.user_id
        query = UserAccount.select().where(mine | (UserAccount.username == principal.username))
        for row in query.dicts().execute(self._db):
            if row["user_id"] != principal.user_id:
                raise AccountError(f"the name {principal.username} belongs to another account")
            if row["blocked_at_utc"] is not None:
                raise AccountError(f"the account {principal.username} is blocked")
            principal = replace(principal, sign_outs=row["sign_outs"])
        return principal

    def sign_on(self, principal: Principal) -> None:
        """Make or renew the account, without a password, of somebody whom a provider vouches for.

        Raises
        ------
        AccountError : as `check_sign_on`.
        """
        departments = {"departments": _json(principal.departments)} if principal.departments else {}
        values = {
            "username": principal.username,
            "role": principal.role.value,
            **departments,  # where the claims say none, an administrator may have
            "referring_physician_names": json.dumps(list(principal.referring_physician_names)),
            "patient_ids": json.dumps([list(key) for key in principal.patient_ids]),
        }
        here = UserAccount.user_id == principal.user_id
        with self._db.writing():
            self.check_sign_on(principal)
            became = here & (UserAccount.role != principal.role.value)
            UserAccount.update(institution=principal.institution).where(became).execute(self._db)
            if not UserAccount.update(**values).where(here).execute(self._db):
                UserAccount.insert(
                    user_id=principal.user_id,
                    password_hash="",
                    institution=principal.institution,
                    **values,
                ).execute(self._db)

    def set_password(self, username: str, password: str, session: Session | None = None) -> None:
        """Change the password and end every session and API token of that user.

        Parameters
        ----------
        session : in which the user does it; None: an administrator does.

        Raises
        ------
        AccountError : no such user, or the password is too short.
        OvertakenError : the session has ended.
        """
        username, password_hash = username.lower(), self.passwords.hash(password)
        with self.sessions.standing(session):
            user_id = self._user_id(username)
            here = (UserAccount.user_id == user_id) & (UserAccount.password_hash != "")
            if not UserAccount.update(password_hash=password_hash).where(here).execute(self._db):
                raise AccountError(f"{username} signs on at the provider and has no password here")
            self._end_all(user_id)

    def block(self, username: str) -> None:
        """Let this account in no more; whatever is signed in as it ends. AccountError: no such user."""
        with self._db.writing():
            user_id = self._user_id(username.lower())
            blocked = UserAccount.update(blocked_at_utc=int(self._clock()))
            blocked.where(UserAccount.user_id == user_id).execute(self._db)
            self._end_all(user_id)

    def unblock(self, username: str) -> None:
        """Let this account in again. AccountError: no such user."""
        user_id = self._user_id(username.lower())
        UserAccount.update(blocked_at_utc=None).where(UserAccount.user_id == user_id).execute(self._db)

    def sign_out(self, username: str) -> None:
        """End every session and API token of that user. AccountError: no such user."""
        with self._db.writing():
            self._end_all(self._user_id(username.lower()))

    def change(
        self,
        username: str,
        *,
        institution: str | None = None,
        departments: Sequence[str] | None = None,
        gateway_ids: Sequence[str] | None = None,
    ) -> None:
        """Change what is not None.

        Raises
        ------
        AccountError : no such user, or the institution or a list cannot be.
        """
        with self._db.writing():
            account = UserAccount.select().where(UserAccount.user_id == self._user_id(username.lower()))
            row = next(iter(account.dicts().execute(self._db)))
            values = {
                "institution": _institution(Role(row["role"]), institution or row["institution"]),
                "departments": row["departments"] if departments is None else _json(departments),
                "gateway_ids": row["gateway_ids"] if gateway_ids is None else _json(gateway_ids),
            }
            UserAccount.update(**values).where(UserAccount.user_id == row["user_id"]).execute(self._db)

    def reset_factors(self, username: str) -> None:
        """Only the password of that user counts, until they set something up anew; every session ends.

        Raises
        ------
        AccountError : no such user.
        """
        with self._db.writing():
            user_id = self._user_id(username.lower())
            self.factors.reset(user_id)
            self.sessions.end_all(user_id)

    def admit_passkey(self, user_id: str) -> Admitted:
        """Who this is, whom a passkey has proved. PasskeyRefusedError: the account is blocked, or its passkeys were
        reset."""
        principal = self.account(user_id)
        if principal is None:
            raise PasskeyRefusedError("the account is blocked", user_id)
        # Asked after the sign-outs were read, of which a reset is one.
        if not self.factors.held(user_id).passkeys:
            raise PasskeyRefusedError("the account has no passkeys any more", user_id)
        return Admitted(principal, "passkey")

    def _end_all(self, user_id: str) -> None:
        self.sessions.end_all(user_id)
        ApiToken.delete().where(ApiToken.user_id == user_id).execute(self._db)


def _institution(role: Role, wanted: str | None) -> str:
    if wanted is None:
        return WHOLE_CENTRAL if role is Role.ADMIN else DEFAULT_INSTITUTION
    if wanted == WHOLE_CENTRAL and role is Role.ADMIN:
        return wanted
    try:
        return check_institution(wanted)
    except InvalidInstitutionError as error:
        raise AccountError(str(error)) from error


def _json(names: Sequence[str]) -> str:
    said = [name.strip() for name in names if name.strip()]
    if len(said) > MAX_NAMES:
        raise AccountError(f"an account has at most {MAX_NAMES} departments and {MAX_NAMES} boxes")
    return json.dumps(said, ensure_ascii=False)
