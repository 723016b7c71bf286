"""Packages as the files of an image describe them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Self

TEXT = 1000  # characters of a name, version or licence: longer ones are not believed


class Unreadable(Exception):
    """A file that should list packages cannot be read: why."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package; `type` and `namespace` are those of package URLs (purl-spec), `license` is as the
    file has it, `source` is the source package of a binary one, with `@version` where that differs,
    `checksum` is `algorithm:hex`.
    """

    type: str
    name: str
    version: str
    namespace: str = ""
    architecture: str = ""
    epoch: str = ""
    source: str = ""
    license: str = ""
    supplier: str = ""
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class OsRelease:
    """The distribution, from os-release(5): `id` and `version`."""

    id: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file says: the packages that are installed, the `licenses` of the package of a
    copyright file, the `checksums` of the packages that a lock file names by directory. `kind` is
    that of the file, `problem` is why it says nothing, or not all.
    """

    path: str
    kind: str
    sha1: str = ""
    sha256: str = ""
    packages: tuple[Package, ...] = ()
    licenses: tuple[str, ...] = ()
    checksums: tuple[tuple[str, str], ...] = ()
    release: OsRelease = OsRelease()
    problem: str = ""

    def to_json(self) -> list[Any]:
        """A value of JSON for `from_json`."""
        return [*astuple(self)]

    @classmethod
    def from_json(cls, value: Iterable[Any]) -> Self:
        path, kind, sha1, sha256, packages, licenses, checksums, release, problem = value
        return cls(
            path,
            kind,
            sha1,
            sha256,
            tuple(Package(*one) for one in packages),
            tuple(licenses),
            tuple((name, checksum) for name, checksum in checksums),
            OsRelease(*release),
            problem,
        )


def text_of(fields: Mapping[str, Any], *names: str) -> str:
    """The first of the fields that is a text, stripped; empty if there is none."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and (text := value.strip()) and len(text) <= TEXT:
            return text.replace("\0", "")
    return ""
