"""A build request as one frozen value, completely parsed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from msgspec import Struct, field

from shipline.errors import ShiplineError
from shipline.oci import Platform, Reference, Resources, Ulimit
from shipline.values import Redacted

if TYPE_CHECKING:
    from shipline.layer import Compression

SHM_SIZE = 64 << 20  # bytes of /dev/shm unless asked otherwise
Network = Literal["default", "none", "host"]
OutputType = Literal["image", "local", "tar", "oci", "docker", "cacheonly"]


class ContextKind(StrEnum):
    """Where the files of a context come from."""

    LOCAL = "local"
    STDIN = "stdin"
    GIT = "git"
    HTTP = "http"
    IMAGE = "docker-image"
    LAYOUT = "oci-layout"
    TARGET = "target"


class Context(Struct, frozen=True):
    """Files to build from. `location` is a path, a URL or an image, without the scheme for kinds
    IMAGE and LAYOUT, the name of another target of the run, and empty for STDIN.

    When a context from elsewhere was brought here, `directory` has its files; it stays empty if
    standard input is only the Dockerfile. `newest` is then the time of a commit or an archive, in
    seconds since 1970; `digest` is that of the commit or file, as `sha1:..`; `pin` names the files
    for good, as a commit does; and `owners` are those of files in an archive, by path.
    """

    kind: ContextKind
    location: str
    directory: str = ""
    newest: int | None = None
    digest: str = ""
    pin: str = ""
    owners: Mapping[str, tuple[int, int]] = {}

    @property
    def is_local(self) -> bool:
        """Whether it is a directory that the user named, to which ignore rules apply."""
        return self.kind is ContextKind.LOCAL

    @property
    def place(self) -> str:
        """The directory with the files; empty if there is none."""
        return self.location if self.is_local else self.directory


class Level(StrEnum):
    """Which part of the image an annotation is written to (BuildKit, docs/annotations.md)."""

    MANIFEST = "manifest"
    INDEX = "index"
    MANIFEST_DESCRIPTOR = "manifest-descriptor"
    INDEX_DESCRIPTOR = "index-descriptor"

    @property
    def of_index(self) -> bool:
        return self in (Level.INDEX, Level.INDEX_DESCRIPTOR)


class Annotation(Struct, frozen=True):
    """An annotation of the image for `platform`, or of all for None."""

    level: Level
    key: str
    value: str
    platform: Platform | None = None


class OutputFormat(Struct, frozen=True):
    """How an image is written. An empty `compression` leaves layers as they are; `level` None is
    any level, and the default for new layers. `force` recompresses layers of base images, too;
    `docker` chooses the media types of Docker's manifest format. Attestations of an image are OCI
    artifacts that refer to it, or with `artifact` false what older BuildKits wrote; `inline` adds
    those too that are only for images.
    """

    compression: Compression | Literal[""] = ""
    level: int | None = None
    force: bool = False
    docker: bool = False
    annotations: tuple[Annotation, ...] = ()
    artifact: bool = True
    inline: bool = True
    attested: bool = False


class Output(Struct, frozen=True):
    """Where a result goes, and its format (the exporters of BuildKit).

    `destination` is the path to write to, `-` for standard output; `docker` without one loads the
    result into the engine of this machine. `names` are those of this output, besides the tags of
    the request.
    """

    type: OutputType
    destination: str = ""
    names: tuple[Reference, ...] = ()
    format: OutputFormat = OutputFormat()
    push: bool = False
    push_by_digest: bool = False
    insecure: bool = False  # push over plain HTTP
    archive: bool = True  # oci, docker: a tar file, not a directory
    split: bool | None = None  # a directory per platform; None: if several
    attestation_prefix: str = ""  # local, tar: before the names of their files
    rewrite_timestamp: bool = False
    epoch: str | None = None  # instead of SOURCE_DATE_EPOCH; empty for none
    store: bool = False  # image: in containerd
    unpack: bool = False  # image: and unpacked there
    canonical: bool = False  # image: there under NAME@DIGEST, too
    dangling_prefix: str = ""  # image: of the name, which is PREFIX@DIGEST, if there is no other
    context: str = ""  # docker: the context of docker's command whose engine it goes to
    delete: bool = False  # local: remove the other files of the directory

    @property
    def loads(self) -> bool:
        """Whether the result is loaded into the engine of this machine."""
        return self.type == "docker" and not self.destination


class Secret(Struct, frozen=True):
    """A secret, from a file or a variable; its value is read only when a step mounts it."""

    id: str
    file: Path | None = None
    env: str | None = None

    def value(self, environment: Mapping[str, str]) -> bytes | None:
        """The bytes of the secret; None if the variable is not set. Raises OSError."""
        if self.env is not None:
            found = environment.get(self.env)
            return None if found is None else os.fsencode(found)
        assert self.file is not None
        return self.file.read_bytes()


class Ssh(Struct, frozen=True):
    """An SSH agent socket or keys; without paths the agent of SSH_AUTH_SOCK."""

    id: str
    paths: tuple[Path, ...] = ()


_NAMED_BY = ("ref", "dest", "src", "scope", "name", "bucket", "container")


class CacheBackend(Redacted, frozen=True):
    """A cache outside of this machine: `type` registry, local, inline, gha, s3 or azblob, with the
    attributes of that type, among them keys and tokens. `mounts` adds the directories of RUN
    --mount=type=cache.
    """

    hidden: ClassVar = frozenset({"attributes"})

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    mounts: bool = False

    def __hash__(self) -> int:
        return hash((self.type, self.mounts))

    def __str__(self) -> str:
        names = (self.attributes[key] for key in _NAMED_BY if key in self.attributes)
        return f"{self.type} cache {next(names, '')}".rstrip()


class CacheTarget(Struct, frozen=True):
    """A cache to write to: in mode `min` the layers of the result, in mode `max` those of every
    step, in `format`. A failure to write is a warning, and an error where `required`.
    """

    backend: CacheBackend
    mode: Literal["min", "max"] = "min"
    format: OutputFormat = OutputFormat()
    required: bool = False


class CacheSettings(Struct, frozen=True):
    """Which earlier results may be used, and where those of this build go."""

    disabled: bool = False
    disabled_stages: tuple[str, ...] = ()
    sources: tuple[CacheBackend, ...] = ()
    targets: tuple[CacheTarget, ...] = ()


class Host(Struct, frozen=True):
    """A line for /etc/hosts; `address` may be the word `host-gateway`."""

    name: str
    address: str


class RunOptions(Struct, frozen=True):
    """The options of every RUN; `entitlements` are network.host, security.insecure, device[=..].

    Of a build that is `planned_only` no command runs, so that none is refused.
    """

    network: Network = "default"
    hosts: tuple[Host, ...] = ()
    entitlements: frozenset[str] = frozenset()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = SHM_SIZE
    resources: Resources = Resources()
    planned_only: bool = False


class ProvenanceOptions(Struct, frozen=True):
    """How to state in an attestation how the image was built (BuildKit, slsa-provenance.md).

    `mode` max adds the steps, the Dockerfile and the build arguments. `inline_only` leaves it out
    of outputs that are files; `filename` is its name there.
    """

    mode: Literal["min", "max"] = "max"
    version: Literal["v1", "v0.2"] = "v1"
    builder_id: str = ""
    reproducible: bool = False
    inline_only: bool = False
    filename: str = "provenance.json"


class SbomOptions(Struct, frozen=True):
    """How to list in an attestation the packages that the image contains.

    `generator` is `syft`, a program, or `builtin`, the scan of this one; an empty one takes
    syft where it is installed. `cyclonedx` adds a document in that format. Any other generator is
    the name of an image, which is run with `parameters`.
    """

    generator: str = ""
    cyclonedx: bool = False
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def is_image(self) -> bool:
        return self.generator not in ("", "syft", "builtin")


class PolicyOptions(Struct, frozen=True):
    """Policies in Rego that judge what the build reads: `files`, and without `reset` that of the
    Dockerfile. With `strict` there must be one.
    """

    files: tuple[str, ...] = ()
    reset: bool = False
    disabled: bool = False
    strict: bool = False


class Call(Struct, frozen=True):
    """What to do with the Dockerfile: build it, or only evaluate `method` (check, outline, ...)."""

    method: str = "build"
    json: bool = False
    ignore_status: bool = False


class BuildRequest(Struct, frozen=True):
    """Everything that `shipline build` is asked for.

    `dockerfile` None is `Dockerfile` in the context, `-` is `inline`, or else standard input.
    Without `platforms`, the build is for this machine. `outputs` includes those of --push and
    --load. `build_args` has values only: names without a value are resolved or left out. `vcs` says
    what the context is in a repository: source, revision. Without `local_images`, and with `pull`,
    base images are those of registries, never of this machine's container engine. Paths are
    relative to the working directory.
    """

    context: Context
    dockerfile: str | None = None
    inline: bytes | None = None
    target: str | None = None
    build_contexts: Mapping[str, Context] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    platforms: tuple[Platform, ...] = ()
    pull: bool = False
    local_images: bool = True
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[Ssh, ...] = ()
    run: RunOptions = RunOptions()
    cache: CacheSettings = CacheSettings()
    tags: tuple[Reference, ...] = ()
    outputs: tuple[Output, ...] = ()
    provenance: ProvenanceOptions | None = None
    sbom: SbomOptions | None = None
    policy: PolicyOptions = PolicyOptions()
    vcs: Mapping[str, str] = field(default_factory=dict)
    call: Call = Call()
    iidfile: Path | None = None
    metadata_file: Path | None = None
    metadata_provenance: Literal["min", "max"] | None = None

    @property
    def attested(self) -> bool:
        return self.provenance is not None or self.sbom is not None

    @property
    def reads_stdin(self) -> bool:
        """Whether the context or the Dockerfile is standard input."""
        typed = self.dockerfile == "-" and self.inline is None
        return typed or self.context.kind is ContextKind.STDIN

    @property
    def is_piped(self) -> bool:
        """Whether the build reads or writes a stream, and cannot be repeated."""
        return self.reads_stdin or any(output.destination == "-" for output in self.outputs)

    @property
    def is_dropped(self) -> bool:
        """Whether the result goes nowhere, by request."""
        return bool(self.outputs) and all(output.type == "cacheonly" for output in self.outputs)

    @property
    def push(self) -> bool:
        return any(output.push for output in self.outputs)

    @property
    def load(self) -> bool:
        return any(output.loads for output in self.outputs)

    @property
    def target_platforms(self) -> tuple[Platform, ...]:
        """The platforms to build for, each once; by default that of this machine."""
        return tuple(dict.fromkeys(self.platforms or (Platform.local(),)))

    def names_of(self, output: Output) -> tuple[Reference, ...]:
        """The names that `output` gives: its own, and the tags that no other output has."""
        others = {name for one in self.outputs for name in one.names}
        tags = (tag for tag in self.tags if tag not in others)
        return tuple(dict.fromkeys([*output.names, *tags]))


@contextmanager
def in_target(name: str) -> Iterator[None]:
    """Errors inside of the block begin with the name of the target, if it has one."""
    try:
        yield
    except ShiplineError as error:
        if name:
            error.name_part(f"target {name}")
        raise


def linked_targets(request: BuildRequest) -> tuple[str, ...]:
    """The targets whose results are contexts of `request`."""
    contexts = request.build_contexts.values()
    return tuple(one.location for one in contexts if one.kind is ContextKind.TARGET)


def insecure_hosts(request: BuildRequest) -> frozenset[str]:
    """The registries that are to be used over plain HTTP (`registry.insecure`)."""
    tags = request.tags if any(one.insecure for one in request.outputs) else ()
    backends = (*request.cache.sources, *(one.backend for one in request.cache.targets))
    caches = (
        Reference.parse(one.attributes.get("ref", ""))
        for one in backends
        if one.attributes.get("registry.insecure", "").lower() in ("1", "t", "true")
    )
    return frozenset(one.host for one in (*tags, *caches))
