"""containerd's image store over its API (containerd/containerd, api/services).

Everything that is written belongs to a lease until the names keep it, so that its garbage collector
leaves it alone.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path

from shipline.content import Reader, chunks
from shipline.engines.engine import EngineError, LoadableImage, UnpackableImage, connecting
from shipline.engines.grpc import ALREADY_EXISTS, NOT_FOUND, Channel, GrpcError
from shipline.engines.protobuf import entries, message, parse
from shipline.oci import Descriptor, Digest, Index, Platform, media, parse_manifest

_CONTENT = "containerd.services.content.v1.Content"
_IMAGES = "containerd.services.images.v1.Images"
_LEASES = "containerd.services.leases.v1.Leases"
_SNAPSHOTS = "containerd.services.snapshots.v1.Snapshots"
_DIFF = "containerd.services.diff.v1.Diff"
_VERSION = "containerd.services.version.v1.Version"
_DATA, _COMMIT = 1, 2  # WriteAction; 0 is STAT
_KEEPS = "containerd.io/gc.ref.content"
_START = "start it (`systemctl start containerd` as root), or set CONTAINERD_ADDRESS to its socket"
_CHUNK = 1 << 20  # bytes


class Containerd:
    """The images of a namespace. `several` platforms can have one name."""

    several = True

    def __init__(self, address: Path, namespace: str, snapshotter: str) -> None:
        """Raises EngineError unless containerd answers."""
        self._address, self._namespace, self._snapshotter = address, namespace, snapshotter
        with self._channel() as channel:
            channel.unary(f"{_VERSION}/Version", b"")

    def __str__(self) -> str:
        return str(self._address)

    def load(self, image: LoadableImage) -> None:
        """Store the image, and unpack it for this machine where it has a platform for it."""
        self.store(image, unpack=True)

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

    def _unpack(self, channel: Channel, image: UnpackableImage) -> str:
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
        self, channel: Channel, layer: Descriptor, diff_id: Digest, names: tuple[str, str, str]
    ) -> None:
        key, parent, chain = names
        prepared = channel.unary(f"{_SNAPSHOTS}/Prepare", self._of(key, (3, parent)))
        mounts = [(2, data) for number, data in parse(prepared) if number == 1]
        applied = channel.unary(f"{_DIFF}/Apply", message((1, _descriptor(layer)), *mounts))
        if _text(_part(applied, 1), 2) != str(diff_id):
            channel.unary(f"{_SNAPSHOTS}/Remove", self._of(key))
            raise EngineError(f"containerd at {self} unpacked {layer.digest} to another diff ID")
        commit = message((1, self._snapshotter), (2, chain), (3, key))
        with _unless(ALREADY_EXISTS):
            channel.unary(f"{_SNAPSHOTS}/Commit", commit)

    def _has_snapshot(self, channel: Channel, key: str) -> bool:
        with _unless(NOT_FOUND):
            channel.unary(f"{_SNAPSHOTS}/Stat", self._of(key))
            return True
        return False

    def _of(self, key: str, *fields: tuple[int, str]) -> bytes:
        return message((1, self._snapshotter), (2, key), *fields)

    @contextmanager
    def _channel(self) -> Iterator[Channel]:
        """A connection; its errors are EngineErrors."""
        with connecting(str(self), _START):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._address))
                channel = Channel(connection, {"containerd-namespace": self._namespace})
                yield channel
            except GrpcError as error:
                raise EngineError(f"containerd at {self} refuses: {error}", _START) from error
            finally:
                connection.close()


@contextmanager
def _unless(status: int) -> Iterator[None]:
    """Leaves the block quietly where a call ends with `status`."""
    try:
        yield
    except GrpcError as error:
        if error.status != status:
            raise


@contextmanager
def _leased(channel: Channel) -> Iterator[None]:
    """What is written in the block is kept until its end, or for a day if this process dies."""
    name = f"shipline-{os.urandom(8).hex()}"
    expiry = datetime.now(UTC) + timedelta(days=1)
    labels = {"containerd.io/gc.expire": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
    channel.unary(f"{_LEASES}/Create", message((1, name), *entries(3, labels)))
    channel.headers["containerd-lease"] = name
    try:
        yield
    finally:
        del channel.headers["containerd-lease"]
        with suppress(GrpcError, OSError):
            channel.unary(f"{_LEASES}/Delete", message((1, name)))


def _write(
    channel: Channel,
    target: Descriptor,
    labels: Mapping[str, str],
    open_: Callable[[], AbstractContextManager[Reader]],
) -> None:
    """Store content unless it is there, which then belongs to the lease, too."""
    digest = str(target.digest)
    reference = message((2, f"shipline-{digest}-{os.urandom(4).hex()}"), (3, target.size))
    reference += message((4, digest))
    try:
        with channel.stream(f"{_CONTENT}/Write") as call:
            call.send(reference)
            offset = _number(call.receive(), 4)
            if offset < target.size:
                with open_() as reader:
                    for data in chunks(reader, _CHUNK):
                        call.send(message((1, _DATA), (5, offset), (6, data)))
                        call.receive()
                        offset += len(data)
            commit = message((1, _COMMIT), (3, target.size), (4, digest), (5, offset))
            call.send(commit + message(*entries(7, labels)))
            call.end()
            call.receive()
            call.finish()
    except GrpcError as error:
        if error.status != ALREADY_EXISTS:
            raise
        if labels:
            described = message((1, digest), *entries(5, labels))
            mask = message(*((1, f"labels.{key}") for key in labels))
            channel.unary(f"{_CONTENT}/Update", message((1, described), (2, mask)))


def _name(channel: Channel, name: str, target: Descriptor) -> None:
    image = message((1, name), (3, _descriptor(target)))
    try:
        channel.unary(f"{_IMAGES}/Create", message((1, image)))
    except GrpcError as error:
        if error.status != ALREADY_EXISTS:
            raise
        mask = message((1, "target"))
        channel.unary(f"{_IMAGES}/Update", message((1, image), (2, mask)))


def _descriptor(target: Descriptor) -> bytes:
    return message((1, target.media_type), (2, str(target.digest)), (3, target.size))


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


def _part(data: bytes, number: int) -> bytes:
    found = dict(parse(data)).get(number, b"")
    return found if isinstance(found, bytes) else b""


def _text(data: bytes, number: int) -> str:
    return _part(data, number).decode("utf-8", "replace")


def _number(data: bytes, number: int) -> int:
    found = dict(parse(data)).get(number, 0)
    return found if isinstance(found, int) else 0
