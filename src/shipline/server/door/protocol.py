"""What the routes ask before content goes out, comes in or goes away."""

from __future__ import annotations

from typing import Protocol

from shipline.oci import Digest, Index, Manifest
from shipline.server.cache import Stored
from shipline.server.identity import Identity


class Door(Protocol):
    """Each method returns, or raises Problem with the rule and the way to satisfy it.

    Names were checked, and the identity's rights too. `push` and `delete` run under the storage's
    lock, so that what they look at is still so when the change is made.
    """

    def pull(self, identity: Identity, name: str, reference: Digest | str, stored: Stored) -> None:
        """A manifest is about to be sent, asked for by tag or digest."""

    def push(
        self,
        identity: Identity,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        """A manifest is about to be stored and get `tags`."""

    def delete(self, identity: Identity, name: str, target: Digest | str) -> None:
        """A manifest (by digest) or a tag is about to go."""

    def blob(self, identity: Identity, name: str, size: int) -> None:
        """A blob is about to come in; `size` in bytes, 0 where the client does not say."""


class NoDoor:
    """Lets everything pass: a node without rules."""

    def pull(self, identity: Identity, name: str, reference: Digest | str, stored: Stored) -> None:
        return None

    def push(
        self,
        identity: Identity,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        return None

    def delete(self, identity: Identity, name: str, target: Digest | str) -> None:
        return None

    def blob(self, identity: Identity, name: str, size: int) -> None:
        return None
