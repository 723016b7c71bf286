"""Plain HTTP to a registry: what the conformance tests send, and nothing cleverer."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urljoin, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
_TIMEOUT_S = 30


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """The error codes of the body; a 4xx body may have any format, then there are none."""
        if "json" not in (self["Content-Type"] or ""):
            return []
        return [error["code"] for error in self.json["errors"]]

    def __getitem__(self, header: str) -> str | None:
        return self.headers[header]


@dataclass(frozen=True)
class Target:
    """A registry at `url`, and a repository of it that the test has to itself."""

    url: str
    repository: str

    def call(
        self,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """`path` is a Location, an absolute path, or relative to the repository.

        An iterable body goes out in chunks, without Content-Length.
        """
        place = urljoin(f"{self.url}/v2/{self.repository}/", path)
        parts = urlsplit(place)
        assert parts.hostname
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body, dict(headers or {}))
            with connection.getresponse() as answer:
                return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def sibling(self, suffix: str) -> Target:
        """Another repository of the same registry."""
        return Target(self.url, f"{self.repository}-{suffix}")

    def start(self, query: str = "") -> str:
        """Open an upload session; its Location."""
        answer = self.call("POST", f"blobs/uploads/{query}", b"")
        assert answer.status == 202, answer
        location = answer["Location"]
        assert location
        return location

    def push_blob(self, content: bytes) -> str:
        """Push with POST and PUT; the digest."""
        digest = sha256(content)
        answer = self.call("PUT", with_query(self.start(), digest=digest), content, OCTETS)
        assert answer.status == 201, answer
        return digest

    def push(self, document: Mapping[str, Any], reference: str = "", query: str = "") -> Answer:
        """Push a manifest or an index, by digest where `reference` is empty."""
        raw = to_json(document)
        path = f"manifests/{reference or sha256(raw)}{query}"
        return self.call("PUT", path, raw, {"Content-Type": document["mediaType"]})

    def image(self, seed: str, **more: Any) -> dict[str, Any]:
        """A manifest whose config and layer were pushed."""
        config, layer = f'{{"seed":"{seed}"}}'.encode(), f"layer of {seed}".encode()
        self.push_blob(config)
        self.push_blob(layer)
        return {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(config, CONFIG),
            "layers": [descriptor(layer, LAYER)],
            **more,
        }

    def artifact(self, seed: str, subject: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """A manifest that refers to `subject`."""
        return self.image(seed, subject=descriptor(to_json(subject), subject["mediaType"]), **more)


OCTETS = {"Content-Type": "application/octet-stream"}


def digest_of(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def sha256(content: bytes) -> str:
    return digest_of(content)


def sha512(content: bytes) -> str:
    return digest_of(content, "sha512")


def to_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def descriptor(content: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(content), "size": len(content)}


def with_query(location: str, **parameters: str) -> str:
    """A Location keeps the parameters that it came with."""
    separator = "&" if "?" in location else "?"
    return location + separator + "&".join(f"{key}={value}" for key, value in parameters.items())


def next_page(answer: Answer) -> str | None:
    """The target of Link rel="next" (RFC 8288)."""
    link = answer["Link"]
    if link is None:
        return None
    target, _, parameters = link.partition(">")
    assert target.startswith("<") and 'rel="next"' in parameters, link
    return target[1:]
