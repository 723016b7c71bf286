"""The records of a data directory: their keys and values, and those that follow from others.

Keys by their parts, values JSON or empty; names and digests as text:

repository  <name>                        the repository exists
blob        <name> <digest>               this repository has this blob: size, at, by
manifest    <name> <digest>               it has this manifest: mediaType, size, subject, at, by
tag         <name> <tag>                  digest, at, by
tagged      <name> <digest> <tag>         the tags of a manifest
referrer    <name> <subject> <digest>     descriptor of a manifest that names the subject
needed      <name> <digest> <manifest>    the manifest does not work without this blob or child
deleted     <name> <digest>               a manifest, its signatures are to go too: at
holder      <digest> <name> <kind>        a repository needs this file, as blob or manifest
usage       <name> <what>                 counters: blobs, manifests, tags, bytes
proven      <name> <subject> <statement>  a trusted key has made this one: at, in (a manifest)
vouched     <name> <digest> <index>       something is proven about this index, which lists it
upload      <id>                          repository, algorithm, at, by

`at` is in seconds of Unix time, `by` who did it, left out where that is not known. `tagged`,
`referrer`, `needed`, `holder` and `usage` follow from the others and from the manifests' bytes.

What is written is what should be there; what should not is taken away by `registry repair`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from shipline.content import LocalStore
from shipline.errors import ContentError
from shipline.metadata import Key, Records, walk
from shipline.oci import Descriptor, Digest, Index, Manifest, media, parse_manifest

Changes = dict[Key, bytes | None]
Counts = dict[Key, int]
COUNTED = ("blobs", "bytes", "manifests", "tags")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a repository holds; `bytes` are those of its blobs and manifests, each once."""

    blobs: int = 0
    bytes: int = 0
    manifests: int = 0
    tags: int = 0


def pack(**value: Any) -> bytes:
    """The value of a record, without what is empty text."""
    kept = {key: part for key, part in value.items() if part != ""}
    return json.dumps(kept, separators=(",", ":")).encode()


def blob_entries(name: str, digest: Digest, size: int, *, at: float, by: str = "") -> Changes:
    """What says that a repository has a blob."""
    return {
        ("repository", name): b"",
        ("blob", name, str(digest)): pack(size=size, at=at, by=by),
        ("holder", str(digest), name, "blob"): b"",
    }


def no_blob_entries(name: str, digest: str) -> Changes:
    return {("blob", name, digest): None, ("holder", digest, name, "blob"): None}


def manifest_entries(
    name: str, digest: Digest, content: Manifest | Index, *, at: float, by: str = ""
) -> Changes:
    """What says that a repository has a manifest, with every index over it."""
    subject = "" if content.subject is None else str(content.subject.digest)
    record = pack(
        mediaType=content.media_type, size=len(content.raw), subject=subject, at=at, by=by
    )
    return {
        ("repository", name): b"",
        ("manifest", name, str(digest)): record,
        ("holder", str(digest), name, "manifest"): b"",
        ("deleted", name, str(digest)): None,
        **derived_entries(name, digest, content),
    }


def derived_entries(name: str, digest: Digest, content: Manifest | Index) -> Changes:
    """The indexes that follow from a manifest's bytes."""
    found: Changes = {
        ("needed", name, str(need.digest), str(digest)): b"" for need in needs(content)
    }
    if content.subject is not None:
        key = ("referrer", name, str(content.subject.digest), str(digest))
        found[key] = json.dumps(_referrer(digest, content).to_json()).encode()
    return found


def no_manifest_entries(name: str, digest: str, subject: str) -> Changes:
    """Without the manifest, except for what only its bytes tell."""
    changes: Changes = {
        ("manifest", name, digest): None,
        ("holder", digest, name, "manifest"): None,
    }
    if subject:
        changes[("referrer", name, subject, digest)] = None
    return changes


def tag_entries(name: str, tag: str, digest: Digest, *, at: float, by: str = "") -> Changes:
    return {
        ("tag", name, tag): pack(digest=str(digest), at=at, by=by),
        ("tagged", name, str(digest), tag): b"",
    }


def no_tag_entries(name: str, tag: str, digest: str) -> Changes:
    return {("tag", name, tag): None, ("tagged", name, digest, tag): None}


def counts(name: str, **deltas: int) -> Counts:
    """Additions to a repository's usage."""
    return {("usage", name, what): delta for what, delta in deltas.items() if delta}


def needs(content: Manifest | Index) -> Iterator[Descriptor]:
    """What a repository must have before it takes the manifest; the subject is not needed."""
    if isinstance(content, Index):
        yield from content.manifests
        return
    yield content.config
    yield from (layer for layer in content.layers if not _elsewhere(layer))


def kind_of(content: Manifest | Index, need: Descriptor) -> Literal["manifest", "blob"]:
    """Where a repository keeps what `content` needs; caches of BuildKit are indexes of layers."""
    listed = isinstance(content, Index) and need.media_type in media.NAMED
    return "manifest" if listed else "blob"


def _elsewhere(layer: Descriptor) -> bool:
    """Layers that registries do not hold (image specification, "Non-Distributable Layers")."""
    kind = layer.media_type
    return bool(layer.urls) or ".nondistributable." in kind or ".foreign." in kind


def _referrer(digest: Digest, content: Manifest | Index) -> Descriptor:
    kind = content.artifact_type
    if not kind and isinstance(content, Manifest):
        kind = content.config.media_type
    return Descriptor(
        content.media_type,
        digest,
        len(content.raw),
        annotations=content.annotations,
        artifact_type=kind,
    )


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
