"""The checks that routes make before content is pulled, pushed or deleted."""

from __future__ import annotations

from typing import Protocol

from shipline.oci import Digest, Index, Manifest
from shipline.server.cache import StoredManifest
from shipline.server.http import Principal


class Admission(Protocol):
    """Each method raises Problem, naming the rule and how to satisfy it, or returns.

    Names are validated and the principal is authorized. `push` and `delete` run while the tags and
    the manifest are locked.
    """

    def pull(
        self, principal: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        """A manifest is about to be sent, requested by tag or digest."""

    def push(
        self,
        principal: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        """A manifest is about to be stored with `tags`."""

    def delete(self, principal: Principal, name: str, target: Digest | str) -> None:
        """A manifest (by digest) or a tag is about to be deleted."""

    def blob(self, principal: Principal, name: str, size: int) -> None:
        """A blob upload begins or continues, with `size` more bytes than are counted."""

    def explain(self, name: str, stored: StoredManifest) -> tuple[bool, str] | None:
        """Whether a manifest may be pulled by digest, and why; None if no rule applies."""


class AdmitAll:
    """Admits everything: a node without rules."""

    def pull(
        self, principal: Principal, name: str, reference: Digest | str, stored: StoredManifest
    ) -> None:
        return None

    def push(
        self,
        principal: Principal,
        name: str,
        digest: Digest,
        content: Manifest | Index,
        tags: tuple[str, ...],
    ) -> None:
        return None

    def delete(self, principal: Principal, name: str, target: Digest | str) -> None:
        return None

    def blob(self, principal: Principal, name: str, size: int) -> None:
        return None

    def explain(self, name: str, stored: StoredManifest) -> tuple[bool, str] | None:
        return None
