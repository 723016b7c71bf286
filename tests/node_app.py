"""A node without a network: its WSGI callable asked directly, its storage as a Repository."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from shipline.content import Advance, Fetcher, MemoryStore, fetch_all
from shipline.oci import Descriptor, media, parse_manifest
from shipline.server import Storage, make_app
from shipline.server.door.evidence import StoredEvidence
from shipline.server.door.rules import RuleDoor
from shipline.server.door.section import DoorSection
from shipline.server.node import Node

BIG = 1 << 30  # bytes


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

    def __init__(self, data: Path, policy: DoorSection | None = None, **parts: Any) -> None:
        self.now = 1_800_000_000.0
        self.storage = Storage(data, clock=lambda: self.now)
        self.node = Node.over(self.storage, **parts)
        if policy is not None:
            self.node = self._with_rules(policy, data, parts)
        self.app = make_app(self.node)

    def _with_rules(self, policy: DoorSection, data: Path, parts: dict[str, Any]) -> Node:
        node = self.node
        door = RuleDoor(policy, self.storage, node.manifests, node.metrics, data)
        listeners = (door, *node.listeners)
        return Node.over(self.storage, **parts, door=door, listeners=listeners)

    def close(self) -> None:
        self.node.uploads.close()
        self.storage.close()

    def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        more: dict[str, str] | None = None,
    ) -> Reply:
        """`path` with its query, as a client writes it; `more` is what the server in front says."""
        address, _, query = path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "PATH_INFO": unquote(address),
            "QUERY_STRING": query,
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "node.example",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
        }
        if body or method in ("PUT", "POST", "PATCH"):
            environ["CONTENT_LENGTH"] = str(len(body))
        for name, value in (headers or {}).items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        environ |= more or {}
        seen: dict[str, Any] = {}

        def start(status: str, answered: list[tuple[str, str]]) -> object:
            seen.update(status=int(status.split()[0]), headers=dict(answered))
            return None

        parts: Iterable[bytes] = self.app(environ, start)
        return Reply(seen["status"], seen["headers"], b"".join(parts))

    def push(self, name: str, reference: str, manifest: bytes, media_type: str) -> Reply:
        headers = {"Content-Type": media_type}
        return self.call("PUT", f"/v2/{name}/manifests/{reference}", manifest, headers)

    def pull(self, name: str, reference: object) -> Reply:
        return self.call("GET", f"/v2/{name}/manifests/{reference}")

    def repository(self, name: str) -> NodeRepository:
        return NodeRepository(self, name)


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
            self._app.node.uploads.put(self.name, target.digest, [raw], len(raw))

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        document = parse_manifest(fetch_all(source, target, BIG), target.media_type)
        self._app.node.manifests.put(self.name, target.digest, document, (tag,))

    @contextmanager
    def ingest(self) -> Iterator[Any]:
        with MemoryStore().ingest() as ingest:
            yield ingest
