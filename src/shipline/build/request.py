"""What a build was asked for, as one frozen value; nothing in it is text still to be parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from shipline.oci import Platform, Reference

SHM_SIZE = 64 << 20  # bytes of /dev/shm unless asked otherwise


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


@dataclass(frozen=True, slots=True)
class Output:
    """Where the result goes: `type` is image, local, tar, oci, docker or cacheonly.

    `registry` is image with push=true. Attributes are those of BuildKit's exporters: dest, name,
    push, push-by-digest, compression, compression-level, oci-mediatypes, rewrite-timestamp, ...
    """

    type: str
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def destination(self) -> str:
        """The path to write to; `-` is standard output, empty where there is none."""
        return self.attributes.get("dest", "")

    @property
    def pushes(self) -> bool:
        return self.type == "image" and self.enabled("push")

    @property
    def loads(self) -> bool:
        """Whether the result goes into the engine of this machine, not into a file."""
        return self.type == "docker" and not self.destination

    def enabled(self, name: str, default: bool = False) -> bool:
        """A boolean attribute; `parse_output` has checked that it is one."""
        value = self.attributes.get(name)
        return default if value is None else value == "true"


class Level(StrEnum):
    """Which part of the image an annotation is written to (BuildKit, docs/annotations.md)."""

    MANIFEST = "manifest"
    INDEX = "index"
    MANIFEST_DESCRIPTOR = "manifest-descriptor"
    INDEX_DESCRIPTOR = "index-descriptor"


@dataclass(frozen=True, slots=True)
class Annotation:
    """`platform` None: every platform."""

    level: Level
    key: str
    value: str
    platform: Platform | None = None


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

    network: Literal["default", "none", "host"] = "default"
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
        return any(output.pushes for output in self.outputs)

    @property
    def load(self) -> bool:
        return any(output.loads for output in self.outputs)
