"""A small registry in memory that does what the specification says about sessions.

Docker's registry forgets a session whose connection broke; this one resumes it (end-13), and can
be told to have the peculiarities of others.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving import ReceivedRequest, Reply, Served, json_reply, serving
from shipline.oci import Digest


@dataclass
class Peculiar:
    """`most` is the largest request body taken; `least` is announced as the smallest chunk;
    `patch` is the status of a PATCH; `locations` off leaves Location out where it may be;
    `blobs_at` redirects blobs to another server; `digests` tells those of manifests."""

    most: int = 1 << 40
    least: int = 0
    patch: int = 202
    locations: bool = True
    blobs_at: str = ""
    ranges: bool = True
    digests: bool = False


@dataclass
class Spec:
    peculiar: Peculiar = field(default_factory=Peculiar)
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    sessions: dict[str, bytearray] = field(default_factory=dict)
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, request: ReceivedRequest) -> Reply:
        for pattern, handler in (
            (r"/v2/(.+)/blobs/uploads/", self.begin),
            (r"/v2/(.+)/blobs/uploads/([0-9]+)", self.session),
            (r"/v2/(.+)/blobs/(.+)", self.blob),
            (r"/v2/(.+)/manifests/(.+)", self.manifest),
            (r"/v2/(.+)/tags/list", self.tags),
        ):
            if found := re.fullmatch(pattern, request.path):
                return handler(request, *found.groups())
        return 404, {}, b""

    def begin(self, request: ReceivedRequest, name: str) -> Reply:
        with self.lock:
            self.count += 1
            number = str(self.count)
            self.sessions[number] = bytearray()
        headers = {"Location": f"/v2/{name}/blobs/uploads/{number}?state=a%2Fb"}
        if self.peculiar.least:
            headers["OCI-Chunk-Min-Length"] = str(self.peculiar.least)
        return 202, headers, b""

    def session(self, request: ReceivedRequest, name: str, number: str) -> Reply:
        held = self.sessions.get(number)
        if held is None or request.query.get("state") != ["a/b"]:
            return 404, {}, _error("BLOB_UPLOAD_UNKNOWN")
        if request.method == "DELETE":
            del self.sessions[number]
            return 204, {}, b""
        if request.method != "GET":
            if int(request.headers.get("content-length", 0)) > self.peculiar.most:
                request.all()
                return 413, {}, b"<html>too large</html>"
            numbered = re.match(r"([0-9]+)-", request.headers.get("content-range", ""))
            if numbered and int(numbered[1]) != len(held):
                request.all()
                return 416, {"Range": f"0-{max(0, len(held) - 1)}"}, b""
            for piece in request.body():
                held += piece
        if request.method == "PUT":
            return self.commit(number, bytes(held), request.query["digest"][0], name)
        headers = {"Range": f"0-{max(0, len(held) - 1)}"}
        if self.peculiar.locations:
            headers["Location"] = request.target
        return 204 if request.method == "GET" else self.peculiar.patch, headers, b""

    def commit(self, number: str, content: bytes, digest: str, name: str) -> Reply:
        del self.sessions[number]
        if str(Digest.of(content, digest.partition(":")[0])) != digest:
            return 400, {}, _error("DIGEST_INVALID")
        self.blobs[digest] = content
        return 201, {"Location": f"/v2/{name}/blobs/{digest}"}, b""

    def blob(self, request: ReceivedRequest, name: str, digest: str) -> Reply:
        if digest not in self.blobs:
            return 404, {}, _error("BLOB_UNKNOWN")
        if self.peculiar.blobs_at and request.method == "GET":
            return 307, {"Location": f"{self.peculiar.blobs_at}/{digest}"}, b""
        return ranged(request, self.blobs[digest], self.peculiar.ranges)

    def manifest(self, request: ReceivedRequest, name: str, reference: str) -> Reply:
        if request.method == "PUT":
            content = request.all()
            kept = (request.headers["content-type"], content)
            for key in (reference, str(Digest.of(content))):
                self.manifests[key] = kept
            return 201, {}, b""
        if reference not in self.manifests:
            return 404, {}, _error("MANIFEST_UNKNOWN")
        media_type, content = self.manifests[reference]
        told = {"Docker-Content-Digest": str(Digest.of(content))} if self.peculiar.digests else {}
        return 200, {"Content-Type": media_type, **told}, content

    def tags(self, request: ReceivedRequest, name: str) -> Reply:
        return json_reply(200, {"tags": [key for key in self.manifests if ":" not in key]})


def ranged(request: ReceivedRequest, content: bytes, ranges: bool = True) -> Reply:
    found = re.fullmatch(r"bytes=([0-9]+)-", request.headers.get("range", ""))
    if not found or not ranges:
        return 200, {}, content
    start = int(found[1])
    place = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return 206, {"Content-Range": place}, content[start:]


@contextmanager
def spec_registry(peculiar: Peculiar | None = None) -> Iterator[tuple[Spec, Served]]:
    spec = Spec(peculiar or Peculiar())
    with serving(spec.respond) as served:
        yield spec, served


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
