"""Whose name a signature must carry: the rule for `docker-reference`.

A digest alone does not say under which name it was approved: whoever may push to one repository
could copy a signed image of another one there, with its signature.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from shipline.errors import ConfigError, ShiplineError
from shipline.globs import glob
from shipline.oci import Reference

_OPTIONAL = "optional"


class _Rule(StrEnum):
    REPOSITORY = "repository"
    EXACT = "exact"
    TAGGED = "tagged"
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

    `optional`: the same host and repository where the signature carries a name; one without a name
    (as cosign 3 makes them) counts too. `repository`: it must carry the same host and repository.
    `exact`: also the same tag, and any where the image is asked for by digest. `tagged`: the same,
    and no image counts that is asked for without a tag. `path`: the same repository on any host,
    for mirrors and copies. `any`: not checked. Anything else is an ImagePattern that it must
    match.
    """

    rule: _Rule
    pattern: ImagePattern | None = None
    nameless: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ConfigError."""
        if text == _OPTIONAL:
            return cls(_Rule.REPOSITORY, nameless=True)
        if text in list(_Rule) and text != _Rule.PATTERN:
            return cls(_Rule(text))
        if not re.search("[/*]", text):
            raise ConfigError(
                f"not a rule of identity: {text!r}",
                hint=f"{_OPTIONAL}, repository, exact, tagged, path, any, "
                "or a pattern such as registry.example/team/*",
            )
        return cls(_Rule.PATTERN, ImagePattern.parse(text))

    def accepts(self, identity: str, name: Reference) -> bool:
        """Whether a signature that carries `identity` holds for the image `name`."""
        if self.rule is _Rule.ANY:
            return True
        if not identity:
            return self.nameless
        try:
            signed = Reference.parse(identity)
        except ShiplineError:
            return False
        if self.pattern is not None:
            return self.pattern.matches(signed)
        if self.rule is _Rule.PATH:
            return signed.repository == name.repository
        match self.rule:
            case _Rule.EXACT:
                same_tag = signed.tag == name.tag if name.tag else bool(signed.tag or signed.digest)
            case _Rule.TAGGED:
                same_tag = bool(name.tag) and signed.tag == name.tag
            case _:
                same_tag = True
        return signed.name == name.name and same_tag

    def on_any_host(self) -> Self:
        """The same rule where nobody knows by which host an image is asked for."""
        return replace(self, rule=_Rule.PATH) if self.rule is _Rule.REPOSITORY else self

    def __str__(self) -> str:
        if self.nameless:
            return _OPTIONAL if self.rule is _Rule.REPOSITORY else f"{_OPTIONAL} ({self.rule})"
        return str(self.pattern or self.rule)


SAME_REPOSITORY = Identity(_Rule.REPOSITORY)
OPTIONAL = Identity(_Rule.REPOSITORY, nameless=True)
