"""Digests: the names of content (OCI image specification, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from shipline.errors import ContentError

_HEX_LENGTH = {"sha256": 64, "sha512": 128}


class InvalidDigest(ContentError):
    """The text is not a digest that shipline can verify."""

    code = "digest-invalid"


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """`algorithm:hex`, checked; safe to use in a path or a URL."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidDigest for anything but lower-case sha256 or sha512 of the right length."""
        algorithm, _, encoded = text.partition(":")
        if len(encoded) != _HEX_LENGTH.get(algorithm) or re.search("[^0-9a-f]", encoded):
            raise InvalidDigest(
                f"not a digest: {text[:200]!r}", hint="a digest looks like sha256:<64 hex digits>"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Hasher:
    """Digest and size in bytes of what passes through."""

    __slots__ = ("_algorithm", "_hash", "size")

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self.size = 0

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self.size += len(data)

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The same chunks, each hashed before it is passed on."""
        for data in chunks:
            self.update(data)
            yield data

    @property
    def digest(self) -> Digest:
        return Digest(self._algorithm, self._hash.hexdigest())
