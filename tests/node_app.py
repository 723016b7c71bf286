"""A node without a network: its application called directly, its storage as a Repository."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from shipline.content import Advance, Fetcher, MemoryStore, fetch_all
from shipline.oci import Descriptor, Digest, media, parse_manifest
from shipline.server import Application, Storage, make_app
from shipline.server.admission.evidence import StoredEvidence
from shipline.server.admission.rules import AdmissionRules
from shipline.server.admission.section import AdmissionSection
from shipline.server.http import (
    READ,
    Beyond,
    ClientGone,
    Coro,
    File,
    Growing,
    GrowingNumber,
    Request,
    Response,
)
from shipline.server.node import RegistryNode
from shipline.values import replace

BIG = 1 << 30  # bytes
T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """An answer of the application."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def message(self) -> str:
        """Of the first error in a body as the specification has it."""
        return str(json.loads(self.body)["errors"][0]["message"])


class NodeApp:
    """A node over a directory, with rules; `now` is its clock."""

    def __init__(self, data: Path, policy: AdmissionSection | None = None, **parts: Any) -> None:
        self.now = 1_800_000_000.0
        self.storage = Storage(data, clock=lambda: self.now)
        self.node = RegistryNode.over(self.storage, **parts)
        if policy is not None:
            self.node = self._with_rules(policy, data, parts)
        self.app = make_app(self.node)

    def _with_rules(
        self, policy: AdmissionSection, data: Path, parts: dict[str, Any]
    ) -> RegistryNode:
        node = self.node
        admission = AdmissionRules(policy, self.storage, node.manifests, node.metrics, data)
        listeners = (admission, *node.listeners)
        return RegistryNode.over(self.storage, **parts, admission=admission, listeners=listeners)

    def rebuild(self, **parts: Any) -> None:
        """The same node with other parts."""
        self.node = replace(self.node, **parts)
        self.app = make_app(self.node)

    def close(self) -> None:
        self.node.uploads.close()
        self.storage.close()

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        client: str = "127.0.0.1",
    ) -> Reply:
        """`path` with its query, as a client writes it; `client` is its address."""
        address, _, query = path.partition("?")
        fields = {"host": "node.example"}
        if body or method in ("PUT", "POST", "PATCH"):
            fields["content-length"] = str(len(body))
        fields |= {name.lower(): value for name, value in (headers or {}).items()}
        request = Request(method, unquote(address), query, fields, client)
        return _reply(request, respond(self.app, request, body))

    def push(self, name: str, reference: str, manifest: bytes, media_type: str) -> Reply:
        headers = {"Content-Type": media_type}
        return self.call("PUT", f"/v2/{name}/manifests/{reference}", manifest, headers)

    def pull(self, name: str, reference: object) -> Reply:
        return self.call("GET", f"/v2/{name}/manifests/{reference}")

    def repository(self, name: str) -> NodeRepository:
        return NodeRepository(self, name)


def respond(app: Application, request: Request, body: bytes = b"") -> Response:
    """The response, without a server: every step is done here and now. A body that is shorter than
    its Content-Length breaks off.
    """
    steps, pieces = app(request), iter([body] if body else [])
    value: bytes | None = None
    try:
        while True:
            step = steps.send(value)  # type: ignore[arg-type]
            value = next(pieces, b"") if step is READ else b""
            if isinstance(step, Beyond):
                _wait(step.progress, step.seen)
            request.received += len(value)
            if step is READ and not value and request.received < (request.content_length or 0):
                steps.throw(ClientGone())
    except StopIteration as stop:
        response: Response = stop.value
        return response


def fill(steps: Coro[T], pieces: Iterable[bytes] = ()) -> T:
    """What an upload returns that gets these bytes; they may end in ClientGone."""
    waiting = iter(pieces)
    try:
        step = next(steps)
        while True:
            try:
                value = next(waiting, b"") if step is READ else b""
            except ClientGone as gone:
                step = steps.throw(gone)
            else:
                step = steps.send(value)
    except StopIteration as stop:
        result: T = stop.value
        return result


def _wait(progress: GrowingNumber, seen: int) -> None:
    changed = threading.Event()
    if progress.wake_beyond(seen, changed.set):
        assert changed.wait(30)


def _read_growing(part: Growing) -> bytes:
    """What a client gets: less than all of it if it fails."""
    fd, end, progress = part.open(), part.start + part.size, part.progress
    try:
        while progress.value < end and not progress.ended:
            _wait(progress, progress.value)
        return os.pread(fd, max(0, min(end, progress.value) - part.start), part.start)
    finally:
        os.close(fd)


def _reply(request: Request, response: Response) -> Reply:
    body = response.body
    if isinstance(body, Growing):
        body = _read_growing(body)
    if isinstance(body, File):
        body = body.path.read_bytes()[body.start : body.start + body.size]
    whole = body if isinstance(body, bytes) else b"".join(body)
    return Reply(
        response.status, dict(response.headers), b"" if request.method == "HEAD" else whole
    )


class NodeRepository(StoredEvidence):
    """A repository of the node, past its door: what a test attaches to images."""

    def __init__(self, app: NodeApp, name: str) -> None:
        super().__init__(app.storage, app.node.manifests, name)
        self._app = app
        self.name = name

    def exists(self, target: Descriptor) -> bool:
        if target.media_type in media.NAMED:
            return self.find(target.digest) is not None
        return self._app.storage.blob_size(self.name, target.digest) is not None

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        raw = fetch_all(source, target, BIG)
        if target.media_type in media.NAMED:
            document = parse_manifest(raw, target.media_type)
            self._app.node.manifests.put(self.name, target.digest, document)
        else:
            fill(self._app.node.uploads.put(self.name, target.digest, len(raw)), [raw])

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        document = parse_manifest(fetch_all(source, target, BIG), target.media_type)
        self._app.node.manifests.put(self.name, target.digest, document, (tag,))

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        self.tag(target, source, tag)  # nothing else writes
        return True

    @contextmanager
    def ingest(self) -> Iterator[Any]:
        with MemoryStore().ingest() as ingest:
            yield ingest
