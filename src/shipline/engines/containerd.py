"""containerd's image store over its API (containerd/containerd, api/services).

Everything that is written belongs to a lease until the names keep it, so that its garbage collector
leaves it alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO

from msgspec import Struct, field

from shipline.content import Fetcher, LocalStore, Reader, VerifiedReader, chunks, fetch_all
from shipline.engines.engine import (
    EngineError,
    EngineRefused,
    LoadableImage,
    UnpackableImage,
    connecting,
)
from shipline.grpc.connection import Code, Connection, RpcCall, RpcError, SocketPipe, connected
from shipline.grpc.containerd import (
    ContentInfo,
    InfoRequest,
    InfoResponse,
    ReadRequest,
    ReadResponse,
    WriteAction,
    WriteRequest,
    WriteResponse,
)
from shipline.grpc.protobuf import M, decode, encode
from shipline.net import connect_unix
from shipline.oci import (
    MANIFEST_LIMIT,
    Descriptor,
    Digest,
    Index,
    Platform,
    Reference,
    media,
    parse_manifest,
)

_SERVICES = "/containerd.services"
_KEEPS = "containerd.io/gc.ref.content"
_START = "start it (`systemctl start containerd` as root), or set CONTAINERD_ADDRESS to its socket"
_CHUNK = 1 << 20  # bytes


class _Empty(Struct):
    pass


class _Target(Struct):
    """A descriptor."""

    media_type: Annotated[str, 1] = ""
    digest: Annotated[str, 2] = ""
    size: Annotated[int, 3] = 0


class _Lease(Struct):
    id: Annotated[str, 1] = ""
    labels: Annotated[dict[str, str], 3] = field(default_factory=dict)


class _Mask(Struct):
    """google.protobuf.FieldMask."""

    paths: Annotated[list[str], 1] = field(default_factory=list)


class _ContentUpdate(Struct):
    info: Annotated[ContentInfo | None, 1] = None
    mask: Annotated[_Mask | None, 2] = None


class _Image(Struct):
    name: Annotated[str, 1] = ""
    target: Annotated[_Target | None, 3] = None


class _ImageRequest(Struct):
    """To create an image, or to change what `mask` names."""

    image: Annotated[_Image | None, 1] = None
    mask: Annotated[_Mask | None, 2] = None


class _NamedImage(Struct):
    """Asks for an image by its name."""

    name: Annotated[str, 1] = ""


class _FoundImage(Struct):
    image: Annotated[_Image | None, 1] = None


class _Snapshot(Struct):
    """To prepare a snapshot, to remove or to look at one."""

    snapshotter: Annotated[str, 1] = ""
    key: Annotated[str, 2] = ""
    parent: Annotated[str, 3] = ""


class _Mounts(Struct):
    mounts: Annotated[list[bytes], 1] = field(default_factory=list)


class _Apply(Struct):
    diff: Annotated[_Target | None, 1] = None
    mounts: Annotated[list[bytes], 2] = field(default_factory=list)


class _Applied(Struct):
    applied: Annotated[_Target | None, 1] = None


class _Commit(Struct):
    snapshotter: Annotated[str, 1] = ""
    name: Annotated[str, 2] = ""
    key: Annotated[str, 3] = ""


class _Channel:
    """Calls in a namespace of containerd, and in a lease if there is one."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self.metadata: dict[str, list[str]] = {"containerd-namespace": [namespace]}

    def ask(self, method: str, request: Struct, cls: type[M]) -> M:
        """The answer of `SERVICE.vN.Name/Method`. Raises RpcError."""
        return self._connection.ask(f"{_SERVICES}.{method}", request, cls, self.metadata)

    def tell(self, method: str, request: Struct) -> None:
        """Call a method whose answer says nothing. Raises RpcError."""
        self.ask(method, request, _Empty)

    def call(self, method: str) -> RpcCall:
        return self._connection.call(f"{_SERVICES}.{method}", self.metadata)


class Containerd:
    """The images of a namespace. `several` platforms can have one name."""

    several = True

    def __init__(self, address: Path, namespace: str, snapshotter: str) -> None:
        """Raises EngineError unless containerd answers."""
        self._address, self._namespace, self._snapshotter = address, namespace, snapshotter
        with self._channel() as channel:
            channel.tell("version.v1.Version/Version", _Empty())

    def __str__(self) -> str:
        return str(self._address)

    def load(self, image: LoadableImage) -> None:
        """Store the image, and unpack it for this machine where it has a platform for it."""
        self.store(image, unpack=True)

    def load_archive(self, archive: Iterable[bytes]) -> None:
        raise EngineError(
            f"containerd at {self} takes no archives, which is how other builders send an image",
            "build in this process (--builder native), or push the image",
            code="engine-incapable",
        )

    def save(self, name: str, file: BinaryIO) -> None:
        raise EngineError(
            f"images of containerd at {self} cannot be read here",
            "write an archive with `ctr images export`, and copy from docker-archive:FILE",
            code="engine-incapable",
        )

    def find(self, name: str) -> Digest | None:
        named = Reference.parse(name).or_latest
        if named.digest is not None:
            named = Reference(named.host, named.repository).at(named.digest)
        with self._channel() as channel, _unless(Code.NOT_FOUND):
            found = channel.ask("images.v1.Images/Get", _NamedImage(str(named)), _FoundImage).image
            if found is not None and found.target is not None:
                return Digest.parse(found.target.digest)
        return None

    @contextmanager
    def opened(
        self, image: Digest, scratch: Path, store: LocalStore
    ) -> Iterator[tuple[Fetcher, Descriptor]]:
        with self._channel() as channel:
            request = InfoRequest(str(image))
            info = channel.ask("content.v1.Content/Info", request, InfoResponse).info
        target = Descriptor("", image, info.size if info is not None else 0)
        root = parse_manifest(fetch_all(self, target, MANIFEST_LIMIT)).descriptor
        yield self, root

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        """Content by its digest."""
        with self._channel() as channel:
            call = channel.call("content.v1.Content/Read")
            try:
                call.send(encode(ReadRequest(str(target.digest))))
                call.end()
                yield VerifiedReader(_CallReader(call), target, str(self))
            finally:
                call.cancel()

    def store(self, image: LoadableImage, *, unpack: bool) -> None:
        """Store the image under its names; `unpack` makes snapshots of the image for this machine,
        or else of its only platform. Raises EngineError, ContentError.
        """
        with self._channel() as channel, _leased(channel):
            for layer, diff_id in dict.fromkeys(
                one for each in image.images for one in each.layers
            ):
                labels = {"containerd.io/uncompressed": str(diff_id)}
                _write(channel, layer, labels, partial(image.fetch, layer))
            unpacked = _for_this_machine(image.images) if unpack else None
            chain = self._unpack(channel, unpacked) if unpacked is not None else ""
            for document, raw in image.documents.items():
                labels = _references(document, raw)
                if unpacked is not None and document.digest == unpacked.config.digest and chain:
                    labels[f"containerd.io/gc.ref.snapshot.{self._snapshotter}"] = chain
                _write(channel, document, labels, partial(_reading, raw))
            for name in image.names or (f"dangling@{image.target.digest}",):
                _name(channel, name, image.target)

    def _unpack(self, channel: _Channel, image: UnpackableImage) -> str:
        """Make the snapshots of an image; the key of the last one, its chain ID (config.md)."""
        chain = ""
        for layer, diff_id in image.layers:
            parent = chain
            text = f"{parent} {diff_id}" if parent else str(diff_id)
            chain = str(Digest.of(text.encode())) if parent else text
            if self._has_snapshot(channel, chain):
                continue
            key = f"extract-{os.urandom(8).hex()} {chain}"
            self._make(channel, layer, diff_id, (key, parent, chain))
        return chain

    def _make(
        self, channel: _Channel, layer: Descriptor, diff_id: Digest, names: tuple[str, str, str]
    ) -> None:
        key, parent, chain = names
        snapshot = _Snapshot(self._snapshotter, key, parent)
        prepared = channel.ask("snapshots.v1.Snapshots/Prepare", snapshot, _Mounts)
        request = _Apply(_target(layer), prepared.mounts)
        applied = channel.ask("diff.v1.Diff/Apply", request, _Applied).applied
        if applied is None or applied.digest != str(diff_id):
            channel.tell("snapshots.v1.Snapshots/Remove", _Snapshot(self._snapshotter, key))
            raise EngineRefused(f"containerd at {self} unpacked {layer.digest} to another diff ID")
        with _unless(Code.ALREADY_EXISTS):
            commit = _Commit(self._snapshotter, chain, key)
            channel.tell("snapshots.v1.Snapshots/Commit", commit)

    def _has_snapshot(self, channel: _Channel, key: str) -> bool:
        with _unless(Code.NOT_FOUND):
            channel.tell("snapshots.v1.Snapshots/Stat", _Snapshot(self._snapshotter, key))
            return True
        return False

    @contextmanager
    def _channel(self) -> Iterator[_Channel]:
        """A connection; its errors are EngineErrors."""
        with connecting(str(self), _START), connect_unix(str(self._address)) as connection:
            try:
                with connected(SocketPipe(connection)) as calls:
                    yield _Channel(calls, self._namespace)
            except RpcError as error:
                raise EngineRefused(f"containerd at {self} refuses: {error}", _START) from error


class _CallReader:
    """The bytes that a call sends."""

    def __init__(self, call: RpcCall) -> None:
        self._call = call
        self._rest = b""

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes, none at the end. Raises RpcError."""
        while not self._rest and (message := self._call.receive()) is not None:
            self._rest = decode(ReadResponse, message).data
        end = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:end], self._rest[end:]
        return data

    def close(self) -> None:
        """The call is ended by who made it."""


@contextmanager
def _unless(code: Code) -> Iterator[None]:
    """Leaves the block quietly where a call ends with `code`."""
    try:
        yield
    except RpcError as error:
        if error.code != code:
            raise


@contextmanager
def _leased(channel: _Channel) -> Iterator[None]:
    """What is written in the block is kept until its end, or for a day if this process dies."""
    name = f"shipline-{os.urandom(8).hex()}"
    expiry = datetime.now(UTC) + timedelta(days=1)
    labels = {"containerd.io/gc.expire": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
    channel.tell("leases.v1.Leases/Create", _Lease(name, labels))
    channel.metadata["containerd-lease"] = [name]
    try:
        yield
    finally:
        del channel.metadata["containerd-lease"]
        with suppress(RpcError, OSError):
            channel.tell("leases.v1.Leases/Delete", _Lease(name))


def _write(
    channel: _Channel,
    target: Descriptor,
    labels: dict[str, str],
    open_: Callable[[], AbstractContextManager[Reader]],
) -> None:
    """Store content unless it is there, which then belongs to the lease, too."""
    try:
        _send(channel.call("content.v1.Content/Write"), target, labels, open_)
    except RpcError as error:
        if error.code != Code.ALREADY_EXISTS:
            raise
        if labels:
            mask = _Mask([f"labels.{key}" for key in labels])
            info = ContentInfo(str(target.digest), labels=labels)
            channel.tell("content.v1.Content/Update", _ContentUpdate(info, mask))


def _send(
    call: RpcCall,
    target: Descriptor,
    labels: dict[str, str],
    open_: Callable[[], AbstractContextManager[Reader]],
) -> None:
    def written(request: WriteRequest) -> int:
        call.send(encode(request))
        return decode(WriteResponse, call.receive() or b"").offset

    digest = str(target.digest)
    reference = f"shipline-{digest}-{os.urandom(4).hex()}"
    try:
        offset = written(WriteRequest(ref=reference, total=target.size, expected=digest))
        if offset < target.size:
            with open_() as reader:
                for data in chunks(reader, _CHUNK):
                    written(WriteRequest(WriteAction.WRITE, offset=offset, data=data))
                    offset += len(data)
        commit = WriteRequest(WriteAction.COMMIT, "", target.size, digest, offset, labels=labels)
        written(commit)
        call.end()
        call.receive()
    except BaseException:
        call.cancel()
        raise


def _name(channel: _Channel, name: str, target: Descriptor) -> None:
    image = _Image(name, _target(target))
    try:
        channel.tell("images.v1.Images/Create", _ImageRequest(image))
    except RpcError as error:
        if error.code != Code.ALREADY_EXISTS:
            raise
        channel.tell("images.v1.Images/Update", _ImageRequest(image, _Mask(["target"])))


def _target(descriptor: Descriptor) -> _Target:
    return _Target(descriptor.media_type, str(descriptor.digest), descriptor.size)


def _reading(content: bytes) -> AbstractContextManager[Reader]:
    return nullcontext(BytesIO(content))


def _references(document: Descriptor, raw: bytes) -> dict[str, str]:
    """The labels by which a document keeps what it names (containerd, garbage-collection.md)."""
    if document.media_type not in media.NAMED:
        return {}
    parsed = parse_manifest(raw)
    if isinstance(parsed, Index):
        listed = enumerate(parsed.manifests)
        return {f"{_KEEPS}.m.{place}": str(one.digest) for place, one in listed}
    found = {f"{_KEEPS}.l.{place}": str(one.digest) for place, one in enumerate(parsed.layers)}
    return {f"{_KEEPS}.config": str(parsed.config.digest), **found}


def _for_this_machine(images: Sequence[UnpackableImage]) -> UnpackableImage | None:
    """The image of this machine's platform, or the only one; None where there is none."""
    local = Platform.local()
    return next(
        (one for one in images if one.platform == local), images[0] if len(images) == 1 else None
    )
