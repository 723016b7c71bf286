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
    known: Mapping[str, EllipticCurvePublicKey]


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
        known, now = self._current().known, self._directory.clock()
        return verify(token, known, issuer=issuer, audience=audience, now=now)

    def jwks(self) -> dict[str, Any]:
        """The public keys as a JWK set (RFC 7517 section 5)."""
        return {"keys": [public_jwk(key) for key in self._current().known.values()]}

    def _current(self) -> _Loaded:
        view = self._directory.view()
        if view.keys is not self._loaded.records:
            with self._lock:
                self._loaded = _load(view)
        return self._loaded


def rotate(directory: Directory) -> str:
    """Make a new key that signs from now on; returns its id.

    Older ones verify what they signed until the longest-lived token has ended, then they go.
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
    now = directory.clock()
    with directory.change() as changes:
        for old, record in View.of(directory.records).keys.items():
            fields = json.loads(record)
            fields["retired"] = fields["retired"] or now
            ended = now - fields["retired"] > LONGEST_S
            changes[("key", old)] = None if ended else json.dumps(fields).encode()
        record = json.dumps({"pem": pem, "created": now, "retired": 0}).encode()
        changes[("key", kid)] = record
    return kid


def _load(view: View) -> _Loaded:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private: dict[str, EllipticCurvePrivateKey] = {}
    signer = ""
    for kid, record in view.keys.items():
        fields = json.loads(record)
        key = load_pem_private_key(fields["pem"].encode(), None)
        if isinstance(key, EllipticCurvePrivateKey):
            private[kid] = key
            signer = kid if not fields["retired"] else signer
    if not signer:
        raise InvalidToken("there is no key that signs")
    known = {kid: key.public_key() for kid, key in private.items()}
    return _Loaded(view.keys, signer, private[signer], known)
