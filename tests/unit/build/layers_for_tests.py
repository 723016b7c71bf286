"""Layers, images, workers and solvers made by hand, out of real stores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipline.build.base_images import BaseImage
from shipline.build.blobs import Blobs
from shipline.build.block_indexes import BlockIndexes
from shipline.build.cache import Cache
from shipline.build.caching.mounts import CacheMounts
from shipline.build.clock import Clock
from shipline.build.downloads import Downloader, no_network
from shipline.build.executor import Executor
from shipline.build.faults import Damage
from shipline.build.graph import ImageOp
from shipline.build.layer_files import LayerFiles
from shipline.build.remotes import Remotes
from shipline.build.selecting import ContextDirectory
from shipline.build.snapshots import Snapshots
from shipline.build.solver import Solver
from shipline.build.worker import Worker
from shipline.content import LocalStore, MemoryStore, Store
from shipline.events import Step, silent
from shipline.history import FileTables
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
from shipline.oci import Descriptor, Digest, History, ImageConfig, Index, Manifest, Platform, media
from shipline.sandbox import Sandbox
from shipline.values import replace

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
def open_worker(state: Path, *, step: Step | None = None) -> Iterator[Worker]:
    """All that steps which copy files need, in a state directory."""
    scratch = state / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with silent() as quiet, closing(SqliteRecords(state / "cache.db")) as records:
        files = LayerFiles(state, scratch, Damage(quiet))
        blobs = Blobs(LocalStore(state / "content"), step or quiet, files)
        yield Worker(
            store=blobs.store,
            snapshots=Snapshots(state, scratch, blobs, files, step or quiet),
            cache=Cache(records, blobs, state, on_result=blobs.remember),
            codec=codec("gzip"),
            clock=Clock(1_000_000_000, clamp=True),
            scratch=scratch,
            indexes=BlockIndexes(state, blobs.store, files, scratch),
            tables=FileTables(state),
        )


def open_solver(
    worker: Worker,
    step: Step,
    images: Mapping[ImageOp, BaseImage] | None = None,
    contexts: Mapping[str, ContextDirectory] | None = None,
    open_sandbox: Callable[[], Sandbox] | None = None,
) -> Solver:
    """A solver that runs no commands."""

    def no_sandbox() -> Sandbox:
        raise AssertionError("no step runs here")

    mounts = CacheMounts(Blobs(worker.store, step), worker.scratch)
    executor = Executor(open_sandbox or no_sandbox, {}, {}, {}, worker.scratch, mounts)
    return Solver(worker, executor, remotes_of(worker), contexts or {}, images or {}, step)


def remotes_of(worker: Worker) -> Remotes:
    """Remotes of a build without a network."""
    downloader = Downloader(no_network, worker.cache, worker.store)
    return Remotes(worker.scratch, worker.scratch, downloader, dict(os.environ))
