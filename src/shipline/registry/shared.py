"""What one process learns of a registry, for others with the same credentials: tokens, blobs that
a repository has, manifests.

Everything is sealed (AES-256-GCM) with its end, and named (HMAC-SHA256), with keys that are derived
from the credentials (scrypt), so that whoever can read or write the cache, but cannot guess them,
reads nothing, can forge nothing, and puts nothing in the place of something else. Without
credentials anyone can derive the keys: tokens and manifests are then shared of public registries
only. What is sealed may still be out of date: a token that the registry refuses is dropped, and a
blob is taken to be there only where the registry would refuse a manifest without it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shipline.content import Fetcher
from shipline.errors import ConfigError
from shipline.lru import TTL_S
from shipline.oci import Descriptor, Digest
from shipline.registry.credentials import Credentials
from shipline.registry.quirks import is_public

if TYPE_CHECKING:
    from shipline.metadata import LeveledCache

VARIABLE = "SHIPLINE_CACHE"
_STRICT = "strict="  # in its query: hosts
_COST = {"n": 1 << 14, "r": 8, "p": 1, "maxmem": 64 << 20}  # 40 ms of CPU per guess of a password
_NONCE = 12  # bytes
_UNTIL = struct.Struct(">d")  # Unix time in seconds, sealed before each value
_MANIFEST_LIMIT = 256 << 10  # bytes; larger ones are not shared


class SharedCache:
    """A cache that several processes share. Safe to use from any thread."""

    def __init__(self, levels: LeveledCache, strict: Iterable[str] = ()) -> None:
        """`strict` are registries which refuse a manifest whose blobs are missing, besides those
        that are known to (`Quirks.checks_blobs`).
        """
        self._levels = levels
        self.strict = frozenset(strict)
        self._lock = threading.Lock()
        self._sealed: dict[tuple[str, Credentials | None], SealedCache] = {}

    def of(self, host: str, credentials: Credentials | None) -> SealedCache:
        """What is shared by those who have these credentials for `host`."""
        with self._lock:  # the key is derived once
            found = self._sealed.get((host, credentials))
            if found is None:
                holds_content = credentials is not None or is_public(host)
                found = SealedCache(self._levels, _secret(host, credentials), holds_content)
                self._sealed[host, credentials] = found
            return found


def _secret(host: str, credentials: Credentials | None) -> bytes:
    salt = f"shipline cache 2\0{host}".encode()
    if credentials is None:  # what anyone may know needs no slow key
        return hashlib.sha256(salt).digest()
    fields = (credentials.username, credentials.password)
    tokens = (credentials.identity_token, credentials.registry_token)
    password = json.dumps([*fields, *tokens]).encode()
    return hashlib.scrypt(password, salt=salt, dklen=32, **_COST)


class SealedCache:
    """Values by their parts of a name, which nobody without the secret can read or make.

    `holds_content` is False where the secret is none, and tokens and manifests may be for few.
    """

    def __init__(self, levels: LeveledCache, secret: bytes, holds_content: bool) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.holds_content = holds_content
        self._levels = levels
        self._naming = hmac.digest(secret, b"name", "sha256")
        self._cipher: Any = AESGCM(hmac.digest(secret, b"seal", "sha256"))

    def get(self, *name: str) -> bytes | None:
        """The value; None if there is none that was sealed under this name, and is still valid."""
        from cryptography.exceptions import InvalidTag

        key = self._key(name)
        sealed = self._levels.get(key)
        if sealed is None:
            return None
        try:
            value: bytes = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], key.encode())
            (until,) = _UNTIL.unpack_from(value)
        except (InvalidTag, ValueError, struct.error):
            return None
        return value[_UNTIL.size :] if 0 < until - time.time() <= TTL_S else None

    def put(self, value: bytes, ttl_s: float, *name: str) -> None:
        """Set the value for `ttl_s`, or as long as the cache keeps values."""
        key, nonce = self._key(name), os.urandom(_NONCE)
        value = _UNTIL.pack(time.time() + min(ttl_s, TTL_S)) + value
        self._levels.put(key, nonce + self._cipher.encrypt(nonce, value, key.encode()), ttl_s)

    def drop(self, *name: str) -> None:
        """Remove the value."""
        self._levels.drop(self._key(name))

    def _key(self, name: tuple[str, ...]) -> str:
        digest = hmac.digest(self._naming, "\0".join(name).encode(), "sha256")
        return f"shipline:{digest[:20].hex()}"


class AssumedBlob(Struct, frozen=True):
    """A blob that was not looked for, and what to push it from if it is missing."""

    target: Descriptor
    source: Fetcher


class RepositoryFacts:
    """What is shared of one repository: its blobs, as long as the registry `checks_blobs`, and its
    manifests by digest. `sealed` is called when something is asked for first.
    """

    def __init__(
        self, name: str, sealed: Callable[[], SealedCache], checks_blobs: Callable[[], bool]
    ) -> None:
        self._name = name
        self._open = cache(sealed)
        self._checks_blobs = checks_blobs
        self._assumed: dict[Digest, AssumedBlob] = {}

    def assume(self, target: Descriptor, source: Fetcher) -> bool:
        """Whether the repository is known to have the blob, so that it need not be asked; `assumed`
        tells it when a manifest names the blob.
        """
        if not self._checks_blobs() or self._open().get("blob", *self._of(target.digest)) is None:
            return False
        self._assumed[target.digest] = AssumedBlob(target, source)
        return True

    def assumed(self, manifest: bytes) -> list[AssumedBlob]:
        """The assumed blobs that the manifest names."""
        known = list(self._assumed.items())
        return [blob for digest, blob in known if str(digest).encode() in manifest]

    def confirm(self, blobs: Iterable[AssumedBlob]) -> None:
        """The registry has these."""
        for blob in blobs:
            self._assumed.pop(blob.target.digest, None)

    def add_blob(self, digest: Digest) -> None:
        """The repository has this blob."""
        if self._checks_blobs():
            self._open().put(b"", _FOR_LONG_S, "blob", *self._of(digest))

    def drop_blob(self, digest: Digest) -> None:
        """The repository does not have this blob."""
        self._open().drop("blob", *self._of(digest))

    def manifest(self, digest: Digest) -> bytes | None:
        """The manifest, whose bytes have this digest."""
        sealed = self._open()
        content = sealed.get("manifest", *self._of(digest)) if sealed.holds_content else None
        if content is None or Digest.of(content, digest.algorithm) != digest:
            return None
        return content

    def add_manifest(self, digest: Digest, content: bytes) -> None:
        """The repository has this manifest."""
        if len(content) <= _MANIFEST_LIMIT and self._open().holds_content:
            self._open().put(content, _FOR_LONG_S, "manifest", *self._of(digest))

    def drop_manifest(self, digest: Digest) -> None:
        """The repository does not have this manifest any more."""
        self._open().drop("manifest", *self._of(digest))

    def _of(self, digest: Digest) -> tuple[str, str]:
        return self._name, str(digest)


_FOR_LONG_S = 86400.0  # more than the cache keeps anything


def shared_cache(environment: Mapping[str, str], home: Path) -> SharedCache | None:
    """The cache that SHIPLINE_CACHE names, with records in `home`; None without it. Processes of
    several machines share a server, and the clients of one process share the rest. Raises
    ConfigError.
    """
    text = environment.get(VARIABLE, "").strip()
    return _opened(text, home) if text else None


@cache
def _opened(text: str, home: Path) -> SharedCache:
    from urllib.parse import unquote

    from shipline.metadata import LeveledCache, RedisCache, RedisUrl, open_machine_records

    place, _, query = text.partition("?")
    options = query.split("&")
    ours = [one for one in options if one.startswith(_STRICT) and "#" not in one]
    strict = [host for one in ours for host in unquote(one.removeprefix(_STRICT)).split(",")]
    rest = "&".join(one for one in options if one not in ours)
    server = None
    if place != "local":
        try:
            server = RedisCache(RedisUrl.parse(f"{place}?{rest}" if rest else place))
        except ConfigError as error:
            error.name_part(VARIABLE)
            raise
    return SharedCache(LeveledCache(server, open_machine_records(home / "shared.db")), strict)
