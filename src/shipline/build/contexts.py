"""The build's inputs on this machine: the Dockerfile, its context and the ignore rules."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from shipline import dockerfile as df
from shipline.build.plan import MAIN_CONTEXT
from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.build.selecting import included
from shipline.build.workshop import Directory
from shipline.errors import UsageError
from shipline.layer import StatCache

_LIMIT = 16 << 20  # bytes of a Dockerfile


def read_dockerfile(request: BuildRequest, stdin: BinaryIO | None) -> df.Dockerfile:
    """The parsed Dockerfile. Raises UsageError where there is none, DockerfileError if wrong."""
    path = _dockerfile_path(request)
    if path is None:
        if stdin is None:
            raise UsageError("the Dockerfile was to come from standard input, which is closed")
        return df.parse_dockerfile(stdin.read(_LIMIT), file="Dockerfile")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read the Dockerfile {path}: {error.strerror}",
            hint="name it with -f, or run in the directory that has it",
        ) from None
    if len(content) > _LIMIT:
        raise UsageError(f"{path} is too big for a Dockerfile: {len(content)} bytes")
    return df.parse_dockerfile(content, file=str(path))


def open_contexts(
    request: BuildRequest, state: Path, scratch: Path, stack: ExitStack
) -> dict[str, Directory]:
    """The local directories by name. Raises UsageError for one that is not there."""
    contexts = {MAIN_CONTEXT: _open(MAIN_CONTEXT, request.context, request, state, scratch, stack)}
    for name, context in request.build_contexts.items():
        if context.kind == ContextKind.LOCAL:
            contexts[name] = _open(name, context, request, state, scratch, stack)
    return contexts


def _dockerfile_path(request: BuildRequest) -> Path | None:
    """Where the Dockerfile is, None for standard input."""
    if request.dockerfile == "-" or request.context.kind == ContextKind.STDIN:
        return None
    if request.dockerfile is None:
        return Path(request.context.location) / "Dockerfile"
    given = Path(request.dockerfile)
    inside = Path(request.context.location) / given
    return inside if not given.exists() and inside.exists() else given


def _open(
    name: str,
    context: Context,
    request: BuildRequest,
    state: Path,
    scratch: Path,
    stack: ExitStack,
) -> Directory:
    if context.kind == ContextKind.STDIN:
        empty = scratch / "no-context"
        empty.mkdir(exist_ok=True)
        return Directory("context (it is empty)", empty, None, None)
    path = Path(context.location)
    if not path.is_dir():
        raise UsageError(
            f"the {name} {str(path)!r} is not a directory",
            hint="the last argument is the directory with the files to copy, often '.'",
        )
    rules = _rules(name, path, request)
    cache = _stat_cache(state, path, stack)
    label = "context" if name == MAIN_CONTEXT else f"context {name}"
    return Directory(label, path.resolve(), included(rules), cache)


def _rules(name: str, path: Path, request: BuildRequest) -> df.IgnoreRules:
    """`<Dockerfile>.dockerignore` where there is one, else `.dockerignore`."""
    candidates = [path / ".dockerignore"]
    dockerfile = _dockerfile_path(request)
    if name == MAIN_CONTEXT and dockerfile is not None:
        candidates.insert(0, dockerfile.with_name(f"{dockerfile.name}.dockerignore"))
    for candidate in candidates:
        if candidate.is_file():
            text = candidate.read_text("utf-8", "surrogateescape")
            return df.IgnoreRules.parse(text, file=str(candidate))
    return df.IgnoreRules.of(())


def _stat_cache(state: Path, path: Path, stack: ExitStack) -> StatCache:
    directory = state / "stat"
    directory.mkdir(exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return stack.enter_context(StatCache.open(directory / name))
