"""A repository with very many blobs and tags: `python -m bench.scale [--blobs N] [--tags N]`.

Fills a data directory below the protocol (files of a few bytes, records in large writes), then
measures what an operator feels: pages of the tag list, a collection that finds nothing, one that
frees a tenth, a quick and a whole check, and the memory of it all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bench.meter import directory
from shipline.metadata import DRIVERS
from shipline.oci import Descriptor, Digest, Manifest
from shipline.server.entries import Changes, blob_entries, counted, manifest_entries, tag_entries
from shipline.server.fsck import CheckSummary, check
from shipline.server.gc import GcOptions, collect
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage
from shipline.units import Duration

_NAME = "big/repository"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LAYERS = 90  # of a manifest
_BATCH = 2000  # blobs
_LONG_AGO = 1_000_000_000.0  # Unix time
_PAGE = 1000  # tags


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blobs", type=int, default=100_000)
    parser.add_argument("--tags", type=int, default=100_000)
    parser.add_argument("--metadata", choices=DRIVERS, default="sqlite")
    parser.add_argument("--directory", type=directory, default=None, help="on the disk to measure")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-scale-", dir=options.directory))
    try:
        with closing(Storage(root, metadata=options.metadata)) as storage:
            storage.promises.trust()
            _run(storage, options.blobs, options.tags)
    finally:
        shutil.rmtree(root)


def _run(storage: Storage, blobs: int, tags: int) -> None:
    with _timed(f"filled with {blobs:,} blobs and {tags:,} tags"):
        _fill(storage, blobs, tags)
    manifests, grace = Manifests(storage), GcOptions(every=None, grace=Duration(3_600_000))
    times = list(_pages(manifests))
    print(
        f"tag list, {len(times)} pages of {_PAGE}: p50 {times[len(times) // 2]:.2f} ms, "
        f"worst {times[-1]:.2f} ms"
    )
    for what in ("finds nothing", "frees a tenth"):
        if what == "frees a tenth":
            _orphan(storage)
        with _timed(f"collection that {what}"):
            report = collect(storage, grace)
        print(json.dumps(report.to_json()))
    for quick in (True, False):
        summary = CheckSummary()
        with _timed("quick check" if quick else "whole check"):
            faults = sum(1 for _ in check(storage, summary, quick=quick))
        print(f"{summary.files:,} files, {faults} faults")


def _fill(storage: Storage, blobs: int, tags: int) -> None:
    """Nine tenths of the blobs in manifests, a tenth in tagged ones, as many tags as asked for."""
    images: list[Digest] = []
    for start in range(0, blobs, _BATCH):
        batch = [_blob(storage, number) for number in range(start, min(start + _BATCH, blobs))]
        changes: Changes = {}
        for target in batch:
            changes |= blob_entries(_NAME, target.digest, target.size, at=_LONG_AGO)
        for first in range(0, len(batch), _LAYERS + 1):
            config, *layers = batch[first : first + _LAYERS + 1]
            images.append(_manifest(storage, changes, config, layers))
        storage.records.write(changes, durable=False)
    for start in range(0, tags, _BATCH):
        changes = {}
        for number in range(start, min(start + _BATCH, tags)):
            image = images[number % len(images)]
            changes |= tag_entries(_NAME, f"v{number:07}", image, at=_LONG_AGO)
        storage.records.write(changes, durable=False)
    storage.records.write(dict(counted(storage.records, _NAME)))


def _blob(storage: Storage, number: int) -> Descriptor:
    content = b"%d" % number
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    fd = os.open(storage.store.path(digest), os.O_CREAT | os.O_WRONLY, 0o444)
    os.write(fd, content)
    os.close(fd)
    return Descriptor(_LAYER, digest, len(content))


def _manifest(
    storage: Storage, changes: Changes, config: Descriptor, layers: list[Descriptor]
) -> Digest:
    image = Manifest.make(Descriptor(_CONFIG, config.digest, config.size), layers)
    digest = image.descriptor.digest
    storage.store.path(digest).write_bytes(image.raw)
    changes |= manifest_entries(_NAME, digest, image, at=_LONG_AGO)
    return digest


def _pages(manifests: Manifests) -> Iterator[float]:
    """Milliseconds of each page, in order of size."""
    times, after = [], ""
    while True:
        begun = time.perf_counter()
        page = manifests.tags(_NAME, after, _PAGE)
        times.append((time.perf_counter() - begun) * 1000)
        if not page:
            yield from sorted(times[:-1])
            return
        after = page[-1]


def _orphan(storage: Storage) -> None:
    """Delete every tenth manifest."""
    manifests = Manifests(storage)
    listed, after = [], ""
    while page := manifests.listing(_NAME, after, 1000):
        listed += [one.digest for one in page]
        after = str(page[-1].digest)
    for digest in listed[::10]:
        manifests.delete(_NAME, digest)


@contextmanager
def _timed(what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{what}: {time.perf_counter() - begun:.1f} s, peak memory {peak} MiB", flush=True)


if __name__ == "__main__":
    main()
