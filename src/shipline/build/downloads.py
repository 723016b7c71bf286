"""ADD of URLs: files fetched over HTTP, kept by digest, fetched again only when they changed.

As in BuildKit, a file has mode 0600 and the time of Last-Modified, or else Unix time 0. Every build
<<<<<<< HEAD
sends a request with the ETag of the stored file, unless `--checksum` is its digest. What a server
sends with `Content-Encoding: gzip`, as object stores do, is decompressed.
=======
sends a request with the ETag of the stored file, unless `--checksum` is its digest. BuildKit sends
HEAD first, for servers that answer with the whole file all the same: here the answer to GET is not
read where it has the known ETag. URLs that are signed for GET refuse HEAD.
>>>>>>> f5ebce35 (build: layouts keep the name of their context, and policies stay within a kind)
"""

from __future__ import annotations

import os
import posixpath
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlunsplit

from msgspec import Struct

from shipline.build.cache import Cache, RemoteFile
from shipline.content import CHUNK, LocalStore, chunks
from shipline.errors import DockerfileError, RegistryError, Span, UsageError
from shipline.events import Step
from shipline.layer import decompress
from shipline.net import split_url, without_logins
from shipline.oci import Descriptor, Digest, InvalidDigest

if TYPE_CHECKING:
    from shipline.build.source_rules import SourcePolicy

_UNNAMED = "__unnamed__"
_HINT = "check the URL, and that the server can be reached from here"
_HINTS = {
    401: "the server requires a login: add it to the URL, or give --secret id=HTTP_AUTH_TOKEN_HOST",
    403: "the server refuses access to this file: fetch it before the build",
    404: "check the URL: the server has no such file",
}
_MEDIA_TYPE = "application/octet-stream"
_HEX_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}


class Reply(Protocol):
    """An HTTP response whose body was not read yet."""

    @property
    def status(self) -> int: ...

    def header(self, name: str) -> str: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


Get = Callable[[str, Mapping[str, str]], Reply]
"""Sends GET with headers and follows redirects: status 200 or 304. Raises RegistryError."""


class Downloader(Struct, frozen=True):
    """Fetches files from URLs; safe to use from any thread. `authorization` is the header for a
    host, empty for none; a login in a URL comes first. With a `policy`, files are judged by it.
    """

    get: Get
    cache: Cache
    store: LocalStore
    authorization: Callable[[str], str] = lambda host: ""
    policy: SourcePolicy | None = None

    def fetch(self, url: str, checksum: str, step: Step) -> RemoteFile:
        """The file at `url`, in the store. Raises RegistryError, and UsageError for a file without
        the digest `checksum`.
        """
        if self.policy is not None:
            url, checksum = self.policy.http(url, checksum)
        header = self.authorization(split_url(url).hostname or "")
        if self.policy is not None:
            self.policy.check_http(url, checksum, authorized=bool(header))
        name = without_logins(url)
        known = self.cache.remote_file(name)
        if known is not None and checksum and str(known.content.digest) == checksum:
            step.cached()
            return known
        etag = known.etag if known is not None and known.etag.startswith('"') else ""
        with closing(_request(self.get, url, etag, header)) as reply:
            if reply.status == 304 and not etag:
                raise RegistryError(
                    f"cannot fetch {name}: the server says 304 Not Modified to a first request",
                    code="download-failed",
                    host=split_url(url).hostname or "",
                    status=304,
                )
            same = reply.status == 304 or (etag and reply.header("ETag") == etag)
            if same and known is not None:
                step.cached()
                found = known
            else:
                found = self._keep(reply, step)
                self.cache.put_remote_file(name, found)
        digest = str(found.content.digest)
        if self.policy is not None and not checksum:
            self.policy.check_http(url, digest, authorized=bool(header))
        if checksum and digest != checksum:
            raise UsageError(
                f"digest mismatch: {name} has {digest}, not {checksum}",
                code="checksum-mismatch",
                hint="if the file was meant to change, update the checksum",
            )
        return found

    def _keep(self, reply: Reply, step: Step) -> RemoteFile:
        length = reply.header("Content-Length")
        encoded = reply.header("Content-Encoding").lower() == "gzip"  # though none was asked for
        total = int(length) if length.isdecimal() and not encoded else 0
        body = decompress(reply, "gzip") if encoded else reply
        with self.store.ingest() as ingest:
            while data := body.read(CHUNK):
                ingest.write(data)
                step.progress(ingest.size, total)
            content = Descriptor(_MEDIA_TYPE, ingest.digest, ingest.size)
            ingest.commit(content)
        return RemoteFile(content, reply.header("ETag"), reply.header("Last-Modified"))


def place_file(file: RemoteFile, store: LocalStore, path: Path) -> None:
    """Write the file to `path`, with the mode and time of ADD."""
    with store.fetch(file.content) as reader, path.open("wb") as target:
        for data in chunks(reader):
            target.write(data)
    path.chmod(0o600)
    modified = seconds_of(file)
    os.utime(path, (modified, modified))


def seconds_of(file: RemoteFile) -> int:
    """Last-Modified of the file as Unix time; 0 without one."""
    return int(_seconds(file.modified))


def file_name(url: str) -> str:
    """The name of the file in a directory."""
    name = posixpath.basename(unquote(split_url(url).path))
    return _UNNAMED if name in ("", ".", "..") or "\0" in name else name


def parse_checksum(text: str, span: Span | None) -> str:
    """`text` as a digest. Raises DockerfileError."""
    try:
        return str(Digest.parse(text)) if text else ""
    except InvalidDigest:
        raise DockerfileError(
            f"--checksum={text}: {_digest_fault(text)}",
            code="dockerfile-flag",
            span=span,
            hint="write sha256: and 64 hex digits",
        ) from None


def _digest_fault(text: str) -> str:
    """What Go's package for digests says of one that is wrong."""
    algorithm, _, hex = text.partition(":")
    length = _HEX_LENGTHS.get(algorithm)
    if length is None and re.fullmatch(r"[a-z0-9]+([.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+", text):
        return "unsupported digest algorithm"
    if length is not None and hex and len(hex) != length:
        return "invalid checksum digest length"
    return "invalid checksum digest format"


def _request(get: Get, url: str, etag: str = "", authorization: str = "") -> Reply:
    """The response for `url`, whose login goes into a header; 304 is possible with an `etag`."""
    parts = split_url(url)
    login, _, host = parts.netloc.rpartition("@")
    given = {"If-None-Match": etag, "Authorization": authorization}
    headers = {name: value for name, value in given.items() if value}
    if login:
        user, _, password = login.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {b64encode(pair).decode('ascii')}"
    try:
        return get(urlunsplit(parts._replace(netloc=host, fragment="")), headers)
    except RegistryError as error:
        error.hint = _HINTS.get(error.status or 0, _HINT)
        error.message = f"cannot fetch {without_logins(url)}: {error.message}"
        error.args = (error.message,)
        raise


def no_network(url: str, headers: Mapping[str, str]) -> Reply:
    """A `Get` for builds without one."""
    raise RegistryError(
        f"cannot fetch {without_logins(url)}: this build has no HTTP client",
        code="download-failed",
        host="",
    )


def _seconds(date: str) -> float:
    """An HTTP date (RFC 9110, section 5.6.7) as Unix time; 0 for none."""
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(date).timestamp())
    except (ValueError, OverflowError):
        return 0.0
