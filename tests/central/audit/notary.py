"""A notary for tests, with a key that everybody may know."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.audit.chain import Notary

NOTARY = Notary("central-test", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
