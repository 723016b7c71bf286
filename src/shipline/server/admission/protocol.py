"""What the routes ask before content goes out, comes in or goes away."""

from __future__ import annotations

from typing import Protocol

from shipline.oci import Digest, Index, Manifest
from shipline.server.cache import StoredManifest
from shipline.server.http import Principal


class Admission(Protocol):
    """Each method returns, or raises Problem with the rule and the way to satisfy it.

    Names were checked, and the identity's rights too. `push` and `delete` run while no one else can
    change the tags and the manifest that they are about.
    """

    def pull(
        self, identity: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        """A manifest is about to be sent, asked for by tag or digest."""

    def push(
        self,
        identity: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        """A manifest is about to be stored and get `tags`."""

    def delete(self, identity: Principal, name: str, target: Digest | str) -> None:
        """A manifest (by digest) or a tag is about to go."""

    def blob(self, identity: Principal, name: str, size: int) -> None:
        """A blob is about to come in, or has: it, and `size` bytes more."""

    def explain(self, name: str, stored: StoredManifest) -> tuple[bool, str] | None:
        """Whether a manifest may be pulled by digest, and why; None where no rule is about it."""


class AdmitAll:
    """Lets everything pass: a node without rules."""

    def pull(
        self, identity: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        return None

    def push(
        self,
        identity: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        return None

    def delete(self, identity: Principal, name: str, target: Digest | str) -> None:
        return None

    def blob(self, identity: Principal, name: str, size: int) -> None:
        return None

    def explain(self, name: str, stored: StoredManifest) -> tuple[bool, str] | None:
        return None
