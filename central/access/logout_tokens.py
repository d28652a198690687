"""Logout tokens: the provider's word that somebody is signed out there (OpenID Connect Back-Channel Logout 1.0).

What is always true: a token counts when it is signed by a key that the issuer publishes now, for this client, was made
within the last few minutes, is a logout token and no other, and names a session or a person; once, by `Once`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import jwt

from central.access.claims import external_user_id, provider_session_of
from central.access.oidc import LEEWAY_S, Provider, SignOnRefusedError

MAX_AGE_S: Final = 300
_EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
_TYPES: Final = ("logout+jwt", "application/logout+jwt", "jwt")
_MAX_CHARACTERS: Final = 255


@dataclass(frozen=True)
class SignedOut:
    """What a token says. `user_id`: whose sessions end, None: that of `provider_session` alone, whoever's it is.

    `token_id` is the token's own name, which is good until `ends_at_utc` (seconds since 1970).
    """

    user_id: str | None
    provider_session: str
    token_id: str
    ends_at_utc: int


def signed_out(provider: Provider, logout_token: str) -> SignedOut:
    """What `logout_token` says (section 2.6).

    Raises
    ------
    SignOnRefusedError : it does not verify, or is no logout token.
    ProviderAwayError : the provider does not tell its keys.
    """
    issuer = provider.client.issuer
    try:
        header = jwt.get_unverified_header(logout_token)
        key = provider.signing_key(header)
        claims: dict[str, Any] = jwt.decode(
            logout_token,
            key,
            algorithms=[key.algorithm_name],
            audience=provider.client.client_id,
            issuer=issuer,
            leeway=LEEWAY_S,
            options={"require": ["iss", "aud", "iat", "jti", "events"]},
        )
    except jwt.PyJWTError as error:
        raise SignOnRefusedError(f"the logout token does not verify: {error}") from error
    if str(header.get("typ", "jwt")).lower() not in _TYPES:
        raise SignOnRefusedError("the token is of another type than a logout token")
    events = claims["events"]
    if not isinstance(events, dict) or not isinstance(events.get(_EVENT), dict):
        raise SignOnRefusedError("the token tells of no logout")
    if "nonce" in claims:  # an ID token must not pass for a logout token
        raise SignOnRefusedError("a logout token has no nonce")
    made_at_utc = int(claims["iat"])
    if time.time() - made_at_utc > MAX_AGE_S + LEEWAY_S:
        raise SignOnRefusedError("the logout token is too old")
    subject, session = _text(claims, "sub"), _text(claims, "sid")
    if not subject and not session:
        raise SignOnRefusedError("the logout token names neither person nor session")
    return SignedOut(
        user_id=external_user_id(issuer, subject) if subject else None,
        provider_session=provider_session_of(issuer, session),
        token_id=f"logout token\0{issuer}\0{_text(claims, 'jti')}",
        ends_at_utc=made_at_utc + MAX_AGE_S + 2 * LEEWAY_S,
    )


def _text(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
        raise SignOnRefusedError(f"the logout token's {name} is none")
    return value
