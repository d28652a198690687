"""A TLS client certificate whose key is elsewhere: OpenSSL asks here for the one signature of a handshake.

Python's `ssl` takes private keys from files only. So the public half is given to the very OpenSSL that `ssl` uses,
with a method of its own for signing (EC_KEY_METHOD), and the socket says in whose name its handshake is made. Looked
at and left out: the provider for TPMs inside this process. Debian 12's has no locks and keeps a key loaded for each
context, of which a TPM holds three; and it answers for hashes and random numbers, too, if one lets it.

Always true: no handshake signs with a key other than its context's; a signature that cannot be had ends the handshake
with the reason.
"""

from __future__ import annotations

import _ssl
import ctypes
import os
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.uplink.errors import KeyLostError, KeyUnavailableError

SignDigest = Callable[[bytes], bytes]
"""ECDSA over the digest it is given, as DER; raises KeyLostError or KeyUnavailableError."""

_Sign = ctypes.CFUNCTYPE(
    ctypes.c_int,  # 1: signed
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_ubyte),  # the digest
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_ubyte),  # room for the signature, ECDSA_size() bytes
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)
_POINTERS: Final = (
    "EC_KEY_OpenSSL",
    "EC_KEY_METHOD_new",
    "EC_KEY_METHOD_set_sign",
    "d2i_EC_PUBKEY",
    "EC_KEY_set_method",
    "EC_KEY_free",
    "EVP_PKEY_new",
    "EVP_PKEY_set1_EC_KEY",
    "EVP_PKEY_free",
    "SSL_CTX_use_certificate_chain_file",
    "SSL_CTX_use_PrivateKey",
)
"""What is called, and answers a pointer, or an int that is looked at as one: 0 is a failure of either."""
_MAX_SIGNATURE_BYTES: Final = 72
"""ECDSA_size() of P-256."""


class SigningFailedError(ssl.SSLError):
    """This box's key did not sign, so there was no handshake. `__cause__` says why, and whether it may work later."""

    def __init__(self, fault: KeyLostError | KeyUnavailableError) -> None:
        super().__init__(1, str(fault))
        self.fault = fault


@dataclass
class _Errand:
    """One handshake of this thread."""

    sign: SignDigest
    fault: KeyLostError | KeyUnavailableError | None = None


class _Here(threading.local):
    errand: _Errand | None = None


_here = _Here()


def show_certificate(
    context: ssl.SSLContext, certificate: Path, public_key: EllipticCurvePublicKey, sign: SignDigest
) -> None:
    """Make `context` show the certificate in that file, with `sign` in place of a private key.

    For sockets that make their own handshake (`wrap_socket`); others find no key.

    Raises
    ------
    ssl.SSLError : there is no such file, or the certificate in it is for another key.
    OSError : this Python's OpenSSL cannot be reached.
    """
    library = _library()
    address = _address(context)
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    start = ctypes.c_char_p(spki)
    ec_key = library.d2i_EC_PUBKEY(None, ctypes.byref(start), ctypes.c_long(len(spki)))
    key = library.EVP_PKEY_new()
    try:
        taken = (
            library.EC_KEY_set_method(ctypes.c_void_p(ec_key), _method())
            and library.EVP_PKEY_set1_EC_KEY(ctypes.c_void_p(key), ctypes.c_void_p(ec_key))
            and library.SSL_CTX_use_certificate_chain_file(address, os.fsencode(certificate))
            and library.SSL_CTX_use_PrivateKey(address, ctypes.c_void_p(key))
        )
    finally:  # the context holds its own reference
        library.EVP_PKEY_free(ctypes.c_void_p(key))
        library.EC_KEY_free(ctypes.c_void_p(ec_key))
    if not taken:
        raise ssl.SSLError(1, f"{certificate} cannot be used with this box's key")
    base = context.sslsocket_class

    def do_handshake(connection: ssl.SSLSocket, block: bool = False) -> None:
        errand = _here.errand = _Errand(sign)
        try:
            base.do_handshake(connection, block)
        except ssl.SSLError:
            if errand.fault is not None:
                raise SigningFailedError(errand.fault) from errand.fault
            raise
        finally:
            _here.errand = None

    context.sslsocket_class = type("SigningSocket", (base,), {"do_handshake": do_handshake})


def check_possible() -> None:
    """OSError if this Python's OpenSSL cannot be told to sign elsewhere: it is not the system's."""
    _method()


@cache
def _library() -> ctypes.CDLL:
    """OpenSSL as `ssl` has it, found through that module's own file."""
    try:
        library = ctypes.CDLL(_ssl.__file__)
        for name in _POINTERS:
            getattr(library, name).restype = ctypes.c_void_p
        library.SSL_CTX_get_options.restype = ctypes.c_uint64
    except AttributeError as error:
        raise OSError(f"the OpenSSL of this Python does not let a TPM sign: {error}") from error
    return library


@cache
def _method() -> ctypes.c_void_p:
    """OpenSSL's own way with EC keys, but for signing. It lives as long as the process, as its callback does."""
    library = _library()
    method = ctypes.c_void_p(library.EC_KEY_METHOD_new(ctypes.c_void_p(library.EC_KEY_OpenSSL())))
    library.EC_KEY_METHOD_set_sign(method, _CALLBACK, None, None)
    return method


def _sign_here(
    _type: int,
    digest: ctypes._Pointer[ctypes.c_ubyte],
    digest_bytes: int,
    out: ctypes._Pointer[ctypes.c_ubyte],
    out_bytes: ctypes._Pointer[ctypes.c_uint],
    _kinv: int,
    _r: int,
    _key: int,
) -> int:
    errand = _here.errand
    if errand is None:
        return 0
    try:
        signature = errand.sign(bytes(digest[:digest_bytes]))
    except (KeyLostError, KeyUnavailableError) as fault:
        errand.fault = fault
        return 0
    if len(signature) > _MAX_SIGNATURE_BYTES:
        return 0
    ctypes.memmove(out, signature, len(signature))
    out_bytes[0] = len(signature)
    return 1


_CALLBACK: Final = _Sign(_sign_here)
"""For as long as the process: OpenSSL keeps its address."""


def _address(context: ssl.SSLContext) -> ctypes.c_void_p:
    """Where OpenSSL's SSL_CTX is: the first member of the object behind its header, in every CPython there is."""
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    if _library().SSL_CTX_get_options(pointer) != int(context.options) & 0xFFFFFFFFFFFFFFFF:
        raise OSError("this Python keeps its TLS contexts in another way than this program knows")
    return pointer
