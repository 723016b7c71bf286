"""Layers that may still be in a registry: brought here when the first step needs their bytes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.content import LocalStore, Reader, Repository
from shipline.errors import NotFound
from shipline.events import Step
from shipline.oci import Descriptor, Digest
from shipline.tasks import Once


class Blobs:
    """The local store, and behind it the repositories from which absent content can come."""

    def __init__(self, store: LocalStore, step: Step) -> None:
        self.store = store
        self._step = step
        self._lock = threading.Lock()
        self._origins: dict[Digest, tuple[Repository, str]] = {}
        self._once: Once[None] = Once()

    def offer(self, target: Descriptor, repository: Repository, name: str) -> None:
        """Say that `repository`, called `name` (host/repository), has the content."""
        with self._lock:
            self._origins.setdefault(target.digest, (repository, name))

    def origin(self, digest: Digest) -> Repository | None:
        """Where the content comes from; None where it was made here."""
        with self._lock:
            return self._origins[digest][0] if digest in self._origins else None

    def ensure(self, target: Descriptor, step: Step | None = None) -> None:
        """Return when the content is in the local store; `step` is what the download is part of.

        Raises NotFound, RegistryError.
        """
        if not self.store.exists(target):
            self._once.get(target.digest, lambda: self._download(target, step or self._step))

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        """The content, from here or straight from its registry without keeping it."""
        with self._lock:
            origin = self._origins.get(target.digest)
        if origin is None or self.store.exists(target):
            with self.store.fetch(target) as reader:
                yield reader
        else:
            with origin[0].fetch(target) as reader:
                yield reader

    def exists(self, target: Descriptor) -> bool:
        """Whether the content is here, or known to be in a registry."""
        with self._lock:
            known = target.digest in self._origins
        return known or self.store.exists(target)

    def _download(self, target: Descriptor, step: Step) -> None:
        with self._lock:
            origin = self._origins.get(target.digest)
        if origin is None:
            raise NotFound(f"{target.digest} is neither here nor in a known registry")
        name = f"pull {origin[1]}@{target.digest.short}"
        with step.step(name, kind="pull", size=target.size) as transfer:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                transfer.progress(moved, target.size)

            self.store.push(target, origin[0], advance)
