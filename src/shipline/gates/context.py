"""What gates know besides reports: the image, the paths of the repository, baseline and time."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from shipline.content import Fetcher, fetch_all, fetch_document, fetch_image
from shipline.errors import ConfigError, ContentError
from shipline.gates.verdict import Measurements
from shipline.git import ChangedLines
from shipline.oci import CONFIG_LIMIT, Descriptor, Manifest, Platform, is_attestation

_ROOT = re.compile(r"root|[+-]?0*")
_BASE = "org.opencontainers.image.base.name"
REVISION = "org.opencontainers.image.revision"
PULL_MERGE = "org.shipline.pull-request.merge"
"""The merge commit that was built, if the revision is the head of a pull request."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One platform of an image. `size` is that of its compressed layers and configuration, in
    bytes; `user` that of the configuration; `base` the base image named by annotation or label.
    """

    platform: str
    digest: str
    config: str
    size: int
    layers: int
    user: str = ""
    base: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[str, ...] = ()

    @property
    def root(self) -> bool:
        """Whether processes start as root. Runtimes read numbers as Go's Atoi: 00 and +0 are 0."""
        return _ROOT.fullmatch(self.user.partition(":")[0].strip()) is not None


@dataclass(frozen=True, slots=True)
class ImageSubject:
    """The judged image, an index or a single manifest, tagged or not."""

    digest: str
    platforms: tuple[ImageFacts, ...]


def image_facts(source: Fetcher, target: Descriptor) -> ImageSubject:
    """The platforms of `target`, without the attestations in an index.

    Raises NotFound, DigestMismatch, or ContentError for documents that are not an image.
    """
    document = fetch_document(source, target)
    if isinstance(document, Manifest):
        return ImageSubject(str(target.digest), (_facts(source, target, document, {}),))
    platforms = []
    for child in document.manifests:
        if is_attestation(child):
            continue
        manifest = fetch_image(source, child)
        platforms.append(_facts(source, child, manifest, document.annotations))
    return ImageSubject(str(target.digest), tuple(platforms))


def _facts(
    source: Fetcher, target: Descriptor, manifest: Manifest, outer: Mapping[str, str]
) -> ImageFacts:
    document = _config(source, manifest.config)
    config = document.get("config") or {}
    labels = config.get("Labels") or {}
    ports = config.get("ExposedPorts") or {}
    if not isinstance(labels, dict) or not isinstance(ports, dict):
        raise ContentError(
            f"{manifest.config.digest} is not an image configuration", code="image-invalid"
        )
    annotations = {**outer, **labels, **manifest.annotations}
    platform = target.platform or Platform.from_json(document)
    return ImageFacts(
        str(platform),
        str(target.digest),
        str(manifest.config.digest),
        manifest.config.size + sum(layer.size for layer in manifest.layers),
        len(manifest.layers),
        str(config.get("User") or ""),
        str(annotations.get(_BASE, "")),
        {str(key): str(value) for key, value in labels.items()},
        tuple(sorted(map(str, ports))),
    )


def _config(source: Fetcher, target: Descriptor) -> dict[str, dict[str, object]]:
    try:
        document = json.loads(fetch_all(source, target, CONFIG_LIMIT))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("config") or {}, dict):
        raise ContentError(f"{target.digest} is not an image configuration", code="image-invalid")
    return document


class RepositoryPaths:
    """Finds the files that reports mean. Their paths are relative to the repository or to a source
    directory, absolute on another machine, or by package; only their ends agree.
    """

    def __init__(self, changes: ChangedLines, roots: Iterable[str] = ()) -> None:
        self._files = changes.files | changes.lines.keys()
        self._roots = tuple(root.replace("\\", "/").strip("/") for root in roots)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self._files:
            self._by_name[path.rpartition("/")[2]].append(path)

    def find(self, path: str) -> tuple[str, ...]:
        """The files that `path` may mean: none, one, or several if it is ambiguous."""
        normalized = path.replace("\\", "/").removeprefix("./")
        if normalized in self._files:
            return (normalized,)
        for root in self._roots:
            joined = f"{root}/{normalized}".removeprefix("./")
            if matches := self._ending(joined):
                return matches
        return self._ending(normalized.lstrip("/"), shorter=True)

    def _ending(self, path: str, *, shorter: bool = False) -> tuple[str, ...]:
        """The longest file that `path` ends with; with `shorter`, else the files that end with
        `path`.
        """
        same_name = self._by_name.get(path.rpartition("/")[2], ())
        inside = [file for file in same_name if path == file or path.endswith(f"/{file}")]
        if inside:
            return (max(inside, key=len),)
        if not shorter:
            return ()
        return tuple(sorted(file for file in same_name if file.endswith(f"/{path}")))


SUMMARY_TYPE = "urn:shipline:predicate:gates:v1"


@dataclass(frozen=True, slots=True)
class Baseline:
    """The measurements of the last promoted image, by gate."""

    gates: Mapping[str, Measurements]
    revision: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """From the output of `shipline gate --json`, plain or in an in-toto statement.

        Raises ConfigError.
        """
        try:
            document = json.loads(raw)
            predicate = document.get("predicate", document)
            gates = {gate["gate"]: _measurements(gate) for gate in predicate["gates"]}
            return cls(gates, str(predicate.get("revision", "")))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(
                "the baseline is not a gate summary",
                code="gate-baseline",
                hint="write one with `shipline gate --json > baseline.json`",
            ) from None

    @classmethod
    def newest(cls, predicates: Iterable[object]) -> Self:
        """From the latest of several summaries. Raises ConfigError."""
        return cls.parse(json.dumps(max(predicates, key=_judged_at)).encode())


def _judged_at(predicate: object) -> str:
    return str(predicate.get("judgedAt", "")) if isinstance(predicate, dict) else ""


def _measurements(gate: Mapping[str, Any]) -> Measurements:
    values = gate["measurements"]
    numbers = {str(key): float(value) for key, value in values["numbers"].items()}
    keys = values["keys"]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys")
    return Measurements(numbers, frozenset(keys))


@dataclass(frozen=True, slots=True)
class GateContext:
    """`now` decides on ages and waivers; reports older than `built_at`, the time of what is judged,
    do not count. Waivers may be limited to a `repository` and an `environment`. `others` are the
    digests of images that are judged together with this one: reports may be about those, too.
    """

    now: datetime
    revision: str = ""
    image: ImageSubject | None = None
    repository: str = ""
    environment: str = ""
    changes: ChangedLines | None = None
    baseline: Baseline | None = None
    built_at: datetime | None = None
    others: frozenset[str] = frozenset()

    def before(self, gate: str) -> Measurements | None:
        """The measurements of the gate in the baseline."""
        return self.baseline.gates.get(gate) if self.baseline else None
