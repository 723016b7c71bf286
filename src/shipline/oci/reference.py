"""Image references as users write them (distribution specification, "Pull")."""

from __future__ import annotations

import re
from typing import Self

from msgspec import Struct

from shipline.errors import UsageError
from shipline.oci.descriptor import Digest
from shipline.values import replace

DEFAULT_HOST = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_ATTACHED = re.compile(r"sha(256|512)-[0-9a-f]{64}(\.[a-z]+)?\Z")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = re.compile(rf"(?:\[[0-9a-fA-F:.]+\]|{_LABEL}(?:\.{_LABEL})*)(?::[0-9]+)?\Z")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")
_LONGEST = 255  # bytes of a repository name
_FORM = "write [HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]"


class InvalidReference(UsageError):
    """The text is not an image reference."""

    code = "reference-invalid"


class Reference(Struct, frozen=True, order=True):
    """`host/repository`, with a tag, a digest, both or neither."""

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference: `busybox` is docker.io/library/busybox, without a tag.

        Raises InvalidReference, or InvalidDigest for the part after `@`.
        """
        name, at, digest = text.partition("@")
        name, tag = _cut_tag(name)
        if "://" in text or tag == "" or ":" in name.rpartition("/")[2]:
            raise _not_an_image(text, tag)
        if _IMAGE_ID.match(name):
            raise InvalidReference(
                f"{name} is the ID of an image, not its name", hint=f"for a name: docker.io/{name}"
            )
        host, repository = _cut_host(name)
        written = repository
        if host in {"docker.io", "index.docker.io", "registry-1.docker.io"}:
            host = DEFAULT_HOST
            repository = repository if "/" in repository else f"library/{repository}"
        if not _HOST.match(host):
            raise InvalidReference(f"not a registry host: {host!r} in {text!r}")
        if not _REPOSITORY.match(repository) or len(repository) > _LONGEST:
            lower = " (names are lower case)" if repository != repository.lower() else ""
            raise InvalidReference(
                f"not a repository name: {written!r} in {text!r}{lower}",
                hint=f"write {text.lower()}" if lower else _FORM,
            )
        return cls(host, repository, check_tag(tag) if tag is not None else "").at(
            Digest.parse(digest) if at else None
        )

    def at(self, digest: Digest | None) -> Self:
        return replace(self, digest=digest)

    def tagged(self, tag: str) -> Self:
        return replace(self, tag=check_tag(tag), digest=None)

    @property
    def name(self) -> str:
        """`host/repository`, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form, without Docker Hub's host and `library/`."""
        name = self.name
        for prefix in (f"{DEFAULT_HOST}/library/", f"{DEFAULT_HOST}/"):
            name = name.removeprefix(prefix)
        return name + self._suffix

    @property
    def or_latest(self) -> Self:
        """With the tag `latest` if it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix


def is_tag(text: str) -> bool:
    """Whether it is a valid tag."""
    return _TAG.match(text) is not None


def is_attached_tag(tag: str) -> bool:
    """Whether it is the tag of what refers to an image: the referrers tag schema, and cosign's."""
    return _ATTACHED.match(tag) is not None


def check_tag(tag: str) -> str:
    """The tag. Raises InvalidReference if it is invalid."""
    if not is_tag(tag):
        raise InvalidReference(
            f"not a tag: {tag[:200]!r}",
            hint="letters, digits, '_', '.' and '-', at most 128, not starting with '.' or '-'",
        )
    return tag


def check_repository(name: str) -> str:
    """The repository name. Raises InvalidReference if it is invalid."""
    if not _REPOSITORY.match(name) or len(name) > _LONGEST:
        raise InvalidReference(f"not a repository name: {name[:300]!r}")
    return name


def _not_an_image(text: str, tag: str | None) -> InvalidReference:
    if "://" in text:
        rest = text.partition("://")[2]
        return InvalidReference(f"{text!r} is a URL, not an image name", hint=f"write {rest}")
    why = "the tag is empty" if tag == "" else "there is more than one tag"
    return InvalidReference(f"{text!r} is not an image name: {why}", hint=_FORM)


def _cut_tag(name: str) -> tuple[str, str | None]:
    head, colon, tail = name.rpartition(":")
    return (head, tail) if colon and "/" not in tail else (name, None)


def _cut_host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return (first, rest) if slash and is_host else (DEFAULT_HOST, name)
