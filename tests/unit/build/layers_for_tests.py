"""Layers, images and workshops made by hand, out of real stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from shipline.build.base_images import Blobs
from shipline.build.cache import Cache, LayerResult
from shipline.build.clock import Clock
from shipline.build.downloads import Downloader, no_network
from shipline.build.faults import Damage
from shipline.build.snapshots import Snapshots
from shipline.build.workshop import ContextDirectory, Worker
from shipline.content import LocalStore, MemoryStore, Store
from shipline.events import Step, silent
from shipline.layer import (
    Entry,
    Item,
    Layer,
    LayeredToc,
    Toc,
    TocBuilder,
    codec,
    stream_layer,
    write_tar,
)
from shipline.metadata import SqliteRecords
from shipline.oci import (
    Descriptor,
    Digest,
    History,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    media,
)
from shipline.sandbox import Sandbox
from shipline.tasks import Limiter, Once

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def items_of(files: dict[str, str]) -> Iterator[Item]:
    """Files with their content."""
    for path, text in sorted(files.items()):
        yield Entry(path, "file", size=len(text)), text.encode()


def make_layer(store: Store, items: Iterable[Item], compression: str = "gzip") -> Layer:
    with store.ingest() as ingest:
        return stream_layer(write_tar(items), ingest, codec(compression))


def toc_of(*entries: Entry) -> Toc:
    builder = TocBuilder()
    for _ in builder.through((entry, None) for entry in entries):
        pass
    return builder.toc()


def table_of(*entries: Entry) -> LayeredToc:
    return LayeredToc([toc_of(*entries)])


@dataclass(frozen=True)
class Stored:
    """An image in a store: what its parts are called."""

    manifest: Descriptor
    config: ImageConfig
    layers: tuple[Layer, ...]


def store_image(
    store: MemoryStore,
    *layers: Layer,
    platform: Platform = AMD64,
    diff_ids: tuple[Digest, ...] | None = None,
    run: dict[str, object] | None = None,
) -> Stored:
    found = tuple(layer.diff_id for layer in layers) if diff_ids is None else diff_ids
    config = ImageConfig(platform, run or {}, found, (History("t0", "base"),), created="t0")
    raw = config.to_bytes()
    manifest = Manifest.make(
        Descriptor.of(raw, media.OCI_CONFIG), [layer.descriptor for layer in layers]
    )
    for content in (raw, manifest.raw):
        store.blobs[Digest.of(content)] = content
    return Stored(manifest.descriptor, config, layers)


def store_index(store: MemoryStore, *manifests: tuple[Descriptor, Platform]) -> Descriptor:
    index = Index.make(replace(one, platform=platform) for one, platform in manifests)
    store.blobs[index.descriptor.digest] = index.raw
    return index.descriptor


@contextmanager
def open_shop(
    state: Path, *, step: Step | None = None, **contexts: ContextDirectory
) -> Iterator[Worker]:
    """Everything that steps need but a sandbox."""

    def no_sandbox() -> Sandbox:
        raise AssertionError("no step runs here")

    scratch = state / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with silent() as quiet:
        blobs = Blobs(LocalStore(state / "content"), step or quiet)
        records = SqliteRecords(state / "cache.db")
        yield Worker(
            store=blobs.store,
            snapshots=Snapshots(state, scratch, blobs, Damage(quiet)),
            cache=Cache(records, blobs),
            downloader=Downloader(no_network, Cache(records, blobs), blobs.store),
            codec=codec("gzip"),
            clock=Clock(1_000_000_000),
            scratch=scratch,
            state=state,
            contexts=contexts,
            secrets={},
            environment={},
            sandbox=no_sandbox,
            making=Once[tuple[LayerResult, bool]](),
            running=Limiter(4),
        )
        records.close()
