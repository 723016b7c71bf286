"""Whose name a signature must carry: the rule for `docker-reference`.

A digest alone does not say under which name it was approved: whoever may push to one repository
could copy a signed image of another one there, with its signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from shipline.errors import ConfigError, ShiplineError
from shipline.globs import glob
from shipline.oci import Reference


class _Rule(StrEnum):
    REPOSITORY = "repository"
    EXACT = "exact"
    PATH = "path"
    ANY = "any"
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class ImagePattern:
    """A glob of `host/repository`: `*` is any part of one component, `**` also crosses `/`.

    Without a host (`team/*`) it holds for every host.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError for characters that no name can have."""
        if not re.fullmatch(r"[a-zA-Z0-9._/*?:-]+", text) or "//" in text:
            raise ConfigError(
                f"not a pattern of images: {text!r}",
                hint="such as registry.example/team/*, **/app or **",
            )
        return cls(text)

    def matches(self, reference: Reference) -> bool:
        """Whether `reference` is such an image; tag and digest play no part."""
        first, slash, _ = self.text.partition("/")
        has_host = bool(slash) and (first.strip("*") == "" or re.search(r"[.:]|^localhost$", first))
        name = reference.name if has_host else reference.repository
        return glob(self.text).fullmatch(name) is not None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Identity:
    """Which identities are accepted for an image.

    `repository` (the default): the same host and repository. `exact`: also the same tag, where the
    image is asked for by tag. `path`: the same repository on any host, for mirrors and copies.
    `any`: not checked. Anything else is an ImagePattern that the identity must match.
    """

    rule: _Rule
    pattern: ImagePattern | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError."""
        if text in list(_Rule) and text != _Rule.PATTERN:
            return cls(_Rule(text))
        if not re.search("[/*]", text):
            raise ConfigError(
                f"not a rule of identity: {text!r}",
                hint="repository, exact, path, any, or a pattern such as registry.example/team/*",
            )
        return cls(_Rule.PATTERN, ImagePattern.parse(text))

    def accepts(self, identity: str, name: Reference) -> bool:
        """Whether a signature that carries `identity` holds for the image `name`."""
        if self.rule is _Rule.ANY:
            return True
        try:
            signed = Reference.parse(identity)
        except ShiplineError:
            return False
        if self.pattern is not None:
            return self.pattern.matches(signed)
        if self.rule is _Rule.PATH:
            return signed.repository == name.repository
        same_tag = self.rule is not _Rule.EXACT or not name.tag or signed.tag == name.tag
        return signed.name == name.name and same_tag

    def __str__(self) -> str:
        return str(self.pattern or self.rule)


SAME_REPOSITORY = Identity(_Rule.REPOSITORY)
SAME_PATH = Identity(_Rule.PATH)
