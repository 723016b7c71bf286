"""The build graph: vertices of operations, equal where their work is equal (BuildKit's LLB).

An operation is a frozen value with everything that its result depends on; `key` is a digest of its
named fields, never of a `repr`. A vertex adds its inputs; its digest names the work, so that two
platforms that ask for the same get the same vertex.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar, Self

from msgspec import Struct
from msgspec.structs import force_setattr

from shipline.build.request import Network
from shipline.errors import Span
from shipline.oci import Digest, Resources, Ulimit

if TYPE_CHECKING:
    from shipline.git import GitSource


def key_of(kind: str, **parts: object) -> str:
    """A key for work: the SHA-256 of `kind`, which ends in a version, and of named parts, as JSON.

    Change the version when the same parts mean other work. Raises TypeError for a part that is not
    a JSON value.
    """
    text = json.dumps([kind, parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


MAIN_CONTEXT = "context"
"""The name of the build context among those of --build-context."""


class _Operation(Struct, frozen=True):
    """The key covers every field that is not in WITHOUT_EFFECT: a new one cannot be forgotten."""

    KIND: ClassVar[str]
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()

    def key(self) -> str:
        """Equal for operations that do the same with the same inputs."""
        return key_of(self.KIND, **parts_of(self, self.WITHOUT_EFFECT))


def parts_of(value: Struct, omitted: frozenset[str] = frozenset()) -> dict[str, object]:
    names = (name for name in value.__struct_fields__ if name not in omitted)
    return {name: _json(getattr(value, name)) for name in names}


def _json(value: object) -> object:
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return parts_of(value) if isinstance(value, Struct) else value


class ScratchOp(_Operation, frozen=True):
    """Nothing."""

    KIND = "scratch/1"


class ImageOp(_Operation, frozen=True):
    """An image as it is: the manifest of one platform."""

    KIND = "image/1"

    manifest: Digest


class ContextOp(_Operation, frozen=True):
    """A directory of this machine: the build context, or one of `--build-context`."""

    KIND = "context/1"

    name: str


class RunMount(Struct, frozen=True):
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


class GitOp(_Operation, frozen=True):
    """The files of a commit of a Git repository; the login is not part of the key."""

    KIND = "git/1"

    source: GitSource

    def key(self) -> str:
        return key_of(self.KIND, **parts_of(self.source, frozenset({"login"})))


class HttpOp(_Operation, frozen=True):
    """The file at a URL, as `name` in a directory; `checksum` is its required digest, or empty."""

    KIND = "http/2"

    url: str
    name: str
    checksum: str = ""


class RunOp(_Operation, frozen=True):
    """A command in the root filesystem of input 0. Its result depends neither on `proxies` nor on
    `resources`, nor on which optional devices are `absent`.
    """

    KIND = "run/2"
    WITHOUT_EFFECT = frozenset({"proxies", "resources", "absent"})

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
    proxies: tuple[str, ...] = ()
    resources: Resources = Resources()
    devices: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class CopyOp(_Operation, frozen=True):
    """Files of other inputs, and then `files` given inline, placed on top of input 0.

    `inputs` has the number of the input for each of `sources`; without it all are of input 1.
    Archives are unpacked `never`, or all `archives`, or only `local archives`: not those at URLs.
    """

    KIND = "copy/2"

    sources: tuple[str, ...]
    destination: str
    files: tuple[tuple[str, str], ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    unpack: str = "never"
    inputs: tuple[int, ...] = ()

    def inputs_of_sources(self) -> Iterator[tuple[str, int]]:
        """Each source with the number of its input."""
        return zip(self.sources, self.inputs or repeat(1), strict=False)


class MakeDirectoryOp(_Operation, frozen=True):
    """A directory, with its parents, on top of input 0; new ones belong to `user`. `timestamp` is
    theirs, in nanoseconds, -1 for the time of the build.
    """

    KIND = "directory/2"

    path: str
    user: str = ""
    timestamp: int = -1


Op = ScratchOp | ImageOp | ContextOp | GitOp | HttpOp | RunOp | CopyOp | MakeDirectoryOp


class Material(Struct, frozen=True):
    """What a vertex downloaded (a term of SLSA): a URI without logins, digests by algorithm."""

    uri: str
    digests: tuple[tuple[str, str], ...]


class VertexLabel(Struct, frozen=True):
    """How a vertex is displayed; `origin` is what messages call the source that it copies from,
    `hint` what may help if it fails.
    """

    name: str
    stage: str = ""
    number: str = ""
    platform: str = ""
    span: Span | None = None
    origin: str = ""
    hint: str = ""


class Vertex(Struct, frozen=True, eq=False):
    """One piece of work, compared and hashed by `digest`; `fresh` forbids a cached result."""

    op: Op
    inputs: tuple[Self, ...] = ()
    label: VertexLabel = VertexLabel("")
    fresh: bool = False
    digest: str = ""

    def __post_init__(self) -> None:
        inputs = [vertex.digest for vertex in self.inputs]
        force_setattr(self, "digest", key_of("vertex/1", op=self.op.key(), inputs=inputs))

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
