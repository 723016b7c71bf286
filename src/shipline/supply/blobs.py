"""Signatures of files, in sigstore bundles as `cosign sign-blob` writes them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from shipline.errors import ContentError
from shipline.oci import to_bytes
from shipline.supply.envelopes import BUNDLE, from_base64, parse_bundle
from shipline.supply.keys import PrivateKey, PublicKey
from shipline.supply.verification import SignatureRefused

BUNDLE_LIMIT = 1 << 20  # bytes


def sign_blob(content: bytes, key: PrivateKey) -> bytes:
    """The bundle with the signature of `content` (sigstore bundle v0.3, MessageSignature)."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return to_bytes(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}},
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                "signature": base64.b64encode(key.sign(content)).decode(),
            },
        }
    )


def verify_blob(name: str, content: bytes, bundle: bytes, keys: Sequence[PublicKey]) -> PublicKey:
    """The one of `keys` that signed exactly `content`, which is named in messages. The digest in
    the bundle only explains why none did. Raises ContentError for another document,
    SignatureRefused.
    """
    document, _ = parse_bundle(bundle)
    signed = document.get("messageSignature")
    if not isinstance(signed, dict):
        raise ContentError("the bundle has no signature of a file", code="signature-invalid")
    signature = from_base64(signed.get("signature"))
    for key in keys:
        if key.verify(signature, content):
            return key
    stated = signed.get("messageDigest")
    digest = stated.get("digest") if isinstance(stated, dict) else None
    if isinstance(digest, str) and from_base64(digest) != hashlib.sha256(content).digest():
        raise SignatureRefused(
            f"{name} is not the file that was signed",
            hint="download it again; a file that differs was altered, or is of another release",
        )
    raise SignatureRefused(
        f"{name} was not signed with {' or '.join(key.name for key in keys)}",
        hint="verify with the public key of its signer",
    )
