"""A repository of this node as a place to read statements from: no request is made for them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.content import VerifiedReader
from shipline.errors import NotFound
from shipline.oci import Descriptor, Digest, media
from shipline.server.cache import Stored
from shipline.server.manifests import Manifests
from shipline.server.storage import Storage

_REFERRERS = 1000


class StoredEvidence:
    """An `Evidence` over the repository `name`."""

    def __init__(self, storage: Storage, manifests: Manifests, name: str) -> None:
        self._storage = storage
        self._manifests = manifests
        self._name = name

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        if target.media_type in media.NAMED:
            stored = self._manifests.get(self._name, target.digest)
            if stored is None:
                raise NotFound(f"{self._name} has no manifest {target.digest}")
            yield VerifiedReader(io.BytesIO(stored.raw), target, self._name)
            return
        blob = self._storage.open_blob(self._name, target.digest)
        if blob is None:
            raise NotFound(f"{self._name} has no blob {target.digest}")
        with os.fdopen(blob.fd, "rb") as file:
            yield VerifiedReader(file, target, self._name)

    def resolve(self, reference: str) -> Descriptor:
        found = self.find(Digest.parse(reference) if ":" in reference else reference)
        if found is None:
            raise NotFound(f"{self._name} has nothing under {reference}")
        return found

    def find(self, reference: Digest | str) -> Descriptor | None:
        """As `resolve`, None where there is nothing."""
        stored = self._manifests.get(self._name, reference)
        return None if stored is None else descriptor_of(stored)

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        found: list[Descriptor] = []
        for number, entry in enumerate(self._manifests.referrers(self._name, target.digest, "")):
            if number == _REFERRERS:
                break
            descriptor = Descriptor.from_json(entry)
            if not artifact_type or descriptor.artifact_type == artifact_type:
                found.append(descriptor)
        return tuple(found)

    def parents(self, target: Descriptor) -> Iterator[Descriptor]:
        """The indexes of this repository that list a manifest."""
        for (parent,), _ in self._storage.records.scan(
            ("needed", self._name, str(target.digest)), limit=_REFERRERS
        ):
            stored = self._manifests.get(self._name, Digest.parse(parent))
            if stored is not None and stored.media_type in media.INDEXES:
                yield descriptor_of(stored)


def descriptor_of(stored: Stored) -> Descriptor:
    """What names a manifest that was read."""
    return Descriptor(stored.media_type, stored.digest, len(stored.raw))
