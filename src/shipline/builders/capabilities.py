"""What each driver can: values that a request is compared with before anything is sent.

Source: docker/buildx, driver/features.go; the exporters and caches of moby/buildkit and of moby's
builder-next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum

from shipline.build.request import BuildRequest, CacheBackend, ContextKind, Output
from shipline.errors import BuilderError
from shipline.oci import Resources


class Capability(StrEnum):
    """Something that a request may call for; the value names it in messages and documents."""

    SEVERAL_PLATFORMS = "several platforms in one build"
    PUSH = "--push"
    PUSH_BY_DIGEST = "push-by-digest=true"
    LOAD = "--load"
    ARCHIVES = "--output type=oci or type=docker with dest"
    LAYOUTS = "--output with tar=false"
    FILES = "--output type=local or type=tar"
    ATTESTATIONS = "--provenance or --sbom"
    CACHE_FROM_REGISTRY = "--cache-from type=registry"
    CACHE_TO_REGISTRY = "--cache-to type=registry"
    CACHE_INLINE = "--cache-to type=inline"
    CACHE_LOCAL = "--cache-from or --cache-to type=local"
    CACHE_GHA = "--cache-from or --cache-to type=gha"
    CACHE_S3 = "--cache-from or --cache-to type=s3"
    CACHE_AZBLOB = "--cache-from or --cache-to type=azblob"
    CACHE_MOUNTS = "mounts=true of a cache"
    CONTEXT_STDIN = "a context on standard input"
    CONTEXT_LAYOUT = "a context in an OCI layout"
    LIMITS = "--resource"


Capabilities = frozenset[Capability]

_ALL = frozenset(Capability)
_NATIVE_ONLY = frozenset({Capability.LAYOUTS, Capability.CACHE_MOUNTS, Capability.LIMITS})
"""What no driver of BuildKit is asked for."""
_BUILDKIT = _ALL - _NATIVE_ONLY
_OWN_STORE = frozenset(
    {
        Capability.PUSH,
        Capability.LOAD,
        Capability.FILES,
        Capability.CACHE_FROM_REGISTRY,
        Capability.CACHE_INLINE,
        Capability.CONTEXT_STDIN,
    }
)

_FEATURES = {
    Capability.SEVERAL_PLATFORMS: "Multi-platform build",
    Capability.ATTESTATIONS: "Attestation",
    Capability.ARCHIVES: "OCI exporter",
    Capability.CACHE_TO_REGISTRY: "Cache export",
}
"""The words of buildx, which scripts look for."""

OWN_STORE = "docker (own image store)"
"""The driver `docker` where the engine does not keep images in containerd."""

CAPABILITIES: Mapping[str, Capabilities] = {
    "native": _ALL,
    "docker": _BUILDKIT - {Capability.CACHE_S3, Capability.CACHE_AZBLOB},
    OWN_STORE: _OWN_STORE,
    "docker-container": _BUILDKIT,
    "kubernetes": _BUILDKIT,
    "remote": _BUILDKIT,
    "ssh": _BUILDKIT - {Capability.CONTEXT_LAYOUT, Capability.CACHE_LOCAL},
}
"""By driver, in the order in which they are named."""


def require_capable(builder: str, driver: str, request: BuildRequest) -> None:
    """Raises BuilderError, with the drivers that can, for a request that `driver` cannot fulfil.

    `driver` is a key of CAPABILITIES.
    """
    missing = [one for one in _calls_for(request) if one not in CAPABILITIES[driver]]
    if not missing:
        return
    features = dict.fromkeys(_FEATURES.get(one, one.value) for one in missing)
    able = [name for name, has in CAPABILITIES.items() if has.issuperset(missing)]
    known, more = driver.partition(" ")[::2]
    raise BuilderError(
        f"{', '.join(features)} is not supported for the {known} driver: the builder {builder}"
        f"{more and f' {more}'} cannot do {', '.join(dict.fromkeys(missing))}",
        code="builder-incapable",
        hint=f"drivers that can: {', '.join(able)}"
        " (`--builder native` builds in this process; see `shipline builder ls`)",
    )


def _calls_for(request: BuildRequest) -> Iterator[Capability]:
    if len(request.platforms) > 1:
        yield Capability.SEVERAL_PLATFORMS
    for output in request.outputs:
        yield from _of_output(output)
    if request.attested:
        yield Capability.ATTESTATIONS
    for source in request.cache.sources:
        yield from _of_cache(source, Capability.CACHE_FROM_REGISTRY)
    for target in request.cache.targets:
        yield from _of_cache(target.backend, Capability.CACHE_TO_REGISTRY)
    if request.context.kind is ContextKind.STDIN:
        yield Capability.CONTEXT_STDIN
    if any(one.kind is ContextKind.LAYOUT for one in request.build_contexts.values()):
        yield Capability.CONTEXT_LAYOUT
    limits = request.run.resources
    if limits != Resources(cgroup_parent=limits.cgroup_parent):
        yield Capability.LIMITS


def _of_output(output: Output) -> Iterator[Capability]:
    if output.push:
        yield Capability.PUSH
    if output.push_by_digest:
        yield Capability.PUSH_BY_DIGEST
    if output.loads:
        yield Capability.LOAD
    elif output.type in ("oci", "docker"):
        yield Capability.ARCHIVES if output.archive else Capability.LAYOUTS
    elif output.type in ("local", "tar"):
        yield Capability.FILES


_CACHES = {
    "inline": Capability.CACHE_INLINE,
    "local": Capability.CACHE_LOCAL,
    "gha": Capability.CACHE_GHA,
    "s3": Capability.CACHE_S3,
    "azblob": Capability.CACHE_AZBLOB,
}


def _of_cache(backend: CacheBackend, registry: Capability) -> Iterator[Capability]:
    yield _CACHES.get(backend.type, registry)
    if backend.mounts:
        yield Capability.CACHE_MOUNTS
