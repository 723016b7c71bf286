"""The keys that sign tokens: made at first start, rotated by an operator, found by their id."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shipline.server.access.directory import Directory, View
from shipline.server.access.jwt import InvalidToken, public_jwk, sign, verify
from shipline.server.access.section import LONGEST_S

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The keys of one view; `kid` is the one that signs."""

    records: Mapping[str, bytes]
    kid: str
    signer: EllipticCurvePrivateKey
    public: Mapping[str, EllipticCurvePublicKey]
    retired: Mapping[str, float]  # Unix time in seconds, 0 for the one that signs

    def known(self, now: float) -> dict[str, EllipticCurvePublicKey]:
        """The keys that verify: the one that signs, and older ones until what they signed ended."""
        return {
            kid: key
            for kid, key in self.public.items()
            if not self.retired[kid] or now - self.retired[kid] < LONGEST_S
        }


class Keys:
    """The signing keys of a directory. Safe to use from any thread."""

    def __init__(self, directory: Directory) -> None:
        """Makes the first key where there is none."""
        self._directory = directory
        self._lock = threading.Lock()
        if not directory.view().keys:
            rotate(directory)
        self._loaded = _load(directory.view())

    def sign(self, claims: Mapping[str, Any]) -> str:
        loaded = self._current()
        return sign(claims, loaded.signer, loaded.kid)

    def verify(self, token: str, *, issuer: str, audience: str) -> dict[str, Any]:
        """The claims. Raises InvalidToken."""
        now = self._directory.clock()
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
        known = self._current().known(self._directory.clock())
        return {"keys": [public_jwk(key) for key in known.values()]}

    def _current(self) -> _Loaded:
        view = self._directory.view()
        if view.keys is not self._loaded.records:
            with self._lock:
                self._loaded = _load(view)
        return self._loaded


def rotate(directory: Directory, *, now: bool = False) -> str:
    """Make a new key that signs from now on; returns its id.

    Of older ones the public half is kept, which verifies what they signed until the longest-lived
    token has ended; with `now` nothing is kept, and what they signed ends at once.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    kid = public_jwk(key.public_key())["kid"]
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    at = directory.clock()
    with directory.change() as changes:
        for old, record in View.of(directory.records).keys.items():
            changes[("key", old)] = None if now else _retired(record, at)
        record = json.dumps({"pem": pem, "created": at, "retired": 0}).encode()
        changes[("key", kid)] = record
    return kid


def _retired(record: bytes, at: float) -> bytes | None:
    """The record of a key that signs no more, None where it verifies nothing any more."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    fields = json.loads(record)
    retired = fields["retired"] or at
    if at - retired >= LONGEST_S:
        return None
    public = _public(fields["pem"])
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return json.dumps({**fields, "pem": pem, "retired": retired}).encode()


def _public(pem: str) -> EllipticCurvePublicKey:
    """The public half of a key that is kept whole, or as that half."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    found = load_pem_public_key(pem.encode()) if "PUBLIC" in pem else _private(pem).public_key()
    if not isinstance(found, EllipticCurvePublicKey):
        raise InvalidToken("a key that is kept is of another kind")
    return found


def _private(pem: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = load_pem_private_key(pem.encode(), None)
    if not isinstance(found, EllipticCurvePrivateKey):
        raise InvalidToken("a key that is kept is of another kind")
    return found


def _load(view: View) -> _Loaded:
    kept = {kid: json.loads(record) for kid, record in view.keys.items()}
    signing = [kid for kid, fields in kept.items() if not fields["retired"]]
    if not signing:
        raise InvalidToken("there is no key that signs")
    return _Loaded(
        view.keys,
        signing[-1],
        _private(kept[signing[-1]]["pem"]),
        {kid: _public(fields["pem"]) for kid, fields in kept.items()},
        {kid: fields["retired"] for kid, fields in kept.items()},
    )
