"""The records of a data directory: their keys and values, and those derived from others.

Key parts, then the value (JSON or empty); names and digests as text:

  repository  <name>                        the repository exists
  blob        <name> <digest>               the repository has this blob: size, at, by
  manifest    <name> <digest>               it has this manifest: mediaType, size, subject, at,
                                            by; for lists total, platforms, about (`ListedFacts`)
  tag         <name> <tag>                  digest, at, by
  tagged      <name> <digest> <tag>         the tags of a manifest
  newest      <name> <reversed time> <tag>  the tags of images, the newest first; stale and
                                            without meaning if the tag's record has another time
  dated       <name>                        all tags have such a record
  referrer    <name> <subject> <digest>     descriptor of a manifest that names the subject
  needed      <name> <digest> <manifest>    the manifest refers to this blob or child manifest
  deleted     <name> <digest>               deleted; its signatures are to be collected: at
  holder      <digest> <name> <kind>        a repository uses this file, as blob or manifest
  usage       <name> <counter>              blobs, manifests, tags, bytes
  proven      <name> <subject> <statement>  signed by a trusted key: at, in (the manifest with it)
  vouched     <name> <digest> <index>       a proven index lists this manifest
  upload      <id>                          repository, algorithm, at, by
  purge       <time> <path>                 a CDN must forget this path
  cached      <name> <digest>               it came from an upstream: size, used (Unix time)
  checked     <name> <tag>                  the upstream confirmed the tag: at

See journal.py for `journal` and `journaling`.

`at` is Unix time in seconds; `by` is the account, left out if unknown. `tagged`, `referrer`,
`needed`, `holder` and `usage` are derived from the others and from the manifests' bytes.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal

from shipline.content import LocalStore
from shipline.errors import ContentError
from shipline.metadata import Key, Records, walk
from shipline.oci import Descriptor, Digest, Index, Manifest, media, parse_manifest

Changes = dict[Key, bytes | None]
Counts = dict[Key, int]
_IMAGE_TAG = re.compile(r"(sha256|sha512)-([0-9a-f]{64}|[0-9a-f]{128})(?:\..+)?\Z")
_END_MS = 10**14 - 1  # in the year 5138
COUNTED = ("blobs", "bytes", "manifests", "tags")


@dataclass(frozen=True, slots=True)
class Usage:
    """The contents of a repository in numbers; `bytes` counts each blob and manifest once."""

    blobs: int = 0
    bytes: int = 0
    manifests: int = 0
    tags: int = 0


def pack(**value: Any) -> bytes:
    """The value of a record, without empty strings."""
    kept = {key: part for key, part in value.items() if part != ""}
    return json.dumps(kept, separators=(",", ":")).encode()


def blob_entries(name: str, digest: Digest, size: int, *, at: float, by: str = "") -> Changes:
    """The records of a blob in a repository."""
    return {
        ("repository", name): b"",
        ("blob", name, str(digest)): pack(size=size, at=at, by=by),
        ("holder", str(digest), name, "blob"): b"",
        ("cached", name, str(digest)): None,
    }


def no_blob_entries(name: str, digest: str) -> Changes:
    """Deletes the records of a blob in a repository."""
    return {
        ("blob", name, digest): None,
        ("holder", digest, name, "blob"): None,
        ("cached", name, digest): None,
    }


def manifest_entries(
    name: str,
    digest: Digest,
    content: Manifest | Index,
    *,
    at: float,
    by: str = "",
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> Changes:
    """The records of a manifest in a repository, derived ones included."""
    subject = "" if content.subject is None else str(content.subject.digest)
    record = pack(
        mediaType=content.media_type, size=len(content.raw), subject=subject, at=at, by=by, **facts
    )
    return {
        ("repository", name): b"",
        ("manifest", name, str(digest)): record,
        ("holder", str(digest), name, "manifest"): b"",
        ("deleted", name, str(digest)): None,
        ("cached", name, str(digest)): None,
        **derived_entries(name, digest, content),
    }


def derived_entries(name: str, digest: Digest, content: Manifest | Index) -> Changes:
    """The records derived from a manifest's bytes."""
    changes: Changes = {
        ("needed", name, str(need.digest), str(digest)): b"" for need in needs(content)
    }
    if content.subject is not None:
        key = ("referrer", name, str(content.subject.digest), str(digest))
        changes[key] = json.dumps(_referrer(digest, content).to_json()).encode()
    return changes


def no_manifest_entries(name: str, digest: str, subject: str) -> Changes:
    """Deletes the records of a manifest, except those that only its bytes name."""
    changes: Changes = {
        ("manifest", name, digest): None,
        ("holder", digest, name, "manifest"): None,
        ("cached", name, digest): None,
    }
    if subject:
        changes[("referrer", name, subject, digest)] = None
    return changes


def tag_entries(name: str, tag: str, digest: Digest, *, at: float, by: str = "") -> Changes:
    """The records of a tag."""
    changes: Changes = {
        ("tag", name, tag): pack(digest=str(digest), at=at, by=by),
        ("tagged", name, str(digest), tag): b"",
    }
    if subject_of_tag(tag) is None:
        changes[newest_key(name, tag, at)] = b""
    return changes


def no_tag_entries(name: str, tag: str, digest: str) -> Changes:
    """Deletes the records of a tag that points to `digest`, except `newest`."""
    return {("tag", name, tag): None, ("tagged", name, digest, tag): None}


def newest_key(name: str, tag: str, at: float) -> Key:
    """The key of a tag that was set at `at`: keys are in byte order, the newest is the first."""
    return ("newest", name, f"{_END_MS - int(at * 1000):014}", tag)


def subject_of_tag(tag: str) -> str | None:
    """The digest in a cosign tag's name, None for an ordinary tag."""
    match = _IMAGE_TAG.match(tag)
    return f"{match[1]}:{match[2]}" if match else None


def counts(name: str, **deltas: int) -> Counts:
    """Changes of a repository's usage counters."""
    return {("usage", name, counter): delta for counter, delta in deltas.items() if delta}


def needs(content: Manifest | Index) -> Iterator[Descriptor]:
    """What a manifest refers to and the repository must have; the subject is not required."""
    if isinstance(content, Index):
        yield from content.manifests
        return
    yield content.config
    yield from (layer for layer in content.layers if not _elsewhere(layer))


def kind_of(content: Manifest | Index, need: Descriptor) -> Literal["manifest", "blob"]:
    """The kind of record of what `content` refers to: BuildKit's caches are indexes that list
    layers.
    """
    listed = isinstance(content, Index) and need.media_type in media.NAMED
    return "manifest" if listed else "blob"


def _elsewhere(layer: Descriptor) -> bool:
    """Layers that are not pushed (image specification, "Non-Distributable Layers")."""
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
    """Write all derived records of a directory that is not being served."""
    batch: Changes = {}
    for (name,), _ in walk(records, ("repository",)):
        for key, value in chain(derived_of(records, store, name), counted(records, name)):
            batch[key] = value
            if len(batch) >= _BATCH:
                records.write(batch, durable=False)
                batch = {}
    records.write(batch)


def derived_of(records: Records, store: LocalStore, name: str) -> Derived:
    """The derived records of a repository, counters excepted."""
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
    """The usage counters of a repository, counted from its blobs, manifests and tags."""
    counts: Counter[str] = Counter(dict.fromkeys(COUNTED, 0))
    for kind in ("blob", "manifest", "tag"):
        for _, value in walk(records, (kind, name)):
            counts[kind + "s"] += 1
            counts["bytes"] += 0 if kind == "tag" else int(json.loads(value)["size"])
    for counter, number in counts.items():
        if number:
            yield ("usage", name, counter), b"%d" % number


def read_manifest(store: LocalStore, digest: Digest, media_type: str) -> Manifest | Index | None:
    """The manifest with this digest, None if its file is missing or damaged."""
    try:
        raw = store.path(digest).read_bytes()
        if Digest.of(raw, digest.algorithm) == digest:
            return parse_manifest(raw, media_type)
    except FileNotFoundError:
        pass
    except ContentError as error:
        _log.error("%s: %s", digest, error)
    return None
