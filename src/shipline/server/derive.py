"""The records that follow from others, made again: indexes, holders and counters.

What is written is what should be there; what should not is taken away by `registry repair`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from shipline.content import LocalStore
from shipline.errors import ContentError
from shipline.metadata import Key, Records, walk
from shipline.oci import Digest, Index, Manifest, parse_manifest
from shipline.server.entries import COUNTED, Changes, derived_entries

_log = logging.getLogger(__name__)
_BATCH = 2000  # records
Derived = Iterator[tuple[Key, bytes]]


def derive(records: Records, store: LocalStore) -> None:
    """Write all derived records of a directory that nobody uses."""
    batch: Changes = {}
    for (name,), _ in walk(records, ("repository",)):
        for key, value in chain(derived_of(records, store, name), counted(records, name)):
            batch[key] = value
            if len(batch) >= _BATCH:
                records.write(batch, durable=False)
                batch = {}
    records.write(batch)


def derived_of(records: Records, store: LocalStore, name: str) -> Derived:
    """The indexes and holders of a repository, from its blobs, manifests and tags."""
    for (digest,), _ in walk(records, ("blob", name)):
        yield ("holder", digest, name, "blob"), b""
    for (tag,), value in walk(records, ("tag", name)):
        yield ("tagged", name, json.loads(value)["digest"], tag), b""
    for (digest,), value in walk(records, ("manifest", name)):
        yield ("holder", digest, name, "manifest"), b""
        content = read_manifest(store, Digest.parse(digest), json.loads(value)["mediaType"])
        if content is not None:
            for key, part in derived_entries(name, Digest.parse(digest), content).items():
                yield key, part or b""


def counted(records: Records, name: str) -> Derived:
    """The counters of a repository, from its blobs, manifests and tags."""
    found: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    for kind in ("blob", "manifest", "tag"):
        for _, value in walk(records, (kind, name)):
            found[kind + "s"] += 1
            found["bytes"] += 0 if kind == "tag" else int(json.loads(value)["size"])
    for what, number in found.items():
        if number:
            yield ("usage", name, what), b"%d" % number


def read_manifest(store: LocalStore, digest: Digest, media_type: str) -> Manifest | Index | None:
    """The manifest in a file of the directory, None where the file is gone or is not that."""
    try:
        raw = store.path(digest).read_bytes()
        if Digest.of(raw, digest.algorithm) == digest:
            return parse_manifest(raw, media_type)
    except FileNotFoundError:
        pass
    except ContentError as error:
        _log.error("%s: %s", digest, error)
    return None
