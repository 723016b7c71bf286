"""The checks that routes make before content is pulled, pushed or deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from shipline.oci import Digest, Index, Manifest
from shipline.server.cache import StoredManifest
from shipline.server.http import Principal


@dataclass(frozen=True, slots=True)
class PullVerdict:
    """Whether an image may be pulled: what the rule of this `kind` and `title` found, in one line
    and in `details`, and how to satisfy it.
    """

    allowed: bool
    kind: Literal["signature", "vulnerability"]
    title: str
    reason: str
    details: tuple[str, ...] = ()
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ScanFinding:
    """One vulnerability that a trusted scanner found; `fixed` is the version that cures it."""

    id: str
    severity: str
    package: str
    version: str
    fixed: str


@dataclass(frozen=True, slots=True)
class TrustedScan:
    """The newest scan that a trusted key signed, the worst first; `finished` in Unix time, None if
    it is not stated.
    """

    findings: tuple[ScanFinding, ...]
    finished: float | None


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

    def explain(self, name: str, stored: StoredManifest) -> PullVerdict | None:
        """Whether a manifest may be pulled by digest, and why; None if no rule applies."""

    def scan(self, name: str, stored: StoredManifest) -> TrustedScan | None:
        """What a trusted scanner said of a manifest; None if none has."""


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

    def explain(self, name: str, stored: StoredManifest) -> PullVerdict | None:
        return None

    def scan(self, name: str, stored: StoredManifest) -> TrustedScan | None:
        return None
