"""What signing and verifying need of a place that holds images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from shipline.content import Fetcher, Repository, Resolver
from shipline.oci import Descriptor


class Referring(Protocol):
    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Manifests whose subject is `target`, of one artifact type if it is given."""


class Evidence(Fetcher, Resolver, Referring, Protocol):
    """A place to read statements from; registries and the storage of a node are such places."""


class Attachable(Repository, Referring, Protocol):
    """A place to attach statements to images."""


@runtime_checkable
class _Mirrored(Protocol):
    @property
    def unmirrored(self) -> Attachable: ...


def at_the_source(repository: Attachable) -> Attachable:
    """The repository without mirrors: what a stale one says would be written back as the truth."""
    return repository.unmirrored if isinstance(repository, _Mirrored) else repository
