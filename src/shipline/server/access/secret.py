"""Secrets as they are kept: never in clear, and compared in constant time.

A password is hashed with scrypt (RFC 7914; N = 2^15, r = 8, p = 1: 32 MiB and about 0.1 s a try). A
secret that a machine made has 32 random bytes, which no table and no search can find again, so one
SHA-256 is enough and a check costs a microsecond.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import threading

from shipline.errors import UsageError

_LOG_N, _R, _P = 15, 8, 1
_MEMORY = 128 * _R * (1 << 18)  # bytes that a kept hash may ask for
_KEPT = re.compile(r"scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)")
_SHORTEST, _LONGEST = 8, 1024  # characters of a password
_AT_ONCE = threading.BoundedSemaphore(2)  # tries at a time: memory and processors are for images


def generate_secret() -> str:
    """32 random bytes as characters that need no quoting, after a mark that scanners can find."""
    return "shp_" + secrets.token_urlsafe(32)


def digest_secret(secret: str) -> str:
    """How a machine's secret is kept."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_secret(secret: str, kept: str) -> bool:
    return hmac.compare_digest(digest_secret(secret), kept)


def check_password(password: str) -> str:
    """The password, if it may become one. Raises UsageError."""
    if not _SHORTEST <= len(password) <= _LONGEST:
        raise UsageError(
            f"a password has {_SHORTEST} to {_LONGEST} characters, this one has {len(password)}"
        )
    return password


def hash_password(password: str) -> str:
    """How a password is kept: its parameters, a salt of its own and the scrypt hash."""
    salt = secrets.token_bytes(16)
    found = _scrypt(password, salt, _LOG_N, _R, _P)
    return f"scrypt${_LOG_N}${_R}${_P}${_text(salt)}${_text(found)}"


def same_password(password: str, kept: str) -> bool:
    """Whether it is the password. Takes as long for a `kept` that nothing can match."""
    match = _KEPT.fullmatch(kept)
    if match is None:
        _scrypt(password, b"nobody", _LOG_N, _R, _P)
        return False
    log_n, r, p = (int(number) for number in match.group(1, 2, 3))
    salt, expected = (base64.b64decode(text) for text in match.group(4, 5))
    return hmac.compare_digest(_scrypt(password, salt, log_n, r, p), expected)


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    with _AT_ONCE:
        return hashlib.scrypt(
            password[: _LONGEST + 1].encode(),
            salt=salt,
            n=1 << log_n,
            r=r,
            p=p,
            maxmem=_MEMORY,
            dklen=32,
        )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
