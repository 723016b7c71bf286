"""The build graph: vertices of operations, equal where their work is equal (BuildKit's LLB).

An operation is a frozen value with everything that its result depends on; `key` is a digest of its
named fields, never of a `repr`. A vertex adds its inputs; its digest names the work, so that two
platforms that ask for the same get the same vertex.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import ClassVar, Self

from shipline.build.request import Network
from shipline.errors import Span
from shipline.oci import Digest, Resources, Ulimit


def key_of(kind: str, **parts: object) -> str:
    """A key for work: the SHA-256 of `kind`, which ends in a version, and of named parts, as JSON.

    Change the version when the same parts mean other work. Raises TypeError for a part that is not
    a JSON value.
    """
    text = json.dumps([kind, parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


MAIN_CONTEXT = "context"
"""The name of the build context among those of --build-context."""


@dataclass(frozen=True, slots=True)
class _Operation:
    """The key covers every compared field, so that a new field cannot be forgotten."""

    KIND: ClassVar[str]

    def key(self) -> str:
        """Equal for operations that do the same with the same inputs."""
        return key_of(self.KIND, **_compared(self))


def _compared(value: object) -> dict[str, object]:
    assert is_dataclass(value)
    return {one.name: _json(getattr(value, one.name)) for one in fields(value) if one.compare}


def _json(value: object) -> object:
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    return _compared(value) if is_dataclass(value) else value


@dataclass(frozen=True, slots=True)
class ScratchOp(_Operation):
    """Nothing."""

    KIND = "scratch/1"


@dataclass(frozen=True, slots=True)
class ImageOp(_Operation):
    """An image as it is: the manifest of one platform."""

    KIND = "image/1"

    manifest: Digest


@dataclass(frozen=True, slots=True)
class ContextOp(_Operation):
    """A directory of this machine: the build context, or one of `--build-context`."""

    KIND = "context/1"

    name: str


@dataclass(frozen=True, slots=True)
class RunMount:
    """A mount of a RUN. `input` is the number of the vertex input that it shows, 0 for none;
    `owned` says whether mode, uid or gid were given.
    """

    type: str
    target: str
    source: str = ""
    input: int = 0
    id: str = ""
    env: str = ""
    read_only: bool = False
    required: bool = False
    sharing: str = "shared"
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    owned: bool = False


@dataclass(frozen=True, slots=True)
class HttpOp(_Operation):
    """Files at URLs, each in a directory with its number as name: tuples of URL, file name, and the
    required digest, empty for any.
    """

    KIND = "http/1"

    files: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class RunOp(_Operation):
    """A command in the root filesystem of input 0. Its result depends neither on `proxies` nor on
    `resources`.
    """

    KIND = "run/2"

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: str
    platform: str
    mounts: tuple[RunMount, ...] = ()
    network: Network = "default"
    insecure: bool = False
    hosts: tuple[tuple[str, str], ...] = ()
    shm_size: int = 0
    ulimits: tuple[Ulimit, ...] = ()
    script: tuple[str, str] = ("", "")
    hostname: str = ""
    proxies: tuple[str, ...] = field(default=(), compare=False)
    resources: Resources = field(default_factory=Resources, compare=False)


@dataclass(frozen=True, slots=True)
class CopyOp(_Operation):
    """Files of input 1, or `files` given inline, placed on top of input 0."""

    KIND = "copy/1"

    sources: tuple[str, ...]
    destination: str
    files: tuple[tuple[str, str], ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: str = "never"


@dataclass(frozen=True, slots=True)
class MakeDirectoryOp(_Operation):
    """A directory, with its parents, on top of input 0; new ones belong to `user`."""

    KIND = "directory/1"

    path: str
    user: str = ""


Op = ScratchOp | ImageOp | ContextOp | HttpOp | RunOp | CopyOp | MakeDirectoryOp


@dataclass(frozen=True, slots=True)
class Origin:
    """What a vertex fetched from outside: a URI without logins, and digests by algorithm."""

    uri: str
    digests: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """How a vertex is displayed; `origin` is what messages call the source that it copies from."""

    name: str
    stage: str = ""
    number: str = ""
    platform: str = ""
    span: Span | None = None
    origin: str = ""


@dataclass(frozen=True, eq=False)
class Vertex:
    """One piece of work, compared and hashed by `digest`; `fresh` forbids a cached result."""

    op: Op
    inputs: tuple[Self, ...] = ()
    label: Label = Label("")
    fresh: bool = False
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        inputs = [one.digest for one in self.inputs]
        object.__setattr__(self, "digest", key_of("vertex/1", op=self.op.key(), inputs=inputs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vertex) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def chain(self) -> Iterator[Vertex]:
        """The vertex and the ones below it that make its root filesystem, top first."""
        vertex: Vertex | None = self
        while vertex is not None:
            yield vertex
            vertex = vertex.inputs[0] if vertex.inputs else None


def walk(*roots: Vertex) -> Iterator[Vertex]:
    """Every vertex that `roots` need, inputs before what uses them, each once."""
    seen: set[str] = set()
    waiting = [(root, False) for root in reversed(roots)]
    while waiting:
        vertex, ready = waiting.pop()
        if ready:
            yield vertex
        elif vertex.digest not in seen:
            seen.add(vertex.digest)
            waiting.append((vertex, True))
            waiting.extend((one, False) for one in reversed(vertex.inputs))
