"""Browsers in which somebody has signed in before: who fails elsewhere does not lock them out.

Why it exists: a throttle by username is a way to keep a doctor out, for whoever knows the name. A browser that shows a
mark of an earlier sign-in has a throttle of its own, so that strangers use up only the one of strangers.

What is always true
-------------------
- A mark is for one account and one password: a new password ends it. It opens nothing, and tells no name.
- Nothing is kept here: a mark is a nonce and what only this house can make of it.
- A copied mark is worth as many tries as its browser has, and no more.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final

from central.access.hashes import derive, digest

LIFE_S: Final = 180 * 86400
MAX_MARKS: Final = 8  # of those who share a browser
_MARK: Final = re.compile(r"[0-9a-f]{64}")
_NONCE_CHARACTERS: Final = 32
_MAX_CHARACTERS: Final = MAX_MARKS * 65


class KnownBrowsers:
    """Marks made with `key`, which is secret and the same for as long as central is."""

    def __init__(self, key: bytes) -> None:
        self._key = derive(key, "known browsers")

    def name_of(self, shown: str, account: str) -> str:
        """What the browser that shows this is called by the throttle; "" if `account` has not signed in there.

        Parameters
        ----------
        account : what `Passwords.mark_of` gives; "" is nobody.
        """
        mark = self._mark_of(shown, account)
        return digest(mark) if mark is not None else ""

    def remember(self, shown: str, account: str) -> str:
        """What the browser is to show from now on, since `account` has signed in there."""
        nonce = secrets.token_hex(_NONCE_CHARACTERS // 2)
        mine = self._mark_of(shown, account) or nonce + self._made_of(nonce, account)
        others = [mark for mark in _marks(shown) if mark != mine]
        return ".".join([mine, *others][:MAX_MARKS])

    def _mark_of(self, shown: str, account: str) -> str | None:
        if not account:
            return None
        for mark in _marks(shown):
            nonce, made = mark[:_NONCE_CHARACTERS], mark[_NONCE_CHARACTERS:]
            if hmac.compare_digest(made, self._made_of(nonce, account)):
                return mark
        return None

    def _made_of(self, nonce: str, account: str) -> str:
        made = hmac.new(self._key, f"{nonce}\0{account}".encode(), hashlib.sha256)
        return made.hexdigest()[:_NONCE_CHARACTERS]


def _marks(shown: str) -> list[str]:
    if len(shown) > _MAX_CHARACTERS:
        return []
    return [mark for mark in shown.split(".") if _MARK.fullmatch(mark)]
