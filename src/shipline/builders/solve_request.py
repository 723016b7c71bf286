"""A request of BuildKit's API as a build request of ours: the counterpart of `solving`.

What it asks for is written as the flags that mean it, and parsed as those are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from shipline.build import parse_request, split_csv
from shipline.build.request import BuildRequest
from shipline.buildkit.messages import CacheOptionsEntry, Exporter, SolveRequest
from shipline.errors import UsageError

_ANNOTATION = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([^]]+)\])?\.(.+)")
_FLAGS = {"target": "target", "shm-size": "shm_size", "cgroup-parent": "cgroup_parent"}
_IGNORED = (
    "source",
    "cmdline",
    "contextkey",
    "dockerfilekey",
    "filename",
    "context",
    "multi-platform",
    "cache-imports",  # again in the request itself
)
_CACHES = ("registry", "inline", "gha", "s3", "azblob")


class SolveWork(Struct, frozen=True):
    """The request, and for each exporter that makes a file, by position, where that is written."""

    request: BuildRequest
    files: Mapping[int, Path]


def check_frontend(solve: SolveRequest) -> None:
    """Raises UsageError for anything else than a Dockerfile that stands alone."""
    if solve.frontend != "dockerfile.v0" or solve.frontend_inputs:
        raise UsageError(
            "this builder is shipline, and builds Dockerfiles only: no other frontends, and no"
            " results of other builds as contexts",
            code="builder-incapable",
            hint="use a builder with BuildKit, or this machine: --builder native",
        )


def read_request(
    solve: SolveRequest, context: str, dockerfile: str, contexts: Mapping[str, str], scratch: Path
) -> SolveWork:
    """The build of `solve`, with directories of this machine in place of those of the client:
    `contexts` has the named ones. Its files are written below `scratch`. Raises UsageError.
    """
    files: dict[int, Path] = {}
    outputs, annotations = [], list[str]()
    for number, one in enumerate(solve.exporters):
        text, notes = _output(number, one, scratch, files)
        outputs.append(text)
        annotations += notes
    flags = _flags(solve.frontend_attrs)
    caches = solve.cache
    request = parse_request(
        context,
        {},
        file=dockerfile or None,
        build_context=[f"{name}={value}" for name, value in contexts.items()],
        allow=solve.entitlements,
        output=outputs,
        annotation=dict.fromkeys(annotations),
        cache_from=[_cache(one) for one in caches.imports] if caches else (),
        cache_to=[_cache(one) for one in caches.exports] if caches else (),
        **flags,
    )
    return SolveWork(request, files)


def _flags(attributes: Mapping[str, str]) -> dict[str, Any]:
    """Attributes of the Dockerfile frontend as flags (frontend/dockerui/config.go)."""
    found: dict[str, Any] = {"build_arg": [], "label": [], "attest": []}
    for name, value in attributes.items():
        group, _, part = name.partition(":")
        if group == "build-arg":
            found["build_arg"].append(f"{part}={value}")
        elif group == "label":
            found["label"].append(f"{part}={value}")
        elif group == "attest":
            found["attest"].append(_join([f"type={part}", *split_csv(value)]))
        elif name in _FLAGS:
            found[_FLAGS[name]] = value
        elif name == "platform":
            found["platform"] = [value]
        elif name == "image-resolve-mode":
            found["pull"] = value == "pull"
        elif name == "force-network-mode":
            found["network"] = value
        elif name == "add-hosts":
            found["add_host"] = [value]
        elif name == "ulimit":
            found["ulimit"] = split_csv(value)
        elif name == "no-cache":
            found |= {"no_cache_filter": [value]} if value else {"no_cache": True}
        elif name not in _IGNORED and group not in ("context", "input-metadata"):
            raise UsageError(
                f"the attribute {name} of a build is not known here",
                code="builder-incapable",
                hint="install the same version on both machines",
            )
    return found


def _output(
    number: int, exporter: Exporter, scratch: Path, files: dict[int, Path]
) -> tuple[str, list[str]]:
    """The value of --output, and those of --annotation."""
    fields, annotations = [f"type={exporter.type}"], []
    for name, value in exporter.attrs.items():
        if match := _ANNOTATION.fullmatch(name):
            level, platform, key = match.groups()
            place = f"[{platform}]" if platform else ""
            annotations.append(f"{level or 'manifest'}{place}:{key}={value}")
        else:
            fields.append(f"{name}={value}")
    if exporter.type in ("oci", "docker", "tar"):
        files[number] = scratch / f"output-{number}"
        fields.append(f"dest={files[number]}")
    elif exporter.type != "image":
        raise UsageError(
            f"this builder is shipline, and has no exporter {exporter.type!r} for files of another"
            " machine",
            code="builder-incapable",
            hint="use type=image, oci, docker or tar",
        )
    return _join(fields), annotations


def _cache(entry: CacheOptionsEntry) -> str:
    if entry.type not in _CACHES:
        raise UsageError(
            f"this builder has no caches of type={entry.type}", code="builder-incapable"
        )
    return _join([f"type={entry.type}", *(f"{key}={value}" for key, value in entry.attrs.items())])


def _join(fields: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(list(fields))
    return line.getvalue()


def named_contexts(attributes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The contexts of a build besides the main one, by name."""
    for name, value in attributes.items():
        if name.startswith("context:"):
            yield name.removeprefix("context:"), value
