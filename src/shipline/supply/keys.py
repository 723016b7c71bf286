"""Keys that create and verify signatures: ECDSA, Ed25519 and RSA, with fixed hash algorithms."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Self

from shipline.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

    PrivateNumbers = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    PublicNumbers = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey

PEM_LIMIT = 64 << 10  # bytes of a key file
_RSA_BITS = range(2048, 8193)
_CURVES = {"secp256r1": "ECDSA P-256", "secp384r1": "ECDSA P-384", "secp521r1": "ECDSA P-521"}


class UnusableKey(ConfigError):
    """A file is no key, or a key that cannot sign or verify."""

    code = "key-unusable"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`der` is the canonical SubjectPublicKeyInfo (RFC 5280, 4.1.2.7); keys are equal if it is.
    `name` is for messages.
    """

    name: str = field(compare=False)
    der: bytes = field(repr=False)

    @classmethod
    def parse(cls, pem: bytes, name: str) -> Self:
        """Read a PEM public key or certificate. Raises ConfigError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if b"PRIVATE KEY-----" in pem:
            raise UnusableKey(
                f"{name} is a private key", hint="use the public key in the file .pub beside it"
            )
        try:
            if b"BEGIN CERTIFICATE" in pem:
                from cryptography.x509 import load_pem_x509_certificate

                return cls.of(load_pem_x509_certificate(pem).public_key(), name)
            return cls.of(load_pem_public_key(pem), name)
        except (ValueError, UnsupportedAlgorithm):
            raise UnusableKey(
                f"{name} is not a public key",
                hint="use a PEM file that begins with -----BEGIN PUBLIC KEY-----",
            ) from None

    @classmethod
    def of(cls, key: object, name: str) -> Self:
        """The public key from a key of `cryptography`. Raises ConfigError for unsupported kinds."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        checked = _supported(key, name)
        return cls(name, checked.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    @property
    def id(self) -> str:
        """SHA-256 of `der`, in hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def hint(self) -> str:
        """The same in base64, as sigstore bundles name keys."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    @property
    def pem(self) -> bytes:
        body = base64.encodebytes(self.der).replace(b"\n", b"")
        lines = [body[at : at + 64] for at in range(0, len(body), 64)]
        ends = (b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----")
        return b"\n".join((ends[0], *lines, ends[1], b""))

    @property
    def algorithm(self) -> str:
        """The algorithm for messages: `ECDSA P-256`, `Ed25519`, `RSA 3072`."""
        from cryptography.hazmat.primitives.asymmetric import ec, rsa

        key = _loaded(self.der)
        if isinstance(key, ec.EllipticCurvePublicKey):
            return _CURVES[key.curve.name]
        return f"RSA {key.key_size}" if isinstance(key, rsa.RSAPublicKey) else "Ed25519"

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether this key signed exactly `message`. ECDSA signatures are in DER, over SHA-256 or
        the hash of the curve's size; RSA is PKCS #1 v1.5 over SHA-256 or SHA-512, as in cosign.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

        key = _loaded(self.der)
        for algorithm in _hashes(key):
            try:
                if isinstance(key, ec.EllipticCurvePublicKey):
                    key.verify(signature, message, ec.ECDSA(algorithm))
                elif isinstance(key, rsa.RSAPublicKey):
                    key.verify(signature, message, padding.PKCS1v15(), algorithm)
                else:
                    key.verify(signature, message)
            except InvalidSignature:
                continue
            return True
        return False


class PrivateKey:
    """A private key; its repr has no secret."""

    __slots__ = ("_key", "public")

    def __init__(self, key: object, name: str) -> None:
        """`key` is a key of `cryptography`. Raises ConfigError for unsupported kinds."""
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        kinds = (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, rsa.RSAPrivateKey)
        if not isinstance(key, kinds):
            raise _unusable(name)
        self._key: PrivateNumbers = key
        self.public = PublicKey.of(key.public_key(), name)

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`, over SHA-256 if the key allows a choice; deterministic if
        OpenSSL supports it (RFC 6979).
        """
        from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, ec.EllipticCurvePrivateKey):
            return _sign_ecdsa(self._key, message)
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(message, padding.PKCS1v15(), SHA256())
        return self._key.sign(message)

    def pkcs8(self) -> bytes:
        """The unencrypted private key in PKCS #8 DER. Encrypt it before it is written."""
        from cryptography.hazmat.primitives import serialization

        return self._key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def generate_key(name: str = "key") -> PrivateKey:
    """A new ECDSA P-256 key, which every verifier of images supports."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return PrivateKey(ec.generate_private_key(ec.SECP256R1()), name)


def _sign_ecdsa(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        return key.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))
    except UnsupportedAlgorithm:  # before OpenSSL 3.2
        return key.sign(message, ec.ECDSA(SHA256()))


@lru_cache(maxsize=256)
def _loaded(der: bytes) -> PublicNumbers:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    return _supported(load_der_public_key(der), "the key")


def _supported(key: object, name: str) -> PublicNumbers:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise _unusable(name)


def _unusable(name: str) -> ConfigError:
    return UnusableKey(
        f"{name} is of an unsupported kind",
        hint="use ECDSA P-256, P-384 or P-521, Ed25519, or RSA of 2048 to 8192 bits",
    )


def _hashes(key: PublicNumbers) -> tuple[HashAlgorithm, ...]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return (hashes.SHA256(), hashes.SHA512())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return (hashes.SHA512(),)  # Ed25519 has its own
    if key.curve.key_size == 256:
        return (hashes.SHA256(),)
    return (hashes.SHA256(), hashes.SHA384() if key.curve.key_size == 384 else hashes.SHA512())
