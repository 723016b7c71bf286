"""Signed claims: JSON Web Tokens with ES256 and nothing else (RFC 7515, 7518 section 3.4, 7519).

The algorithm is not a choice, a key is found by its id among our own or not at all, and whatever
else a header brings (`jwk`, `x5c`, `jku`, `crit`) is refused: those are how verifiers were misled.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )

_LIMIT = 16 << 10  # characters of a token
_HEADER = frozenset({"typ", "alg", "kid"})
_SKEW_S = 5.0  # clocks of two nodes


class InvalidToken(ValueError):
    """A token that proves nothing; the text says why."""


def encode(text: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def sign(claims: Mapping[str, Any], key: EllipticCurvePrivateKey, kid: str) -> str:
    """A token with the claims, signed."""
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    header = {"typ": "JWT", "alg": "ES256", "kid": kid}
    signed = ".".join(encode(_json(part)) for part in (header, claims))
    r, s = decode_dss_signature(key.sign(signed.encode(), ECDSA(SHA256())))
    return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def verify(
    token: str,
    keys: Mapping[str, EllipticCurvePublicKey],
    *,
    issuer: str,
    audience: str,
    now: float,
    longest_s: float,
) -> dict[str, Any]:
    """The claims of a token that one of `keys` signed for us. Raises InvalidToken, also for one
    that would be valid longer than `longest_s`: we sign no such thing, who has our key might.
    """
    if len(token) > _LIMIT or token.count(".") != 2:
        raise InvalidToken("not a token")
    signed, _, signature = token.rpartition(".")
    head, _, body = signed.partition(".")
    key = keys.get(_kid(_object(head)))
    if key is None:
        raise InvalidToken("signed by an unknown key")
    _check_signature(key, signed, _bytes(signature))
    claims = _object(body)
    _check_claims(claims, issuer, audience, now)
    if claims["exp"] - claims["iat"] > longest_s:
        raise InvalidToken("valid for too long")
    return claims


def public_jwk(key: EllipticCurvePublicKey) -> dict[str, str]:
    """The key as a member of a JWK set (RFC 7517, 7518 section 6.2); `kid` is RFC 7638's."""
    numbers = key.public_numbers()
    jwk = {
        "crv": "P-256",
        "kty": "EC",
        "x": encode(numbers.x.to_bytes(32, "big")),
        "y": encode(numbers.y.to_bytes(32, "big")),
    }
    kid = encode(hashlib.sha256(_json(jwk)).digest())
    return {**jwk, "kid": kid, "alg": "ES256", "use": "sig"}


def _kid(header: dict[str, Any]) -> str:
    if header.get("alg") != "ES256" or header.get("typ", "JWT") != "JWT":
        raise InvalidToken("not signed with ES256")
    if not header.keys() <= _HEADER:
        raise InvalidToken("the header has members that are not accepted")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise InvalidToken("the header names no key")
    return kid


def _check_signature(key: EllipticCurvePublicKey, signed: str, signature: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA256

    if len(signature) != 64:
        raise InvalidToken("the signature has another length")
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    try:
        key.verify(encode_dss_signature(r, s), signed.encode(), ECDSA(SHA256()))
    except InvalidSignature:
        raise InvalidToken("the signature is wrong") from None


def _check_claims(claims: dict[str, Any], issuer: str, audience: str, now: float) -> None:
    if claims.get("iss") != issuer:
        raise InvalidToken("another issuer")
    heard = claims.get("aud")
    if audience not in (heard if isinstance(heard, list) else [heard]):
        raise InvalidToken("meant for another service")
    expires, begins, issued = (_time(claims, name) for name in ("exp", "nbf", "iat"))
    if now >= expires:
        raise InvalidToken("expired")
    if max(begins, issued) > now + _SKEW_S:
        raise InvalidToken("not valid yet")
    if not isinstance(claims.get("sub"), str) or not isinstance(claims.get("access"), list):
        raise InvalidToken("no subject or no access")


def _time(claims: dict[str, Any], name: str) -> float:
    found = claims.get(name)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not isfinite(found):
        raise InvalidToken(f"no time in {name}")
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(_bytes(text))
    except (ValueError, RecursionError):
        raise InvalidToken("not JSON") from None
    if not isinstance(found, dict):
        raise InvalidToken("not an object")
    return found


def _bytes(text: str) -> bytes:
    """Only the canonical form is taken, so that one token has one text."""
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken("not base64url") from None
    if encode(found) != text:
        raise InvalidToken("not base64url")
    return found


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
