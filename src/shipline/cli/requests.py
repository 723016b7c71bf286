"""The flags of `shipline build`, as click read them, to a BuildRequest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from shipline.build import (
    BuildRequest,
    CacheOptions,
    RunOptions,
    annotating,
    check_request,
    outputs,
    values,
)
from shipline.build import flags as read
from shipline.cli.environment import git_labels, implied_build_args
from shipline.errors import UsageError

Given = Mapping[str, Any]
_NETWORKS = ("default", "none", "host")


def build_request(given: Given, environ: Mapping[str, str]) -> BuildRequest:
    """Raises UsageError for a value that cannot be read, and for what cannot be had."""
    wanted = outputs.parse_outputs(given["output"], push=given["push"], load=given["load"])
    request = BuildRequest(
        context=read.parse_context(given["context"], os.path.isdir),
        dockerfile=given["file"],
        target=given["target"],
        build_contexts=dict(map(read.parse_build_context, given["build_context"])),
        build_args=implied_build_args(environ)
        | values.parse_assignments(given["build_arg"], "--build-arg", environ),
        labels=_git_labels(given, environ) | values.parse_assignments(given["label"], "--label"),
        annotations=tuple(
            one for text in given["annotation"] for one in annotating.parse_annotation(text)
        ),
        platforms=read.parse_platforms(
            given["platform"] or [environ.get("DOCKER_DEFAULT_PLATFORM", "")]
        ),
        pull=given["pull"],
        secrets=tuple(read.parse_secret(text, environ) for text in given["secret"]),
        ssh=tuple(map(read.parse_ssh, given["ssh"])),
        run=_run(given),
        cache=_cache(given),
        tags=read.parse_tags((*given["tag"], *outputs.names(wanted))),
        outputs=wanted,
        attestations=read.parse_attestations(
            given["attest"], provenance=given["provenance"], sbom=given["sbom"]
        ),
        call=read.parse_call("check" if given["check"] else given["print_"] or given["call"]),
        iidfile=_path(given["iidfile"]),
        metadata_file=_path(given["metadata_file"]),
    )
    check_request(request)
    return request


def _git_labels(given: Given, environ: Mapping[str, str]) -> dict[str, str]:
    context = Path(given["context"])
    return git_labels(environ, context, given["file"]) if context.is_dir() else {}


def _run(given: Given) -> RunOptions:
    if given["network"] not in _NETWORKS:
        raise UsageError(f"--network: {given['network']!r} is not one of {', '.join(_NETWORKS)}")
    return RunOptions(
        cast(Literal["default", "none", "host"], given["network"]),
        tuple(
            read.parse_host(word) for text in given["add_host"] for word in values.split_csv(text)
        ),
        read.parse_entitlements(given["allow"]),
        tuple(map(read.parse_ulimit, given["ulimit"])),
        read.parse_shm_size(given["shm_size"] or ""),
        given["cgroup_parent"] or "",
        read.parse_resources((*_old_limits(given), *given["resource"])),
    )


def _old_limits(given: Given) -> Iterator[str]:
    """The flags of the old builder, as --resource has them."""
    for name in (
        *("memory", "memory_swap", "cpu_shares", "cpu_period", "cpu_quota"),
        *("cpuset_cpus", "cpuset_mems"),
    ):
        if given[name]:
            value = given[name].replace('"', "")
            yield f'"{name.replace("_", "-")}={value}"'


def _cache(given: Given) -> CacheOptions:
    return CacheOptions(
        given["no_cache"],
        tuple(stage for text in given["no_cache_filter"] for stage in values.split_csv(text)),
        tuple(one for t in given["cache_from"] for one in read.parse_cache(t, "--cache-from")),
        tuple(one for t in given["cache_to"] for one in read.parse_cache(t, "--cache-to")),
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
