"""How an image was built: the predicate of SLSA provenance, with the fields of BuildKit.

Source: BuildKit, docs/attestations/slsa-provenance.md and slsa-definitions.md; slsa.dev/provenance,
versions 1 and 0.2. Values of secrets are nowhere in it, logins are cut out of URLs, and the values
of build arguments are in `mode=max` only.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.base_images import BaseImage
from shipline.build.clock import rfc3339_ns
from shipline.build.definition import Definition, define, define_files, secrets_of
from shipline.build.graph import MAIN_CONTEXT, ContextOp, ImageOp, Material, RunOp, Vertex, walk
from shipline.build.request import SHM_SIZE, BuildRequest, Context, ContextKind, ProvenanceOptions
from shipline.net import without_logins
from shipline.oci import Descriptor, Platform, Reference
from shipline.values import replace

Json = dict[str, Any]

TYPES = {"v1": "https://slsa.dev/provenance/v1", "v0.2": "https://slsa.dev/provenance/v0.2"}
"""The predicate types, by version."""

_BUILD_TYPE = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_BUILD_TYPE_0_2 = "https://mobyproject.org/buildkit@v1"
_FRONTEND = "dockerfile.v0"
_DEFAULT = "Dockerfile"


class Invocation(Struct, frozen=True):
    """One run of the builder: a random `id`, and its times in nanoseconds since 1970."""

    id: str
    started_ns: int
    finished_ns: int


class Built(Struct, frozen=True):
    """A finished build, besides its request: `materials` returns what a vertex downloaded, `layers`
    the layers that it made, `generator` is the image that lists the packages.
    """

    root: Vertex
    images: Mapping[ImageOp, BaseImage]
    materials: Callable[[Vertex], Sequence[Material]]
    layers: Callable[[Vertex], Sequence[Descriptor]]
    dockerfile: df.Dockerfile
    invocation: Invocation
    generator: BaseImage | None = None


def provenance_of(request: BuildRequest, built: Built, options: ProvenanceOptions) -> Json:
    """The predicate in the version and mode of `options`."""
    predicate = _version_1(request, built, options, steps=options.mode == "max")
    predicate = predicate if options.version == "v1" else to_version_0_2(predicate)
    return {key: _redacted(value) for key, value in predicate.items()}


def provenance_for_metadata(
    request: BuildRequest, built: Built, mode: Literal["min", "max"]
) -> Json:
    """The predicate of `--metadata-file`: as with buildx it is one of version 0.2 and has all
    arguments, and mode `min` leaves out the steps, and when they ran.
    """
    builder = "" if request.provenance is None else request.provenance.builder_id
    options = ProvenanceOptions("max", builder_id=builder)
    predicate = to_version_0_2(_version_1(request, built, options, steps=mode == "max"))
    return {key: _redacted(value) for key, value in for_metadata(predicate, mode).items()}


def for_metadata(predicate: Json, mode: str) -> Json:
    """What of a predicate of version 0.2 is in metadata."""
    left_out = ("buildConfig", "metadata") if mode == "min" else ()
    return {key: one for key, one in predicate.items() if key not in left_out}


def image_uri(name: Reference, platform: Platform, kind: str = "docker") -> str:
    """The package URL of an image (purl-spec, type docker, or oci for one in a layout)."""
    familiar = Reference(name.host, name.repository).familiar
    qualifiers = {"platform": str(platform)}
    if name.digest is not None:
        qualifiers = {"digest": str(name.digest), **qualifiers}
    version = f"@{name.tag}" if name.tag else ""
    return f"pkg:{kind}/{familiar}{version}?{urlencode(qualifiers, quote_via=quote, safe=':')}"


def _version_1(
    request: BuildRequest, built: Built, options: ProvenanceOptions, *, steps: bool
) -> Json:
    vertices = list(walk(built.root))
    local = _locals(request, vertices)
    complete = not local
    offline = all(one.op.network == "none" for one in vertices if isinstance(one.op, RunOp))
    args, every = _arguments(request, options)
    internal: Json = {"builderPlatform": str(Platform.local())}
    details: Json = {"vcs": dict(request.vcs)} if request.vcs else {}
    wanted: Json = {"frontend": _FRONTEND, **({"args": args} if args else {})}
    if steps:
        definition = define(built.root, lambda op: _name_of(built.images[op]))
        internal["buildConfig"] = definition.to_json()
        details |= _sources(request, built, definition)
    if options.mode == "max":
        wanted |= secrets_of(vertices)
    else:
        every = every and not secrets_of(vertices)
    metadata: Json = {
        "invocationId": built.invocation.id,
        "startedOn": rfc3339_ns(built.invocation.started_ns),
        "finishedOn": rfc3339_ns(built.invocation.finished_ns),
        "buildkit_metadata": details,
    }
    if complete and offline:
        metadata["buildkit_hermetic"] = True
    metadata["buildkit_completeness"] = {"request": every, "resolvedDependencies": complete}
    if options.reproducible:
        metadata["buildkit_reproducible"] = True
    if local:
        wanted["locals"] = [{"name": name} for name in local]
    stated: Json = {
        "buildType": _BUILD_TYPE,
        "externalParameters": {"configSource": _config_source(request, built), "request": wanted},
        "internalParameters": internal,
    }
    if found := dependencies(vertices, built):
        stated["resolvedDependencies"] = found
    return {
        "buildDefinition": stated,
        "runDetails": {"builder": {"id": options.builder_id}, "metadata": metadata},
    }


def to_version_0_2(predicate: Json) -> Json:
    """A predicate of version 1 in the fields of version 0.2."""
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    external, internal = definition["externalParameters"], definition["internalParameters"]
    source, metadata = dict(external["configSource"]), details["metadata"]
    if path := source.pop("path", ""):
        source["entryPoint"] = path
    complete = metadata.get("buildkit_completeness", {})
    found: Json = {
        "buildInvocationID": metadata["invocationId"],
        "buildStartedOn": metadata["startedOn"],
        "buildFinishedOn": metadata["finishedOn"],
        "completeness": {
            "parameters": complete.get("request", False),
            "environment": True,
            "materials": complete.get("resolvedDependencies", False),
        },
        "reproducible": metadata.get("buildkit_reproducible", False),
        f"{_BUILD_TYPE_0_2}#metadata": metadata.get("buildkit_metadata", {}),
    }
    if metadata.get("buildkit_hermetic"):
        found[f"{_BUILD_TYPE_0_2}#hermetic"] = True
    result: Json = {
        "builder": details["builder"],
        "buildType": _BUILD_TYPE_0_2,
        "invocation": {
            "configSource": source,
            "parameters": external["request"],
            "environment": {"platform": internal["builderPlatform"]},
        },
    }
    if materials := definition.get("resolvedDependencies"):
        result["materials"] = materials
    if config := internal.get("buildConfig"):
        result["buildConfig"] = config
    return {**result, "metadata": found}


def _arguments(request: BuildRequest, options: ProvenanceOptions) -> tuple[dict[str, str], bool]:
    """The arguments of the frontend, and whether these are all that count: `mode=min` leaves out
    build arguments and labels.
    """
    run = request.run
    args = {f"context:{name}": _named(name, one) for name, one in request.build_contexts.items()}
    args["target"] = request.target or ""
    args["add-hosts"] = ",".join(f"{host.name}={host.address}" for host in run.hosts)
    args["force-network-mode"] = "" if run.network == "default" else run.network
    args["shm-size"] = "" if run.shm_size == SHM_SIZE else str(run.shm_size)
    args["ulimit"] = ",".join(f"{one.name}={one.soft}:{one.hard}" for one in run.ulimits)
    args["no-cache"] = ",".join(request.cache.disabled_stages)
    args = {name: value for name, value in args.items() if value}
    if request.cache.disabled:
        args["no-cache"] = ""
    own = {f"build-arg:{name}": value for name, value in request.build_args.items()}
    own |= {f"label:{name}": value for name, value in request.labels.items()}
    if options.mode == "max":
        args |= own
    return dict(sorted(args.items())), options.mode == "max" or not own


def _named(name: str, context: Context) -> str:
    kind = context.kind
    if kind is ContextKind.LOCAL:
        return f"local:{name}"
    if kind is ContextKind.TARGET:
        return f"target:{context.location}"
    schemes = (ContextKind.IMAGE, ContextKind.LAYOUT)
    return f"{kind}://{context.location}" if kind in schemes else context.location


def _config_source(request: BuildRequest, built: Built) -> Json:
    """Where the Dockerfile is from: empty but for its path where that is this machine."""
    path, context = built.dockerfile.file, request.context
    if context.digest:
        algorithm, _, value = context.digest.partition(":")
        uri = without_logins(context.location)
        return {"uri": uri, "digest": {algorithm: value}, "path": path}
    return {"path": path.rpartition("/")[2] if context.is_local else path}


def _locals(request: BuildRequest, vertices: Iterable[Vertex]) -> list[str]:
    """The directories that were read; of the main context at least the Dockerfile and the ignore
    file, for which BuildKit lists both.
    """
    used = {vertex.op.name for vertex in vertices if isinstance(vertex.op, ContextOp)}
    if request.context.digest:
        return sorted(used - {MAIN_CONTEXT})
    return sorted({*used, MAIN_CONTEXT, "dockerfile"})


def dependencies(vertices: Iterable[Vertex], built: Built) -> list[Json]:
    """The images and files that were fetched, each once."""
    found: dict[str, Material] = {}
    for vertex in vertices:
        if isinstance(vertex.op, ImageOp):
            material = _material_of(built.images[vertex.op])
            found.setdefault(material.uri, material)
        for one in built.materials(vertex):
            found.setdefault(one.uri, one)
    if built.generator is not None:
        material = _material_of(built.generator)
        found.setdefault(material.uri, material)
    return [{"uri": one.uri, "digest": dict(one.digests)} for one in found.values()]


def _material_of(image: BaseImage) -> Material:
    assert image.reference.digest is not None
    digest = image.reference.digest
    kind = "oci" if image.layout else "docker"
    name = image.reference if image.pinned else replace(image.reference, digest=None)
    uri = image_uri(name, image.config.platform, kind)
    return Material(uri, ((digest.algorithm, digest.hex),))


def _name_of(image: BaseImage) -> tuple[str, Platform]:
    scheme = "oci-layout" if image.layout else "docker-image"
    return f"{scheme}://{image.reference}", image.config.platform


def _sources(request: BuildRequest, built: Built, definition: Definition) -> Json:
    """The Dockerfile and the places of the steps in it, and the layers that they made."""
    file = built.dockerfile.file.rpartition("/")[2]
    text = without_logins(built.dockerfile.stages[0].span.source)
    read = [file, f"{file}.dockerignore", *(["dockerfile"] if file == _DEFAULT else [])]
    info = {
        "filename": file,
        "language": "Dockerfile",
        "data": base64.b64encode(text.encode("utf-8", "surrogateescape")).decode("ascii"),
        **define_files(read),
    }
    layers = {
        f"{definition.outputs[vertex]}:0": [[one.plain.to_json() for one in found]]
        for vertex in built.root.chain()
        if definition.outputs[vertex] and (found := built.layers(vertex))
    }
    for vertex, step in definition.outputs.items():
        if isinstance(vertex.op, ImageOp):
            own = [one.plain.to_json() for one in built.layers(vertex)]
            layers.setdefault(f"{step}:0", [own])
    return {"source": {"locations": definition.locations(), "infos": [info]}, "layers": layers}


def _redacted(value: Any) -> Any:
    """The document without logins in its texts."""
    if isinstance(value, str):
        return without_logins(value) if "://" in value else value
    if isinstance(value, dict):
        return {key: _redacted(one) for key, one in value.items()}
    return [_redacted(one) for one in value] if isinstance(value, list) else value
