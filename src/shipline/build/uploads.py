"""Layers on their way to registries, from the moment that their first bytes exist.

Nothing here gives anything a name: what is uploaded stays invisible until its manifest is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shipline.build.blobs import Blobs
from shipline.build.cache import Made
from shipline.build.editions import PLAIN, Edition
from shipline.build.recoding import Recoder
from shipline.content import Follow, LocalIngest, Repository
from shipline.errors import Cancelled, DigestMismatch, RegistryError
from shipline.events import Step
from shipline.layer import Codec, Layer
from shipline.oci import Descriptor, Digest
from shipline.tasks import Once, TaskGroup, check

UPLOADS = 16  # at once, to all targets
_WORTH_STREAMING = 4 << 20  # bytes; a smaller layer is uploaded once it is complete


@dataclass(frozen=True, slots=True)
class Target:
    """A repository to push one edition to, and the tags that the result gets there."""

    host: str
    name: str
    repository: Repository
    edition: Edition = PLAIN
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


class Uploads:
    """Sends layers to every target; leaving `group` means that all of them have arrived.

    New layers are made with `codec`; targets that take it get their bytes while they are made.
    """

    def __init__(
        self,
        group: TaskGroup,
        targets: Iterable[Target],
        blobs: Blobs,
        recoder: Recoder,
        codec: Codec,
        step: Step,
    ) -> None:
        self._group = group
        self._targets = tuple(targets)
        self._blobs = blobs
        self._recoder = recoder
        self._codec = codec
        self._step = step
        self._once: Once[None] = Once()
        self._followed: set[Digest] = set()

    def follow(self, ingest: LocalIngest) -> None:
        """Upload a layer while it is being made; `made` tells what it became."""
        for target in self._targets:
            if target.edition.takes(self._codec):
                self._group.start(self._follow, target, ingest.follow())

    def made(self, layer: Descriptor) -> None:
        """A layer that was followed is complete."""
        self._followed.add(layer.digest)

    def send(self, layer: Layer, made: Made | None) -> None:
        """Upload a layer that exists, here or in the registry of a base image (`made` None)."""
        followed = layer.descriptor.digest in self._followed
        for target in self._targets:
            if not (followed and target.edition.takes(self._codec)):
                self._group.start(self._convert, target, layer, made)

    def _convert(self, target: Target, layer: Layer, made: Made | None) -> None:
        self._send(target, self._recoder.form(layer, made, target.edition).descriptor)

    def _follow(self, target: Target, follow: Follow) -> None:
        with follow:
            try:
                if follow.growing(_WORTH_STREAMING) and self._stream(target, follow):
                    layer = follow.wait()
                    self._once.get((str(target), layer.digest), lambda: None)
                else:
                    self._send(target, follow.wait())
            except Cancelled:
                check()  # else the layer was given up: whoever writes it raises why

    def _stream(self, target: Target, follow: Follow) -> bool:
        """Whether the registry took the layer this way; if not, there is another."""
        name = f"upload to {target}"
        try:
            with (
                self._step.step(name, kind="upload", host=target.host) as step,
                target.repository.ingest() as upload,
            ):
                moved = 0
                for data in follow:
                    upload.write(data)
                    moved += len(data)
                    step.progress(moved, follow.total)
                upload.commit(follow.wait())
                step.progress(moved, moved)
                step.note(size=moved)
        except (RegistryError, DigestMismatch):
            return False
        return True

    def _send(self, target: Target, layer: Descriptor) -> None:
        self._once.get((str(target), layer.digest), lambda: self._deliver(target, layer))

    def _deliver(self, target: Target, layer: Descriptor) -> None:
        if target.repository.exists(layer):
            return
        origin = self._blobs.origin(layer.digest)
        if origin is not None and target.repository.mount(layer, origin):
            return
        name = f"upload {layer.digest.short} to {target}"
        with self._step.step(name, kind="upload", host=target.host, size=layer.size) as step:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                step.progress(moved, layer.size)

            target.repository.push(layer, self._blobs, advance)
