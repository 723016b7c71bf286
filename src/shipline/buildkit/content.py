"""Blobs that a daemon reads here and writes here: OCI layouts as contexts, and caches in
directories.

The daemon calls the content service of containerd in the session, and names the store in the
metadata. Sources: moby/buildkit, session/content; containerd/containerd, plugins/services/content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from shipline.content import OciLayout
from shipline.grpc.connection import Code, Handler, RpcCall, RpcError
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
from shipline.grpc.protobuf import decode, encode
from shipline.oci import Descriptor, Digest, InvalidDigest

_SERVICE = "/containerd.services.content.v1.Content/"
_CHUNK = 512 << 10  # bytes in one message
_MEDIA_TYPE = "application/octet-stream"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def content_handlers(stores: Mapping[str, OciLayout]) -> dict[str, Handler]:
    """The methods of the content service, for stores by the ids that builds give them."""

    def store_of(stream: RpcCall) -> OciLayout:
        name = next(iter(stream.metadata.get("buildkit-attachable-store-id", ())), "")
        if (found := stores.get(name)) is None:
            raise RpcError(Code.NOT_FOUND, f"there is no content store {name!r} in this build")
        return found

    return {
        _SERVICE + "Info": lambda stream: _info(stream, store_of(stream)),
        _SERVICE + "Read": lambda stream: _read(stream, store_of(stream)),
        _SERVICE + "Write": lambda stream: _write(stream, store_of(stream)),
    }


def _info(stream: RpcCall, store: OciLayout) -> None:
    digest = _digest(stream.request(InfoRequest).digest)
    try:
        size = store.path(digest).stat().st_size
    except FileNotFoundError:
        raise _missing(digest) from None
    stream.send(encode(InfoResponse(ContentInfo(str(digest), size))))


def _read(stream: RpcCall, store: OciLayout) -> None:
    """What was read is not verified here: the daemon does."""
    request = stream.request(ReadRequest)
    digest, offset = _digest(request.digest), request.offset
    try:
        fd = os.open(store.path(digest), _READ)
    except FileNotFoundError:
        raise _missing(digest) from None
    with open(fd, "rb", buffering=0) as file:
        file.seek(offset)
        left = request.size or os.fstat(fd).st_size - offset
        while left > 0 and (data := file.read(min(_CHUNK, left))):
            stream.send(encode(ReadResponse(offset, data)))
            offset += len(data)
            left -= len(data)


def _write(stream: RpcCall, store: OciLayout) -> None:
    """One blob, which has its name only once all of it has come and its digest is right."""
    with store.ingest() as ingest:
        for message in stream:
            request = decode(WriteRequest, message)
            if request.expected and store.path(_digest(request.expected)).is_file():
                raise RpcError(Code.ALREADY_EXISTS, f"content {request.expected}: already exists")
            if request.data:
                if request.offset != ingest.size:
                    raise RpcError(Code.OUT_OF_RANGE, f"{ingest.size} bytes have been written")
                ingest.write(request.data)
            digest = ""
            if request.action == WriteAction.COMMIT:
                wanted = _digest(request.expected) if request.expected else ingest.digest
                ingest.commit(Descriptor(_MEDIA_TYPE, wanted, request.total or ingest.size))
                digest = str(wanted)
            stream.send(encode(WriteResponse(request.action, ingest.size, request.total, digest)))
            if digest:
                return


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise RpcError(Code.INVALID_ARGUMENT, error.message) from None


def _missing(digest: Digest) -> RpcError:
    return RpcError(Code.NOT_FOUND, f"content {digest}: not found")
