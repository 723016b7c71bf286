"""Images to replicate, two ends of a replication in one process, and whether an end is whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from node_app import NodeApp
from shipline.content import MemoryStore, copy_graph, successors
from shipline.oci import Descriptor, Digest, ImageConfig, Index, Manifest, Platform, media
from shipline.regions.backlog import Backlog
from shipline.regions.replication import Ends, JournalReplication, _known_here
from shipline.regions.sources import LocalJournal
from shipline.server.replication import ReplicationSection
from shipline.server.repository import StoredRepositories, StoredRepository
from shipline.values import replace

AMD, ARM = Platform("linux", "amd64"), Platform("linux", "arm64")


def image(store: MemoryStore, seed: str, platform: Platform = AMD, size: int = 0) -> Descriptor:
    """An image of one layer, in the store, with its platform."""
    layer = (f"layer of {seed}".encode() * (size // 8 + 1))[: size or 100]
    config = ImageConfig(platform).set(Env=[f"SEED={seed}"]).to_bytes()
    manifest = Manifest.make(
        Descriptor.of(config, media.OCI_CONFIG), [Descriptor.of(layer, media.OCI_LAYER_GZIP)]
    )
    for content in (layer, config, manifest.raw):
        store.blobs[Digest.of(content)] = content
    return replace(manifest.descriptor, platform=platform)


def index(store: MemoryStore, seed: str, *platforms: Platform) -> Descriptor:
    """An image for several platforms."""
    made = Index.make([image(store, f"{seed} {one}", one) for one in platforms or (AMD, ARM)])
    store.blobs[Digest.of(made.raw)] = made.raw
    return made.descriptor


def statement(store: MemoryStore, subject: Descriptor, seed: str) -> Descriptor:
    """A manifest that refers to `subject`."""
    made = Manifest.make(
        Descriptor.of(b"{}", media.OCI_EMPTY),
        [Descriptor.of(seed.encode(), "text/plain")],
        subject=subject.plain,
        artifact_type="application/vnd.example.statement",
    )
    for content in (b"{}", seed.encode(), made.raw):
        store.blobs[Digest.of(content)] = content
    return made.descriptor


class Region:
    """A node without a network, and its repositories."""

    def __init__(self, data: Path) -> None:
        self.app = NodeApp(data)
        self.app.storage.journal.enable()
        node = self.app.node
        node.uploads.recover()
        self.repositories = StoredRepositories(
            node.storage, node.manifests, node.uploads, lambda event: None, "replication"
        )

    def open(self, name: str) -> StoredRepository:
        return self.repositories.open(name)

    def push(self, name: str, tag: str, root: Descriptor, store: MemoryStore) -> None:
        copy_graph(store, self.open(name), root)
        self.open(name).tag(root, store, tag)

    def attach(self, name: str, root: Descriptor, store: MemoryStore) -> None:
        copy_graph(store, self.open(name), root)

    def tags(self) -> dict[tuple[str, str], str]:
        """Every tag of the node with its digest."""
        storage = self.app.storage
        return {
            (name, tagged.tag): str(tagged.digest)
            for name in storage.repositories("", 1000)
            for tagged in self.app.node.manifests.every_tag(name)
        }

    def check_whole(self) -> None:
        """Every tag resolves completely and byte for byte."""
        for name, tag in self.tags():
            repository = self.open(name)
            check_graph(repository, repository.resolve(tag))

    def close(self) -> None:
        self.app.close()


def check_graph(repository: StoredRepository, root: Descriptor) -> None:
    with repository.fetch(root) as reader:
        content = reader.read()
    assert hashlib.sha256(content).hexdigest() == root.digest.hex
    for child in successors(repository, root):
        check_graph(repository, child)


def replication(
    source: Region, target: Region, *, by: Region | None = None, **section: object
) -> JournalReplication:
    """Pulls from `source` into `target`, whose records hold its state."""
    options = {"name": "main", "from_": "primary.example", **section}
    ends = Ends(
        source.open,
        target.open,
        LocalJournal(source.app.storage),
        partial(_known_here, target.app.storage),
        LocalJournal(target.app.storage).snapshot,
    )
    records = (by or target).app.storage.records
    return JournalReplication(
        ReplicationSection(**options),  # type: ignore[arg-type]
        ends,
        Backlog(records, "main"),
    )


def drain(one: JournalReplication) -> None:
    """Apply everything that is due."""
    one.poll(0)
    while one.apply_one():
        pass


def entries(region: Region) -> Iterator[tuple[str, str, str]]:
    """The journal: operation, repository, tag or digest."""
    for _, value in region.app.storage.records.scan(("journal",)):
        entry = json.loads(value)
        yield entry["op"], entry["repository"], entry.get("tag") or entry["digest"]
