"""What a build was asked for, as one frozen value; nothing in it is text still to be parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from shipline.oci import Platform, Reference

if TYPE_CHECKING:
    from shipline.layer import Compression

SHM_SIZE = 64 << 20  # bytes of /dev/shm unless asked otherwise
Network = Literal["default", "none", "host"]
OutputType = Literal["image", "local", "tar", "oci", "docker", "cacheonly"]


class ContextKind(StrEnum):
    """Where files of a context come from."""

    LOCAL = "local"
    STDIN = "stdin"
    GIT = "git"
    HTTP = "http"
    IMAGE = "docker-image"
    LAYOUT = "oci-layout"


@dataclass(frozen=True, slots=True)
class Context:
    """Files to build from. `location` is a path, a URL or an image, without the scheme of kinds
    IMAGE and LAYOUT. For STDIN it is where an archive was unpacked, empty before that and where
    only the Dockerfile comes that way; `newest` is the latest time of the archive's files, in
    seconds since 1970.
    """

    kind: ContextKind
    location: str
    newest: int | None = None


class Level(StrEnum):
    """Which part of the image an annotation is written to (BuildKit, docs/annotations.md)."""

    MANIFEST = "manifest"
    INDEX = "index"
    MANIFEST_DESCRIPTOR = "manifest-descriptor"
    INDEX_DESCRIPTOR = "index-descriptor"

    @property
    def of_index(self) -> bool:
        return self in (Level.INDEX, Level.INDEX_DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class Annotation:
    """`platform` None: every platform."""

    level: Level
    key: str
    value: str
    platform: Platform | None = None


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """How an image is written. No `compression`: layers as they are; `level` None: any level, or
    the usual one for new layers.

    `force`: layers of base images too; `docker`: the media types of Docker's manifest format.
    """

    compression: Compression | Literal[""] = ""
    level: int | None = None
    force: bool = False
    docker: bool = False
    annotations: tuple[Annotation, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """Where the result goes, and how it is written there (the exporters of BuildKit).

    `image` is pushed or kept here, `docker` without a `destination` is loaded into the engine of
    this machine; `destination` is the path to write to, `-` for standard output. `names` are the
    output's own, besides the tags of the request.
    """

    type: OutputType
    destination: str = ""
    names: tuple[Reference, ...] = ()
    format: OutputFormat = OutputFormat()
    push: bool = False
    push_by_digest: bool = False
    insecure: bool = False  # plain HTTP to the registries of its names
    archive: bool = True  # one tar file instead of a directory
    split: bool | None = None  # a directory for each platform; None: where there are several
    rewrite_timestamp: bool = False

    @property
    def loads(self) -> bool:
        """Whether the result goes into the engine of this machine, not into a file."""
        return self.type == "docker" and not self.destination


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret by name; its value is read only where a step mounts it. One of the two is set."""

    id: str
    file: Path | None = None
    env: str | None = None


@dataclass(frozen=True, slots=True)
class Ssh:
    """An agent socket or keys by name; no paths: the agent of SSH_AUTH_SOCK."""

    id: str
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class CacheBackend:
    """A cache to read from or to write to: `type` registry, local, inline, gha, s3 or azblob."""

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Which earlier results may be used, and where this build's are kept for others."""

    disabled: bool = False
    disabled_stages: tuple[str, ...] = ()
    sources: tuple[CacheBackend, ...] = ()
    targets: tuple[CacheBackend, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """A line for /etc/hosts; `address` may be the word `host-gateway`."""

    name: str
    address: str


@dataclass(frozen=True, slots=True)
class Ulimit:
    """A resource limit of processes, -1 for none (setrlimit(2)); `name` without RLIMIT_."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Resources:
    """Control group limits of each step. Sizes in bytes, periods in microseconds, 0: no limit;
    `memory_swap` -1: no limit on swap.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What surrounds every RUN; `entitlements` are network.host, security.insecure, device[=..]."""

    network: Network = "default"
    hosts: tuple[Host, ...] = ()
    entitlements: frozenset[str] = frozenset()
    ulimits: tuple[Ulimit, ...] = ()
    shm_size: int = SHM_SIZE
    cgroup_parent: str = ""
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True)
class Attestation:
    """A statement to add to the image: `type` provenance or sbom; `disabled`: expressly not."""

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """What to do with the Dockerfile: build it, or only evaluate `method` (check, outline, ...)."""

    method: str = "build"
    json: bool = False
    ignore_status: bool = False


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """Everything `shipline build` was asked for.

    `dockerfile` None is `Dockerfile` in the context, `-` standard input. No `platforms` means the
    one of this machine. `outputs` includes what --push and --load stand for. `build_args` holds
    values only: names taken from the environment are resolved, or absent. Paths are as given,
    relative to the working directory.
    """

    context: Context
    dockerfile: str | None = None
    target: str | None = None
    build_contexts: Mapping[str, Context] = field(default_factory=dict)
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    platforms: tuple[Platform, ...] = ()
    pull: bool = False
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[Ssh, ...] = ()
    run: RunOptions = field(default_factory=RunOptions)
    cache: CacheOptions = field(default_factory=CacheOptions)
    tags: tuple[Reference, ...] = ()
    outputs: tuple[Output, ...] = ()
    attestations: tuple[Attestation, ...] = ()
    call: Call = field(default_factory=Call)
    iidfile: Path | None = None
    metadata_file: Path | None = None

    @property
    def push(self) -> bool:
        return any(output.push for output in self.outputs)

    @property
    def load(self) -> bool:
        return any(output.loads for output in self.outputs)

    @property
    def target_platforms(self) -> tuple[Platform, ...]:
        """The platforms to build for, each once; that of this machine where none was asked for."""
        return tuple(dict.fromkeys(self.platforms or (Platform.local(),)))

    def names_of(self, output: Output) -> tuple[Reference, ...]:
        """The names that `output` gives: its own, and the tags that are no other output's."""
        others = {name for one in self.outputs for name in one.names}
        tags = (tag for tag in self.tags if tag not in others)
        return tuple(dict.fromkeys([*output.names, *tags]))
