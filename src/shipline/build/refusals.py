"""What a request may ask for and cannot have, whoever made it: wishes that exclude each other, and
what cannot be done yet, one line each, deleted when the feature lands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shipline.build.request import BuildRequest, Context, ContextKind, Output, Resources
from shipline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Gap:
    """A feature that is missing: how it is spelled, and whether a request needs it."""

    flag: str
    needed: Callable[[BuildRequest], bool]
    hint: str = ""


def _asks(kind: str) -> Callable[[BuildRequest], bool]:
    return lambda r: any(one.type == kind and not one.disabled for one in r.attestations)


def _sets(name: str, value: bool) -> Callable[[BuildRequest], bool]:
    return lambda r: any(one.enabled(name, not value) is value for one in r.outputs)


def _has(name: str) -> Callable[[BuildRequest], bool]:
    return lambda r: any(name in one.attributes for one in r.outputs)


def _mode(output: Output) -> str:
    return output.attributes.get("mode", "copy")


def _reads(kind: ContextKind) -> Callable[[BuildRequest], bool]:
    return lambda r: any(one.kind is kind for one in _contexts(r))


def _contexts(request: BuildRequest) -> list[Context]:
    return [request.context, *request.build_contexts.values()]


GAPS = (
    Gap("--ssh", lambda r: bool(r.ssh)),
    Gap("--cache-from", lambda r: bool(r.cache.sources)),
    Gap("--cache-to", lambda r: bool(r.cache.targets)),
    Gap("--attest type=provenance", _asks("provenance"), "leave it out, or --provenance=false"),
    Gap("--attest type=sbom", _asks("sbom"), "leave it out, or --sbom=false"),
    Gap("--call", lambda r: r.call.method not in ("build", "check"), "build or check"),
    Gap("--output compatibility-version", _has("compatibility-version")),
    Gap("--output prefer-nondist-layers", _sets("prefer-nondist-layers", True)),
    Gap("--output mode=delete", lambda r: any(_mode(one) == "delete" for one in r.outputs)),
    Gap("--output context", _has("context"), "set DOCKER_HOST or DOCKER_CONTEXT"),
    Gap("a git context", _reads(ContextKind.GIT), "clone it, and give the directory"),
    Gap("an http context", _reads(ContextKind.HTTP), "unpack it, and give the directory"),
    Gap("an oci-layout context", _reads(ContextKind.LAYOUT)),
    Gap("--file with a URL", lambda r: "://" in (r.dockerfile or "")),
    Gap("--resource", lambda r: r.run.resources != Resources()),
    Gap("--cgroup-parent", lambda r: bool(r.run.cgroup_parent)),
    Gap("--allow device", lambda r: any(w.startswith("device") for w in r.run.entitlements)),
)


def check_request(request: BuildRequest) -> None:
    """Raises UsageError for the first thing in `request` that cannot be had."""
    if request.context.kind is ContextKind.STDIN and request.dockerfile == "-":
        raise UsageError("--file: the context and the Dockerfile cannot both be standard input")
    if request.push and not request.tags:
        raise UsageError("--push: there is no name to push to", hint="give one with --tag")
    files = {one.type for one in request.outputs} & {"local", "tar"}
    if request.iidfile is not None and files:
        raise UsageError(f"--iidfile: an output of type={files.pop()} has no image ID")
    for gap in GAPS:
        if gap.needed(request):
            raise UsageError(f"{gap.flag} is not supported yet", hint=gap.hint)
