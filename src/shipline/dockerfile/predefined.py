"""The ARGs that exist without being declared: platforms and proxies.

Source: Dockerfile reference, "Automatic platform ARGs in the global scope", "Predefined ARGs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class PlatformArgs:
    """The platforms of a build as `os/arch[/variant]`: what it makes, where it runs."""

    target: str
    build: str

    def variables(self, stage: str = "") -> dict[str, str]:
        """The platform ARGs; `stage` is the name of the target stage, if it has one."""
        return {
            **_platform_variables("BUILD", self.build),
            **_platform_variables("TARGET", self.target),
            "TARGETSTAGE": stage or "default",
        }


def _platform_variables(prefix: str, platform: str) -> dict[str, str]:
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    return {
        f"{prefix}PLATFORM": platform,
        f"{prefix}OS": system.partition("(")[0],
        f"{prefix}OSVERSION": system.partition("(")[2].removesuffix(")"),
        f"{prefix}ARCH": architecture,
        f"{prefix}VARIANT": variant,
    }


def proxy_variables(build_args: Mapping[str, str]) -> dict[str, str]:
    """The proxy settings among `build_args`, each name in both letter cases.

    They belong in the environment of a command even undeclared, and never in a cache key.
    """
    given = {name.upper(): value for name, value in build_args.items()}
    result = {}
    for name in PROXY_NAMES:
        if name in given:
            result[name] = result[name.lower()] = given[name]
    return result
