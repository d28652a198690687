"""A TPM 2.0: makes the box's key, and signs with it. The key is made in there and never comes out.

Debian's tools do the talking (packages tpm2-tools and tpm2-openssl), one short process for each errand, so nothing of
a TPM is held open between two of them, and a fault of theirs is a sentence here. The key's parent is the owner
hierarchy's storage key, which a TPM makes anew, always the same, until it is cleared. What is kept on disk is wrapped
for that parent and of no use anywhere else. Both keys have no password, for who would type it, and stand outside the
TPM's protection against guessing (noDA): inside it each power cut counts as a wrong guess, and after a few of them the
TPM locks the key. No PCR is asked for: a new kernel must not lock out a box with nobody beside it.

Always true: one errand at a time; a key of a TPM is never replaced by one in a file because the TPM fails.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from edge.uplink.box_key import BoxKey
from edge.uplink.der import tss2_private_key
from edge.uplink.errors import KeyLostError, KeyUnavailableError
from edge.uplink.tls_signer import check_possible, show_certificate

RESOURCE_MANAGER: Final = "device:/dev/tpmrm0"
"""TCTI of the kernel's own resource manager."""
_DEVICE: Final = "device:"
_PROGRAMS: Final = ("openssl", "tpm2_createprimary", "tpm2_create", "tpm2_flushcontext")
_ERRAND_S: Final = 30.0
_PROVIDER: Final = ("-provider", "tpm2", "-provider", "default")
_PARENT: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt|noda"
_KEY: Final = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|noda"
_TSS2: Final = "-----BEGIN TSS2 PRIVATE KEY-----"
_PUBLIC: Final = "-----BEGIN PUBLIC KEY-----"
_CODE: Final = re.compile(rb"\(0x([0-9A-Fa-f]{1,8})\)")
_MAX_WORDS: Final = 160

_LOST: Final = (
    "this box's key is in a TPM that does not know it any more: the TPM was cleared, or this disk comes from another "
    "machine. Ask the administrator for a pairing string that replaces this box, and enrol it again"
)
_NOT_NOW: Final[Mapping[int, str]] = {
    0x921: "is locked after wrong passwords of another program; it opens again by itself within a day at the most, "
    "so leave the box switched on",
    0x922: "is busy; this is tried again by itself",
    0x9A2: "has an owner password, and this box does not know it: take it away (in the firmware, clear the TPM) or set "
    'key = "file" under [identity]',
}
"""TPM_RC_LOCKOUT, TPM_RC_RETRY and TPM_RC_BAD_AUTH for session 1 (TPM 2.0 library, part 2, clause 6.6)."""
_INTEGRITY: Final = 0x1DF
"""TPM_RC_INTEGRITY for parameter 1: TPM2_Load does not find its own mark on the wrapped key."""


class Tpm:
    """Thread-safe. `tcti`: how to reach it, as tpm2-tss says it, such as ``device:/dev/tpmrm0``."""

    def __init__(self, tcti: str = RESOURCE_MANAGER) -> None:
        self._tcti = tcti
        self._one_errand = threading.Lock()

    @property
    def is_there(self) -> bool:
        """Whether this machine has the device; what is no device is taken to be there."""
        return not self._tcti.startswith(_DEVICE) or Path(self._tcti.removeprefix(_DEVICE)).exists()

    def why_not(self) -> str:
        """Why no key can be made in it, as far as can be told from outside; "" if one can."""
        path = self._tcti.removeprefix(_DEVICE)
        if not self.is_there:
            return f"this machine has no TPM 2.0 at {path}"
        if self._tcti.startswith(_DEVICE) and not os.access(path, os.R_OK | os.W_OK):
            return f"this program may not use {path}: add its user to the group tss"
        missing = [program for program in _PROGRAMS if shutil.which(program) is None]
        if missing or not _has_provider():
            return "the packages tpm2-tools and tpm2-openssl are not installed"
        try:
            check_possible()
        except OSError as error:
            return str(error)
        return ""

    def make(self) -> TpmKey:
        """A new key. KeyUnavailableError if there can be none, with what to do."""
        why_not = self.why_not()
        if why_not:
            raise KeyUnavailableError(f"no key can be made in the TPM: {why_not}")
        with tempfile.TemporaryDirectory(prefix="dicomnet-tpm-") as folder, self._one_errand:
            parent, public, private, pem = (
                Path(folder, name) for name in ("parent", "public", "private", "pem")
            )
            try:
                hierarchy = ("-Q", "-C", "o", "-g", "sha256", "-G", "ecc256:aes128cfb", "-a", _PARENT)
                self._run(("tpm2_createprimary", *hierarchy, "-c", str(parent)))
                kind = ("-Q", "-C", str(parent), "-g", "sha256", "-G", "ecc256", "-a", _KEY)
                kept = ("-u", str(public), "-r", str(private), "-f", "pem", "-o", str(pem))
                self._run(("tpm2_create", *kind, *kept))
            finally:
                # Without a resource manager what was loaded would stay there, and there is room for three.
                self._run(("tpm2_flushcontext", "-t"), must=False)
            text = tss2_private_key(public.read_bytes(), private.read_bytes()) + pem.read_text("ascii")
        return self.load(text)

    def load(self, text: str) -> TpmKey:
        """The key that `make` gave this text. The TPM is not asked. ValueError if it is none."""
        public = load_pem_public_key(text[text.index(_PUBLIC) :].encode())
        if not isinstance(public, EllipticCurvePublicKey) or not isinstance(public.curve, SECP256R1):
            raise ValueError("this is not a key on P-256")  # noqa: TRY004  # it is the text that is wrong
        return TpmKey(self, public, text)

    def sign_digest(self, text: str, digest: bytes) -> bytes:
        """ECDSA over `digest` (32 bytes) with the key of `text`, as DER."""
        reading, writing = os.pipe()
        try:
            os.write(writing, digest)  # far less than a pipe holds
            os.close(writing)
            command = (
                "openssl",
                "pkeyutl",
                *_PROVIDER,
                "-sign",
                "-inkey",
                "/dev/stdin",
                "-in",
                f"/dev/fd/{reading}",
            )
            with self._one_errand:
                return self._run(command, said=text.encode(), inherited=(reading,))
        finally:
            os.close(reading)

    def _run(
        self, command: Sequence[str], *, said: bytes = b"", inherited: Sequence[int] = (), must: bool = True
    ) -> bytes:
        way = {"TPM2OPENSSL_TCTI": self._tcti, "TPM2TOOLS_TCTI": self._tcti}
        quiet = {"LC_ALL": "C", "TSS2_LOG": "all+NONE,esys+ERROR"}
        try:
            done = subprocess.run(
                command,
                input=said,
                capture_output=True,
                timeout=_ERRAND_S,
                pass_fds=inherited,
                env={**os.environ, **way, **quiet},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KeyUnavailableError(self._sentence("does not answer")) from error
        except OSError as error:
            raise KeyUnavailableError(
                self._sentence(f"cannot be used: {command[0]}: {error.strerror}")
            ) from error
        if done.returncode and must:
            raise self._fault(done.stderr)
        return done.stdout

    def _fault(self, words: bytes) -> KeyLostError | KeyUnavailableError:
        """What a tool's last words mean; their response codes are those of the TPM itself."""
        codes = {int(code, 16) for code in _CODE.findall(words)}
        if _INTEGRITY in codes:
            return KeyLostError(_LOST)
        for code, sentence in _NOT_NOW.items():
            if code in codes:
                return KeyUnavailableError(self._sentence(sentence))
        text = " ".join(words.decode("utf-8", "replace").split())
        return KeyUnavailableError(self._sentence(f"fails: {text[:_MAX_WORDS] or 'without a word'}"))

    def _sentence(self, what: str) -> str:
        return f"the TPM of this box ({self._tcti}), in which its key is, {what}"


class TpmKey(BoxKey):
    """`text`: the key as its TPM has wrapped it, and its public half."""

    place = "tpm"

    def __init__(self, tpm: Tpm, public_key: EllipticCurvePublicKey, text: str) -> None:
        super().__init__(public_key, text)
        self._tpm = tpm

    def sign(self, message: bytes) -> bytes:
        return self._sign_digest(hashlib.sha256(message).digest())

    def show_in(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        show_certificate(context, certificate, self.public_key(), self._sign_digest)

    def _sign_digest(self, digest: bytes) -> bytes:
        return self._tpm.sign_digest(self.text, digest)


def is_tpm_key(text: str) -> bool:
    return text.startswith(_TSS2)


def _has_provider() -> bool:
    """Whether the system's OpenSSL has the provider for TPMs beside it."""
    said = subprocess.run(("openssl", "version", "-m"), capture_output=True, text=True, check=False)
    found = re.search(r'"(.*)"', said.stdout)
    return found is not None and Path(found[1], "tpm2.so").exists()
