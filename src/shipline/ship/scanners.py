"""Scanners that are known by name: how each looks at one image, and which gate reads its report.

A scanner gets one platform's manifest by digest; that it finds something is not a failure here,
the gate judges the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shipline.errors import UsageError
from shipline.net import is_loopback


@dataclass(frozen=True, slots=True)
class Scanner:
    """`words` with {image} and {report} in them; `plain` is set for a registry without TLS."""

    words: tuple[str, ...]
    suffix: str
    gate: str
    variables: Mapping[str, str]
    plain: Mapping[str, str]


SCANNERS: Mapping[str, Scanner] = {
    "trivy": Scanner(
        (
            *("trivy", "image", "--image-src", "remote", "--format", "json"),
            *("--exit-code", "0", "--output", "{report}", "{image}"),
        ),
        "trivy.json",
        "vulnerabilities",
        {"TRIVY_DISABLE_TELEMETRY": "true", "TRIVY_SKIP_VERSION_CHECK": "true"},
        {"TRIVY_INSECURE": "true", "TRIVY_NON_SSL": "true"},
    ),
    "grype": Scanner(
        ("grype", "registry:{image}", "--output", "json", "--file", "{report}"),
        "grype.json",
        "vulnerabilities",
        {"GRYPE_CHECK_FOR_APP_UPDATE": "false"},
        {"GRYPE_REGISTRY_INSECURE_USE_HTTP": "true"},
    ),
    "syft": Scanner(
        ("syft", "scan", "registry:{image}", "--output", "cyclonedx-json={report}"),
        "cdx.json",
        "sbom",
        {"SYFT_CHECK_FOR_APP_UPDATE": "false"},
        {"SYFT_REGISTRY_INSECURE_USE_HTTP": "true"},
    ),
}


def scanner(name: str) -> Scanner:
    """Raises UsageError for a name that is not known."""
    try:
        return SCANNERS[name]
    except KeyError:
        raise UsageError(f"there is no scanner {name!r}; there is {', '.join(SCANNERS)}") from None


def scan_command(name: str, image: str, report: str) -> tuple[str, ...]:
    """The program and its arguments; `image` is a repository with the digest of one platform."""
    return tuple(
        word.replace("{image}", image).replace("{report}", report) for word in scanner(name).words
    )


def scan_variables(name: str, host: str) -> dict[str, str]:
    """What the scanner finds in its environment for a registry at `host`."""
    one = scanner(name)
    return {**one.variables, **(one.plain if _is_here(host) else {})}


def scan_shown(name: str) -> str:
    """The command for any platform, in words for a person."""
    return " ".join(scan_command(name, "IMAGE@DIGEST", f"REPORT.{scanner(name).suffix}"))


def _is_here(host: str) -> bool:
    """Whether a registry host is on this machine, where registries usually have no TLS."""
    name, colon, port = host.rpartition(":")
    return is_loopback(name if colon and port.isdigit() else host)
