"""Build caches in registries and in OCI layouts, by the attributes that buildx gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from shipline.cachestores.unusable import InvalidCacheAttributes, UnusableCache
from shipline.content import CacheRepository, CacheStore, MemoryStore, OciLayout, RepositoryCache
from shipline.errors import ContentError, NotFound
from shipline.oci import Reference
from shipline.registry import Client
from shipline.units import parse_boolean

_DOCUMENTS = {"image-manifest", "oci-mediatypes"}
_KNOWN = {
    "registry": {"ref", "registry.insecure", *_DOCUMENTS},
    "local": {"src", "dest", "tag", "digest", "reset", *_DOCUMENTS},
}


def open_repository(kind: str, attributes: Mapping[str, str], client: Client) -> CacheStore:
    """The cache of type registry or local; makes no request. Raises UsageError."""
    for name in attributes:
        if name not in _KNOWN[kind]:
            raise InvalidCacheAttributes(
                f"a cache of type={kind} has no {name}=",
                hint=f"it has {', '.join(sorted(_KNOWN[kind]))}",
            )
    return _registry(attributes, client) if kind == "registry" else _local(attributes)


def _registry(attributes: Mapping[str, str], client: Client) -> CacheStore:
    if not attributes.get("ref"):
        raise InvalidCacheAttributes("a cache of type=registry needs ref=IMAGE")
    reference = Reference.parse(attributes["ref"]).or_latest
    repository = client.repository(reference).unmirrored
    wanted = str(reference.digest or reference.tag)
    return _open(repository, wanted, attributes, repository.name)


def _local(attributes: Mapping[str, str]) -> CacheStore:
    place = attributes.get("dest") or attributes.get("src")
    if not place:
        raise InvalidCacheAttributes(
            "a cache of type=local needs dest=DIRECTORY to write, src= to read",
        )
    try:
        layout: OciLayout | MemoryStore = OciLayout(Path(place), create="dest" in attributes)
    except NotFound:
        layout = MemoryStore()  # nothing was written there yet
    except ContentError as error:
        return UnusableCache(error)
    name = attributes.get("digest") or attributes.get("tag") or "latest"
    reset = _is_true(attributes, "reset", "false")
    clean = layout.remove_unnamed if reset and isinstance(layout, OciLayout) else None
    return _open(layout, name, attributes, clean=clean)


def _open(
    repository: CacheRepository,
    wanted: str,
    attributes: Mapping[str, str],
    name: str = "",
    clean: Callable[[], None] | None = None,
) -> RepositoryCache:
    return RepositoryCache(
        repository,
        wanted,
        docker=not _is_true(attributes, "oci-mediatypes"),
        image_manifest=_is_true(attributes, "image-manifest"),
        name=name,
        clean=clean,
    )


def _is_true(attributes: Mapping[str, str], name: str, default: str = "true") -> bool:
    if (value := parse_boolean(attributes.get(name, default))) is None:
        raise InvalidCacheAttributes(f"a cache with {name}={attributes[name]}: it is true or false")
    return value
