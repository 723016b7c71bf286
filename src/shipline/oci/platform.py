"""Platforms: operating system, architecture and variant (image-index.md, "platform")."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from msgspec import Struct

from shipline.errors import ContentError, UsageError

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "ppc64el": ("ppc64le", ""),
    "loongarch64": ("loong64", ""),
}
_KNOWN = frozenset(
    {"386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64"}
    | {"ppc64le", "riscv64", "s390x", "wasm", "unknown"}
)
_SYSTEMS = frozenset(
    {"darwin", "dragonfly", "freebsd", "illumos", "linux", "netbsd", "openbsd", "plan9", "solaris"}
    | {"windows"}
)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


class Platform(Struct, frozen=True, order=True):
    """Normalised: aarch64 is arm64, arm64/v8 is arm64, arm is arm/v7."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/architecture[/variant]`, `architecture`, `os` or `local`. Raises UsageError.

        What is left out is that of this machine, `linux` for the system.
        """
        parts = text.strip().lower().split("/")
        if parts == ["local"]:
            return cls.local()
        if len(parts) == 1 and parts[0] in _KNOWN | _ARCHITECTURES.keys():
            parts = ["linux", *parts]
        if len(parts) == 1 and parts[0] in _SYSTEMS:
            local = cls.local()
            return cls(parts[0], local.architecture, local.variant)
        if not 2 <= len(parts) <= 3 or not all(map(_WORD.match, parts)):
            raise UsageError(
                f"not a platform: {text!r}",
                code="platform-invalid",
                hint="write it as os/architecture, like linux/arm64",
            )
        return cls.normal(*parts)

    @classmethod
    def normal(cls, os: str, architecture: str, variant: str = "", **more: Any) -> Self:
        architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
        variant = variant or implied
        if architecture == "arm" and not variant:
            variant = "v7"
        if (architecture, variant) in {("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")}:
            variant = ""
        if architecture == "arm" and variant in {"5", "6", "7", "8"}:
            variant = f"v{variant}"
        return cls("darwin" if os == "macos" else os, architecture, variant, **more)

    @classmethod
    def local(cls) -> Self:
        """The platform of this machine."""
        return cls.normal("linux", os.uname().machine.lower())

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises ContentError for a field that is not a string."""
        words = [value.get(key, "") for key in ("os", "architecture", "variant", "os.version")]
        features = value.get("os.features") or []
        if not isinstance(features, list) or not all(
            isinstance(word, str) for word in (*words, *features)
        ):
            raise ContentError(f"not a platform: {value!r}", code="image-invalid")
        return cls.normal(*words[:3], os_version=words[3], os_features=tuple(features))

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def runs_on(wanted: Platform) -> tuple[Platform, ...]:
    """The platforms whose programs run on `wanted`, best first."""
    older: dict[str, tuple[str, ...]] = {
        "arm": ("v8", "v7", "v6", "v5"),
        "amd64": ("v4", "v3", "v2", ""),
    }
    variants = older.get(wanted.architecture, (wanted.variant,))
    if wanted.variant in variants:
        variants = variants[variants.index(wanted.variant) :]
    fits = [Platform(wanted.os, wanted.architecture, variant) for variant in variants]
    if wanted.architecture == "arm64":
        fits = [Platform(wanted.os, "arm64", wanted.variant), Platform(wanted.os, "arm64")]
        fits += [Platform(wanted.os, "arm", variant) for variant in older["arm"]]
    return tuple(dict.fromkeys(fits))


def best_match(wanted: Platform, offered: Iterable[Platform]) -> Platform | None:
    """The offered platform that fits `wanted` best, None if none does."""
    plain = {
        Platform(platform.os, platform.architecture, platform.variant): platform
        for platform in reversed([*offered])
    }
    return next((plain[fit] for fit in runs_on(wanted) if fit in plain), None)
