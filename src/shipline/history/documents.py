"""Documents of the images that a run made: indexes, manifests, configurations and statements. They
are small, and in no cache.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from shipline.history.recorder import DOCUMENTS
from shipline.oci import Descriptor, media

_TYPES = {
    "https://spdx.dev/ImageDocument": "sbom",
    "https://slsa.dev/provenance/v0.2": "provenance",
    "https://slsa.dev/provenance/v1": "provenance",
}
_UNKNOWN = "unknown/unknown"


class ImageDocument(Struct, frozen=True):
    """A document: `type` is its media type, or that of the statement in it, and `word` what
    `docker buildx history inspect attachment` calls that.
    """

    digest: str
    media_type: str
    data: bytes
    platform: str = ""
    type: str = ""

    @property
    def word(self) -> str:
        if self.type in media.INDEXES:
            return "index"
        if self.type in media.MANIFESTS:
            return "manifest"
        if self.type in (media.OCI_CONFIG, media.DOCKER_CONFIG):
            return "image"
        return _TYPES.get(self.type, self.type)


def write_documents(directory: Path, documents: Mapping[Descriptor, bytes]) -> None:
    """Keep documents in the directory of a run."""
    found = [ImageDocument(str(one.digest), one.media_type, raw) for one, raw in documents.items()]
    (directory / DOCUMENTS).write_bytes(msgspec.msgpack.encode(found))


def read_documents(directory: Path) -> list[ImageDocument]:
    """What was kept, parents first, with types and platforms; nothing if it cannot be read, and
    nothing that has not its digest.
    """
    try:
        data = (directory / DOCUMENTS).read_bytes()
        found = msgspec.msgpack.decode(data, type=list[ImageDocument])
        kept = [one for one in found if _is_genuine(one)]
        left = {one.digest: one for one in kept}
        return [
            document
            for one in kept[::-1]
            if one.media_type in (*media.INDEXES, *media.MANIFESTS) and one.digest in left
            for document in _walk(left.pop(one.digest), "", "", left)
        ]
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return []


def _is_genuine(one: ImageDocument) -> bool:
    return str(Descriptor.of(one.data, one.media_type).digest) == one.digest


def _walk(
    one: ImageDocument, platform: str, kind: str, left: dict[str, ImageDocument]
) -> Iterator[ImageDocument]:
    """The document and those below it, taken from what is `left`: each once."""
    yield ImageDocument(one.digest, one.media_type, one.data, platform, kind or one.media_type)
    if one.media_type not in (*media.INDEXES, *media.MANIFESTS):
        return
    parsed = json.loads(one.data)
    entries = parsed.get("manifests", ())
    platforms = {entry["digest"]: _platform(entry) for entry in entries}
    for entry in entries:
        about = entry.get("annotations", {}).get("vnd.docker.reference.digest", "")
        where = platforms.get(about) or platforms[entry["digest"]]
        yield from _below(entry, where, left)
    for entry in (parsed.get("config", {}), *parsed.get("layers", ())):
        yield from _below(entry, platform, left)


def _below(
    entry: Mapping[str, object], platform: str, left: dict[str, ImageDocument]
) -> Iterable[ImageDocument]:
    child = left.pop(str(entry.get("digest")), None)
    if child is None:
        return ()
    notes = entry.get("annotations")
    kind = notes.get("in-toto.io/predicate-type", "") if isinstance(notes, dict) else ""
    return _walk(child, platform, kind, left)


def _platform(entry: Mapping[str, dict[str, str]]) -> str:
    found = entry.get("platform", {})
    parts = (found.get("os", ""), found.get("architecture", ""), found.get("variant", ""))
    shown = "/".join(filter(None, parts))
    return "" if shown == _UNKNOWN else shown
