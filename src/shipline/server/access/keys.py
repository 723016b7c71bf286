"""Tokens (JWT, ES256 only) and their signing keys.

The algorithm is fixed, keys are found only by their id among our own, and other header parameters
(`jwk`, `x5c`, `jku`, `crit`) are refused: verifiers have been attacked through all of these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from shipline.server.access.section import LONGEST_S
from shipline.server.access.store import AccountStore, AccountsView

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )


_LIMIT = 16 << 10  # characters of a token
_HEADER = frozenset({"typ", "alg", "kid"})
_SKEW_S = 5.0  # clock skew between nodes


class InvalidToken(ValueError):
    """The token is invalid; the message says why."""


def encode(text: bytes) -> str:
    """base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def sign(claims: Mapping[str, Any], key: EllipticCurvePrivateKey, kid: str) -> str:
    """A signed token with these claims."""
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
    """The claims of a token signed by one of `keys` for us. Raises InvalidToken, also for a
    lifetime over `longest_s`: we never issue one, but a stolen key might.
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
    """The key as a JWK (RFC 7517, 7518 section 6.2); `kid` as in RFC 7638."""
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
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise InvalidToken(f"no time in {name}")
    return value


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(text))
    except (ValueError, RecursionError):
        raise InvalidToken("not JSON") from None
    if not isinstance(value, dict):
        raise InvalidToken("not an object")
    return value


def _bytes(text: str) -> bytes:
    """Accepts only the canonical encoding, so that each token has one text."""
    try:
        decoded = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InvalidToken("not base64url") from None
    if encode(decoded) != text:
        raise InvalidToken("not base64url")
    return decoded


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The keys of one view of the accounts; `kid` is the signing key's."""

    records: Mapping[str, bytes]
    kid: str
    signer: EllipticCurvePrivateKey
    public: Mapping[str, EllipticCurvePublicKey]
    retired: Mapping[str, float]  # Unix time in seconds, 0 for the signing key

    def known(self, now: float) -> dict[str, EllipticCurvePublicKey]:
        """The verification keys: the signing key, and retired ones until their tokens have
        expired.
        """
        return {
            kid: key
            for kid, key in self.public.items()
            if not self.retired[kid] or now - self.retired[kid] < LONGEST_S
        }


class Keys:
    """The signing keys of an account store. Safe to use from any thread."""

    def __init__(self, accounts: AccountStore) -> None:
        """Generates the first key if there is none."""
        self._accounts = accounts
        self._lock = threading.Lock()
        if not accounts.view().keys:
            rotate(accounts)
        self._loaded = _load(accounts.view())

    def sign(self, claims: Mapping[str, Any]) -> str:
        loaded = self._current()
        return sign(claims, loaded.signer, loaded.kid)

    def verify(self, token: str, *, issuer: str, audience: str) -> dict[str, Any]:
        """The claims. Raises InvalidToken."""
        now = self._accounts.clock()
        return verify(
            token,
            self._current().known(now),
            issuer=issuer,
            audience=audience,
            now=now,
            longest_s=LONGEST_S,
        )

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JWK set (RFC 7517 section 5)."""
        known = self._current().known(self._accounts.clock())
        return {"keys": [public_jwk(key) for key in known.values()]}

    def _current(self) -> _Loaded:
        view = self._accounts.view()
        if view.keys is not self._loaded.records:
            with self._lock:
                self._loaded = _load(view)
        return self._loaded


def rotate(accounts: AccountStore, *, now: bool = False) -> str:
    """Generate a new signing key; returns its id.

    The public halves of older keys are kept until their tokens have expired; with `now` they are
    deleted, which invalidates those tokens at once.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    kid = public_jwk(key.public_key())["kid"]
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    at = accounts.clock()
    with accounts.change() as changes:
        for old, record in AccountsView.of(accounts.records).keys.items():
            changes[("key", old)] = None if now else _retired(record, at)
        record = json.dumps({"pem": pem, "created": at, "retired": 0}).encode()
        changes[("key", kid)] = record
    return kid


def _retired(record: bytes, at: float) -> bytes | None:
    """The record of a retired key, None once its tokens have expired."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    fields = json.loads(record)
    retired = fields["retired"] or at
    if at - retired >= LONGEST_S:
        return None
    public = _public(fields["pem"])
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return json.dumps({**fields, "pem": pem, "retired": retired}).encode()


def _public(pem: str) -> EllipticCurvePublicKey:
    """The public key, from a stored private or public key."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key(pem.encode()) if "PUBLIC" in pem else _private(pem).public_key()
    if not isinstance(key, EllipticCurvePublicKey):
        raise InvalidToken("a stored key is of the wrong type")
    return key


def _private(pem: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise InvalidToken("a stored key is of the wrong type")
    return key


def _load(view: AccountsView) -> _Loaded:
    stored = {kid: json.loads(record) for kid, record in view.keys.items()}
    signing = [kid for kid, fields in stored.items() if not fields["retired"]]
    if not signing:
        raise InvalidToken("there is no signing key")
    return _Loaded(
        view.keys,
        signing[-1],
        _private(stored[signing[-1]]["pem"]),
        {kid: _public(fields["pem"]) for kid, fields in stored.items()},
        {kid: fields["retired"] for kid, fields in stored.items()},
    )
