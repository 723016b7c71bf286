"""Signed URLs in three forms.

A signature covers the method GET, which includes HEAD, the canonical path, the time of expiry, the
id of the key and, if the URL is bound to it, an address range.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

from shipline.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

Parameters = dict[str, str]


@dataclass(frozen=True, slots=True)
class Grant:
    """What a URL allows: to GET `path` until `expires` (Unix seconds), from `addresses`: a CIDR
    block, one address, or empty for all.
    """

    path: str
    expires: int
    addresses: str = ""


class SignedForm(Protocol):
    """How the query of a signed URL is written, with the first of the keys."""

    def sign(self, grant: Grant) -> Parameters: ...


class VerifiedForm(SignedForm, Protocol):
    """A form that the node verifies, too, when the CDN comes for content."""

    name: str  # of the parameter with the signature
    checked_by_edge: bool  # the CDN verifies every request, also for what it has

    def grant(self, path: str, query: Parameters, client: str) -> Grant | None:
        """What the query claims; None if it is malformed or names an unknown key."""

    def query(self, grant: Grant, key: str) -> Parameters:
        """The query with the right signature of a known key."""


class HmacForm:
    """`expires`, `key`, `range` and `signature`: HMAC-SHA256, base64url without padding."""

    name, checked_by_edge = "signature", False

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = keys

    def sign(self, grant: Grant) -> Parameters:
        return self.query(grant, next(iter(self._keys)))

    def grant(self, path: str, query: Parameters, client: str) -> Grant | None:
        expires = _time(query, self._keys)
        return None if expires is None else Grant(path, expires, query.get("range", ""))

    def query(self, grant: Grant, key: str) -> Parameters:
        signed = "\n".join(("GET", grant.path, str(grant.expires), key, grant.addresses))
        mac = hmac.digest(self._keys[key], signed.encode(), "sha256")
        query = {"expires": str(grant.expires), "key": key}
        if grant.addresses:
            query["range"] = grant.addresses
        return {**query, "signature": _base64url(mac)}


class SecureLinkForm:
    """`md5`, `expires` and `key`, for nginx's `secure_link_md5 "$secure_link_expires$uri SECRET"`
    or, bound to an address, `"$secure_link_expires$uri$remote_addr SECRET"`
    (ngx_http_secure_link_module). `key` lets a `map` choose among secrets.
    """

    name, checked_by_edge = "md5", True

    def __init__(self, keys: Mapping[str, bytes], *, bound: bool) -> None:
        self._keys, self._bound = keys, bound

    def sign(self, grant: Grant) -> Parameters:
        return self.query(grant, next(iter(self._keys)))

    def grant(self, path: str, query: Parameters, client: str) -> Grant | None:
        expires = _time(query, self._keys)
        return None if expires is None else Grant(path, expires, client if self._bound else "")

    def query(self, grant: Grant, key: str) -> Parameters:
        text = f"{grant.expires}{grant.path}{grant.addresses} ".encode() + self._keys[key]
        md5 = _base64url(hashlib.md5(text, usedforsecurity=False).digest())
        return {"md5": md5, "expires": str(grant.expires), "key": key}


class CloudFrontForm:
    """`Expires` or `Policy`, `Signature` and `Key-Pair-Id`, as in the CloudFront Developer Guide,
    "Create a signed URL using a canned policy" (or, bound to addresses, "a custom policy").
    """

    def __init__(self, url: str, key: str, pem: bytes) -> None:
        """Raises ConfigError unless the key is an RSA or ECDSA private key."""
        self._url, self._id = url, key
        self._key = _private_key(key, pem)

    def sign(self, grant: Grant) -> Parameters:
        condition: dict[str, object] = {"DateLessThan": {"AWS:EpochTime": grant.expires}}
        if grant.addresses:
            condition["IpAddress"] = {"AWS:SourceIp": grant.addresses}
        statement = {"Resource": self._url + grant.path, "Condition": condition}
        policy = json.dumps({"Statement": [statement]}, separators=(",", ":")).encode()
        query = (
            {"Policy": _cloudfront_base64(policy)}
            if grant.addresses
            else {"Expires": str(grant.expires)}
        )
        signature = _cloudfront_base64(self._sign(policy))
        return {**query, "Signature": signature, "Key-Pair-Id": self._id}

    def _sign(self, policy: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.hashes import SHA1

        digest = SHA1()
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(policy, PKCS1v15(), digest)
        return self._key.sign(policy, ECDSA(digest))


def with_query(url: str, query: Parameters) -> str:
    """The URL with a query; `/` and `:` need no escapes there (RFC 3986, 3.4)."""
    return f"{url}?{urlencode(query, safe='/:~')}"


def _private_key(key: str, pem: bytes) -> RSAPrivateKey | EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        loaded = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        loaded = None
    if not isinstance(loaded, RSAPrivateKey | EllipticCurvePrivateKey):
        raise ConfigError(f"cdn key {key}: not an RSA or ECDSA private key in PEM, unencrypted")
    return loaded


def _time(query: Parameters, keys: Mapping[str, bytes]) -> int | None:
    text = query.get("expires", "")
    good = text.isascii() and text.isdigit() and len(text) < 13 and query.get("key") in keys
    return int(text) if good else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _cloudfront_base64(data: bytes) -> str:
    return base64.b64encode(data).decode().translate(str.maketrans("+=/", "-_~"))
