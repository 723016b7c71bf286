"""A data directory with a test clock, and images to push into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from node_app import fill
from shipline.oci import Descriptor, Digest, Index, Manifest
from shipline.server.gc import GcOptions, GcReport, collect
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.server.uploads import UploadStore

CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
GRACE = 3600.0


@dataclass
class Clock:
    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Directory:
    """An open data directory; `later` lets the grace period pass."""

    def __init__(
        self, root: Path, metadata: str | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        self.root = root
        self.clock = Clock()
        self.storage = Storage(root, metadata=metadata, clock=clock or self.clock)
        self.storage.promises.assume_none()
        self.uploads = UploadStore(self.storage)
        self.manifests = Manifests(self.storage)

    def close(self) -> None:
        self.uploads.close()
        self.storage.close()

    def later(self, seconds: float = GRACE + 1) -> None:
        self.clock.now += seconds

    def blob(self, name: str, content: bytes) -> Digest:
        digest = Digest.of(content)
        fill(self.uploads.put(name, digest, len(content)), [content])
        return digest

    def image(
        self, name: str, layers: Iterable[bytes], *tags: str, subject: Descriptor | None = None
    ) -> Descriptor:
        layers = list(layers)
        config = json.dumps({"of": [Digest.of(layer).hex for layer in layers]}).encode()
        for content in (config, *layers):
            self.blob(name, content)
        manifest = Manifest.make(
            Descriptor.of(config, CONFIG),
            [Descriptor.of(layer, LAYER) for layer in layers],
            subject=subject,
        )
        self.manifests.put(name, manifest.descriptor.digest, manifest, tags)
        return manifest.descriptor

    def index(self, name: str, children: Iterable[Descriptor], *tags: str) -> Descriptor:
        raw = Index.make(children)
        digest = Digest.of(raw.raw)
        self.manifests.put(name, digest, raw, tags)
        return Descriptor(raw.media_type, digest, len(raw.raw))

    def collect(self, *, untagged: bool = False, dry_run: bool = False) -> GcReport:
        options = GcOptions(every=None, untagged=untagged)
        report = collect(self.storage, options, dry_run=dry_run)
        report.seconds = 0.0
        return report

    def has(self, name: str, manifest: Descriptor) -> bool:
        key = ("manifest", name, str(manifest.digest))
        return self.storage.records.get(key) is not None

    def files(self) -> set[str]:
        return {file.name for file in (self.root / "blobs").rglob("*") if file.is_file()}
