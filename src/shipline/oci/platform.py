"""Platforms: operating system, architecture and variant (image-index.md, "platform")."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self
from urllib.parse import unquote

from msgspec import Struct

from shipline.errors import ContentError, UsageError
from shipline.values import replace

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
_OPTIONS = re.compile(r"([A-Za-z0-9_-]+)\(([\w.%-]*)((?:\+[\w.%-]+)*)\)(?=/|\Z)", re.ASCII)
"""`windows(10.0.17763+win32k)`, as containerd's platforms write version and features."""
_ESCAPES = str.maketrans({one: f"%{ord(one):X}" for one in "%+()/"})
_LTSC_2022 = 20348  # the first build of Windows whose later ones run its images


class Platform(Struct, frozen=True, order=True):
    """Normalised: aarch64 is arm64, arm64/v8 is arm64, arm is arm/v7."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `os/architecture[/variant]`, `architecture`, `os` or `local`; behind the system may
        be `(version+feature..)`. Raises UsageError.

        What is left out is that of this machine, `linux` for the system.
        """
        if given := _OPTIONS.match(text := text.strip()):
            return replace(
                cls.parse(given[1] + text[given.end() :]),
                os_version=unquote(given[2]),
                os_features=tuple(sorted({unquote(one) for one in given[3].split("+")[1:]})),
            )
        parts = text.lower().split("/")
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

    @property
    def full(self) -> str:
        """The text with version and features of the system, as `parse` reads it."""
        words = (self.os_version, *sorted(self.os_features))
        options = "+".join(one.translate(_ESCAPES) for one in words)
        return str(replace(self, os=f"{self.os}({options})")) if options else str(self)


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
        if _has_version(wanted, platform)
    }
    return next((plain[fit] for fit in runs_on(wanted) if fit in plain), None)


def _has_version(wanted: Platform, offered: Platform) -> bool:
    """Whether an image for the Windows of `offered` runs on that of `wanted`, as containerd says:
    on the same build, and on those since that of 2022.
    """
    host, image = _build_of(wanted), _build_of(offered)
    if host is None or not offered.os_version:
        return True
    if image is None or host[:2] != image[:2]:
        return False
    return image == host or _LTSC_2022 <= image[2] <= host[2]


def _build_of(platform: Platform) -> tuple[int, int, int] | None:
    """Major and minor version of a Windows, and the build; None if they are not given."""
    words = platform.os_version.split(".")[:3]
    if platform.os != "windows" or len(words) < 3 or not all(map(str.isdecimal, words)):
        return None
    major, minor, build = map(int, words)
    return major, minor, build
