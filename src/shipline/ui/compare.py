"""Two images beside each other: sizes, layers, configuration, packages, vulnerabilities and files.

What only one of them has a list of is not compared: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipline.config.project import statements_about
from shipline.gates import VULNERABILITIES, Severity, image_facts
from shipline.images import OpenImage
from shipline.images.differences import ImageDifference, difference
from shipline.oci import Platform, Reference
from shipline.supply import examine_attestations
from shipline.ui.project import OpenProject


@dataclass(frozen=True, slots=True)
class ScannedVulnerability:
    """One in a package: `fixed` has the versions that cure it."""

    id: str
    severity: str
    package: str
    version: str
    fixed: str


@dataclass(frozen=True, slots=True)
class ImageScan:
    """The newest scan of an image: when, with what, and the key that attested it, empty for a run
    of this machine.
    """

    at: str
    scanner: str
    signer: str
    found: tuple[ScannedVulnerability, ...]


@dataclass(frozen=True, slots=True)
class VulnerabilityChange:
    """`change` is `new`, `fixed` or `in both`."""

    change: str
    vulnerability: ScannedVulnerability


def comparison(
    project: OpenProject, pair: tuple[Reference, Reference], platform: Platform, *, files: bool
) -> ImageDifference:
    """The difference of two images of one platform; layers are read for `files` alone. Raises
    NotFound, ContentError, and what registries raise.
    """
    first, second = (_opened(project, image) for image in pair)
    return difference(first, second, platform, files=files)


def platforms(project: OpenProject, pair: tuple[Reference, Reference]) -> tuple[str, ...]:
    """The platforms that both images have."""
    first, second = (
        [
            facts.platform
            for facts in image_facts(
                project.delivery.repositories(image), _opened(project, image).root
            ).platforms
        ]
        for image in pair
    )
    return tuple(one for one in first if one in second)


def _opened(project: OpenProject, image: Reference) -> OpenImage:
    source = project.delivery.repositories(image)
    return OpenImage(source, source.resolve(str(image.digest)))


def scans_of(project: OpenProject, image: Reference) -> list[ImageScan]:
    """The scans that a key of the trust policy attested, or that runs of this machine kept, the
    newest first.
    """
    delivery = project.delivery
    scans = [*_attested(project, image)]
    if image.digest:
        root = str(delivery.root)
        own = statements_about(delivery.home, root, image.digest, VULNERABILITIES)
        scans += filter(None, (read_scan(predicate, "") for predicate in own))
    return sorted(scans, key=lambda one: one.at, reverse=True)


def _attested(project: OpenProject, image: Reference) -> Iterator[ImageScan]:
    trust = project.delivery.trust
    keys = trust.keys_for(image) if trust else ()
    if not keys:
        return
    opened = _opened(project, image)
    for one in examine_attestations(opened.source, opened.root, keys, VULNERABILITIES).proven:
        if scan := read_scan(one.statement.predicate, one.key.name):
            yield scan


def read_scan(predicate: Mapping[str, Any] | str, signer: str) -> ImageScan | None:
    """A list of vulnerabilities (in-toto, predicate vulns v0.1); None for one of another shape."""
    if isinstance(predicate, str):
        return None
    try:
        scanner, metadata = predicate["scanner"], predicate["metadata"]
        found = tuple(one for entry in scanner["result"] for one in _vulnerabilities(entry))
        name = str(scanner["uri"]).rpartition("/")[2]
        at = str(metadata["scanFinishedOn"])
        return ImageScan(at, f"{name} {scanner.get('version', '')}".strip(), signer, found)
    except (KeyError, TypeError, AttributeError):
        return None


def _vulnerabilities(entry: Mapping[str, Any]) -> Iterator[ScannedVulnerability]:
    scores = {one["method"]: str(one["score"]) for one in entry["severity"]}
    for facts in entry.get("annotations") or [{}]:
        yield ScannedVulnerability(
            str(entry["id"]),
            scores.get("severity", "unknown").lower(),
            str(facts.get("package", "")),
            str(facts.get("version", "")),
            str(facts.get("fixed", "")),
        )


def vulnerability_changes(first: ImageScan, second: ImageScan) -> list[VulnerabilityChange]:
    """What is new, what was cured, and what both have; within each the worst first."""
    before, after = _by_key(first.found), _by_key(second.found)
    changes = [
        *(VulnerabilityChange("new", one) for key, one in after.items() if key not in before),
        *(VulnerabilityChange("fixed", one) for key, one in before.items() if key not in after),
        *(VulnerabilityChange("in both", one) for key, one in after.items() if key in before),
    ]
    order = ("new", "fixed", "in both")
    return sorted(
        changes,
        key=lambda one: (order.index(one.change), _rank(one.vulnerability), one.vulnerability.id),
    )


def _by_key(found: Iterable[ScannedVulnerability]) -> dict[tuple[str, str], ScannedVulnerability]:
    """By name and package: a new version of a package with an old hole is not news."""
    return {(one.id, one.package): one for one in found}


def _rank(one: ScannedVulnerability) -> int:
    try:
        return -Severity.parse(one.severity)
    except ValueError:
        return 1
