"""Targets -> build requests, and the checks that `--print` makes, too.

Reference: bake/bake.go and docs/bake-reference.md of docker/buildx.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipline.bake.entries import written
from shipline.bake.selection import SelectedTargets
from shipline.bake.syntax import BakeError
from shipline.bake.target import Target
from shipline.build import (
    BuildRequest,
    Context,
    ContextKind,
    check_url,
    in_target,
    parse_annotation,
    parse_platforms,
    parse_request,
    parse_size,
    parse_ssh,
    parse_ulimit,
)
from shipline.errors import UsageError
from shipline.git import parse_git_source
from shipline.values import replace

CWD = "cwd://"
_GIT = "BUILDX_BAKE_GIT_AUTH"
_GIT_SSH = "BUILDX_BAKE_GIT_SSH"
EPOCH = "SOURCE_DATE_EPOCH"


def is_remote(text: str) -> bool:
    """Whether a context or a definition is a URL of Git or HTTP. Raises UsageError for a broken
    URL.
    """
    if "://" in text:
        check_url(text)
    if text.lower().startswith(("http://", "https://")):
        return True
    return any(mark in text for mark in ("://", "@", "github.com/")) and (
        parse_git_source(text, short=True) is not None
    )


def prepare(
    selection: SelectedTargets, environ: Mapping[str, str], *, remote: bool = False
) -> None:
    """Complete the targets: paths in their shortest form, SOURCE_DATE_EPOCH of the environment. In
    `remote` definitions, `cwd://` stays, since other paths are not of this machine.

    Raises BakeError, with the name of the target, for what no build can do.
    """
    for target in selection.targets.values():
        if epoch := environ.get(EPOCH):
            target.values["args"] = {EPOCH: epoch, **(target.values.get("args") or {})}
        for attribute in ("context", "dockerfile"):
            if target.values.get(attribute) == "-":
                raise BakeError(f"target {target.name}: {attribute} cannot be standard input")
        target.values["context"] = shortest(str(target.values["context"]), remote=remote)
        with in_target(target.name):
            _check(target, environ)


def place_at(selection: SelectedTargets, url: str, directory: Path) -> None:
    """The contexts of a definition from `url`, whose files are in `directory`, are there, too.
    Raises SandboxError for a path outside.
    """
    for target in selection.targets.values():
        with in_target(target.name):
            _at_remote(target, url, directory)


def _at_remote(target: Target, url: str, directory: Path) -> None:
    """Make the contexts that are not of this machine those of the remote definition."""

    def moved(path: str) -> str:
        if path.startswith(CWD) or not is_local(path):
            return path
        inner = posixpath.normpath(path).lstrip("/")
        if parse_git_source(url, short=True) is None:
            from shipline.sandbox import resolve_in_root  # slow to import

            return str(resolve_in_root(directory, inner))
        if inner == ".":
            return url
        head, _, fragment = url.partition("#")
        ref, _, subdir = fragment.partition(":")
        return f"{head}#{ref}:{posixpath.join(subdir, inner)}"

    target.values["context"] = shortest(moved(str(target.values["context"])))
    contexts = target.values.get("contexts") or {}
    if contexts:
        target.values["contexts"] = {name: moved(one) for name, one in contexts.items()}


def shortest(path: str, *, remote: bool = False) -> str:
    """A path as Go's path.Clean has it; a URL as it is, and `cwd://` in `remote` definitions."""
    local = path.removeprefix(CWD)
    if remote if local != path else is_remote(path):
        return path
    clean = posixpath.normpath(local) if local else "."
    return clean.replace("//", "/", 1) if clean.startswith("//") else clean


def _check(target: Target, environ: Mapping[str, str]) -> None:
    """Raises ShiplineError for values that cannot be read."""
    values = target.values
    parse_platforms(values.get("platforms") or ())
    for annotation in values.get("annotations") or ():
        parse_annotation(annotation)
    if "shm-size" in values:
        parse_size(values["shm-size"], "shm-size")
    for limit in values.get("ulimits") or ():
        parse_ulimit(limit)
    if agents := values.get("ssh"):
        from shipline.build.ssh import agents_of  # slow to import

        agents_of(tuple(parse_ssh(written("ssh", one)) for one in agents), environ)
    for secret in values.get("secret") or ():
        path = secret_file(secret, environ)
        if path and not os.path.exists(path):
            raise BakeError(
                f"the secret {secret.get('id', '')} has no file {path}", code="secret-unreadable"
            )


def secret_file(secret: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """The file that a secret is read from, which may be named by its id; empty if none is."""
    if secret.get("src") or secret.get("env"):
        return secret.get("src", "")
    name = secret.get("id", "")
    return "" if name in environ else name


def request_of(
    target: Target, environ: Mapping[str, str], metadata_file: str | None
) -> BuildRequest:
    """The request for a target, with the file for its metadata. Raises UsageError."""
    values = target.values
    context, inline = str(values["context"]), values.get("dockerfile-inline")
    file = _dockerfile(target) if inline is None else "-"
    flags = {**dict(_flags(target)), "file": file, "metadata_file": metadata_file}
    contexts: dict[str, str] = values.get("contexts") or {}
    linked = {
        name.lower(): Context(ContextKind.TARGET, value.removeprefix("target:"))
        for name, value in contexts.items()
        if value.startswith("target:")
    }
    flags["build_context"] = [
        f"{name}={value.removeprefix(CWD) or '.'}"
        for name, value in contexts.items()
        if not value.startswith("target:")
    ]
    if is_remote(context):
        flags["secret"] += git_secrets(environ)
    request = parse_request(context, environ, **flags)
    for name, one in request.build_contexts.items():
        if one.is_local and not os.path.isdir(one.location):
            raise UsageError(
                f"the context {name} is not a directory: {one.location!r}", code="context-not-found"
            )
    return replace(
        request,
        build_contexts={**request.build_contexts, **linked},
        inline=None if inline is None else inline.encode(),
    )


def git_secrets(environ: Mapping[str, str]) -> list[str]:
    """The logins for remote definitions and their contexts, as secrets for git."""
    names = {"GIT_AUTH_TOKEN": f"{_GIT}_TOKEN", "GIT_AUTH_HEADER": f"{_GIT}_HEADER"}
    return [f"id={id},env={name}" for id, name in names.items() if name in environ]


def git_ssh(environ: Mapping[str, str]) -> list[str]:
    """The agent or keys for remote definitions, as --ssh takes them."""
    given = environ.get(_GIT_SSH, "")
    return [f"default={given}"] if given else []


def _dockerfile(target: Target) -> str:
    """The path of the Dockerfile; in a directory it is below the context."""
    context, file = str(target.values["context"]), str(target.values["dockerfile"])
    if file.startswith(CWD):
        return os.path.abspath(local_path(file))
    if is_remote(file) or not is_local(context):
        return file
    return os.path.join(context, posixpath.normpath(file))


def is_local(path: str) -> bool:
    """Whether a context or a Dockerfile is a path of this machine."""
    foreign = ("target:", "docker-image:", "oci-layout:")
    return not path.startswith(foreign) and (path.startswith(CWD) or not is_remote(path))


def local_path(path: str) -> str:
    return path.removeprefix(CWD) or "."


def _flags(target: Target) -> Iterator[tuple[str, Any]]:
    values = target.values
    for flag, attribute in (("build_arg", "args"), ("label", "labels")):
        named = values.get(attribute) or {}
        yield flag, [f"{key}={one}" for key, one in named.items() if one is not None]
    hosts = values.get("extra-hosts") or {}
    yield (
        "add_host",
        [f"{name}={one}" for name, all_ in hosts.items() for one in (all_ or "").split(",") if one],
    )
    for flag, attribute in (
        ("annotation", "annotations"),
        ("platform", "platforms"),
        ("tag", "tags"),
        ("no_cache_filter", "no-cache-filter"),
        ("ulimit", "ulimits"),
        ("allow", "entitlements"),
    ):
        yield flag, values.get(attribute) or []
    policies = values.get("policy") or ()
    yield "policy", [one if "=" in one else f"filename={one}" for one in policies]
    for flag, attribute, kind in (
        ("cache_from", "cache-from", "cache"),
        ("cache_to", "cache-to", "cache"),
        ("secret", "secret", "secret"),
        ("ssh", "ssh", "ssh"),
        ("output", "output", "output"),
        ("attest", "attest", "attest"),
    ):
        yield flag, [written(kind, one) for one in values.get(attribute) or ()]
    for flag, attribute in (("target", "target"), ("shm_size", "shm-size")):
        yield flag, values.get(attribute) or None
    yield "network", values.get("network") or "default"
    call = values.get("call") or "build"
    yield "call", call.replace("lint", "check", 1)
    for flag, attribute in (("pull", "pull"), ("no_cache", "no-cache")):
        yield flag, bool(values.get(attribute))
