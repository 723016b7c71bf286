"""What an engine does with an image, and what is handed to it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from msgspec import Struct

from shipline.content import Fetcher, LocalStore, Reader
from shipline.errors import ShiplineError
from shipline.oci import Descriptor, Digest, Platform

_WITHOUT = "; --output type=docker,dest=image.tar needs no engine"
_START = "start the engine (`systemctl start docker` as root), or set DOCKER_HOST to one that runs"


class EngineError(ShiplineError):
    """The container engine that an image is loaded into is missing, or refuses."""

    code = "engine"
    title = "container engine error"
    exit_code = 13

    def __init__(self, message: str, hint: str = _START, *, code: str = "") -> None:
        super().__init__(message, code=code, hint=f"{hint}{_WITHOUT}")


class EngineRefused(EngineError):
    """The engine answers, and does not do what it is asked."""

    code = "engine-refused"


class UnpackableImage(Struct, frozen=True):
    """The image of a platform: its configuration, and its layers with their diff IDs, lowest
    first.
    """

    platform: Platform
    config: Descriptor
    layers: Sequence[tuple[Descriptor, Digest]]


class LoadableImage(Struct, frozen=True):
    """An image under its `names`, in both forms that engines take: as an archive that `docker load`
    reads, and in parts: `documents` by descriptor, children first, and layers that `fetch` opens.
    """

    names: Sequence[str]
    target: Descriptor
    documents: Mapping[Descriptor, bytes]
    images: Sequence[UnpackableImage]
    archive: Callable[[], Iterator[bytes]]
    fetch: Callable[[Descriptor], AbstractContextManager[Reader]]


class Engine(Protocol):
    """An engine that answered. All raise EngineError."""

    @property
    def several(self) -> bool:
        """Whether one name can be an image of several platforms."""

    def load(self, image: LoadableImage) -> None:
        """Keep the image under its names."""

    def load_archive(self, archive: Iterable[bytes]) -> None:
        """Keep an image that comes as an archive which `docker load` reads."""

    def save(self, name: str, file: BinaryIO) -> None:
        """Write the archive that `docker save` writes of an image. Raises NotFound."""

    def find(self, name: str) -> Digest | None:
        """The ID of an image by its name as people write it, None if there is none: the digest of
        its configuration, or of its manifest or index where the engine keeps these.
        """

    def opened(
        self, image: Digest, scratch: Path, store: LocalStore
    ) -> AbstractContextManager[tuple[Fetcher, Descriptor]]:
        """What has the image with that ID, and its manifest or index there. Layers that the engine
        keeps as tars are compressed into `store`. Raises ContentError.
        """


@contextmanager
def connecting(address: str, start: str = _START) -> Iterator[None]:
    """Raises EngineError where the engine at `address` cannot be reached; `start` says how to start
    it.
    """
    try:
        yield
    except PermissionError as error:
        raise EngineError(
            f"cannot use the engine at {address}: {error.strerror}",
            "run as root, or join the group of the socket (`usermod -aG docker USER`, then log in"
            " again)",
            code="engine-permission",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            reason = f"nothing listens there ({reason})"
        raise EngineError(
            f"cannot reach the engine at {address}: {reason}", start, code="engine-unreachable"
        ) from error
