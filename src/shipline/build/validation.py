"""Requests that cannot be fulfilled: options that exclude each other, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISDIR

from shipline.build.request import BuildRequest, ContextKind, RunOptions
from shipline.errors import DockerfileError, FlagConflict, InvalidFlag, Span, UsageError

_FRONTENDS = ("docker/dockerfile", "docker/dockerfile-upstream")
_SECRET_LIMIT = 500 << 10  # bytes, as in BuildKit


def check_environment(request: BuildRequest, environ: Mapping[str, str]) -> None:
    """Raises UsageError for a secret or an SSH agent that cannot be used, even if no step mounts
    it.
    """
    if request.ssh:
        from shipline.build.ssh import agents_of  # slow to import

        agents_of(request.ssh, environ)
    for secret in request.secrets:
        if secret.file is not None:
            _check_secret(secret.id, secret.file)


def _check_secret(name: str, file: Path) -> None:
    try:
        status = file.stat()
    except OSError as error:
        raise UsageError(
            f"--secret id={name}: cannot read {file}: {error.strerror}",
            code="secret-unreadable",
            hint="correct src=, or remove the secret",
        ) from None
    if S_ISDIR(status.st_mode) or status.st_size > _SECRET_LIMIT:
        why = "it is a directory" if S_ISDIR(status.st_mode) else "it has more than 500 KiB"
        raise UsageError(
            f"--secret id={name}: {file}: {why}",
            code="secret-unreadable",
            hint="name the file with the secret",
        )


def check_frontend(request: BuildRequest, syntax: str, text: str = "", file: str = "") -> str:
    """A warning about the frontend that a Dockerfile or BUILDKIT_SYNTAX names; empty for Docker's
    own, in any version and from any mirror, which is built in. Raises DockerfileError, with the
    place in the `text` of `file`, for a frontend of another language.
    """
    wanted = request.build_args.get("BUILDKIT_SYNTAX") or syntax
    name = wanted.partition("@")[0].removeprefix("docker-image://")
    last = name.rpartition("/")[2].partition(":")[0]
    path = f"/{name.rpartition('/')[0]}/{last}"
    if not wanted or any(path.endswith(f"/{one}") for one in _FRONTENDS):
        return ""
    if last in ("dockerfile", "dockerfile-upstream"):
        return f"the built-in Dockerfile frontend is used instead of {wanted}"
    lines = enumerate(text.split("\n"), 1)
    number, line = next(((at, one) for at, one in lines if wanted in one), (0, ""))
    raise DockerfileError(
        f"{file} requests the frontend {wanted}, which is not supported",
        code="flag-value",
        span=Span(file, number, number, text=line, source=text) if number else None,
        hint="if the file is a Dockerfile, override this line with"
        " --build-arg BUILDKIT_SYNTAX=docker/dockerfile:1",
    )


def request_warnings(request: BuildRequest, syntax: str) -> Iterator[tuple[str, str]]:
    """Warnings with hints about options that may not be meant."""
    if frontend := check_frontend(request, syntax):
        yield frontend, ""
    if not request.outputs:
        yield (
            "No output specified. Build result will only remain in the build cache. To push result"
            " image into registry use --push or to load image into docker use --load",
            "use --output type=cacheonly to build without this warning",
        )
    if request.attested and any(output.type == "docker" for output in request.outputs):
        yield (
            "an output of type=docker carries no attestations: docker load reads none",
            "push the image, or write --output type=oci",
        )


def _check_limits(run: RunOptions) -> None:
    swap, memory = run.resources.memory_swap, run.resources.memory
    if swap and (not memory or 0 < swap < memory):
        raise FlagConflict(
            "--memory-swap is the limit of memory and swap together: it needs --memory",
            hint="give --memory, and at least as much for --memory-swap",
        )
    if ".." in Path(run.resources.cgroup_parent).parts:
        raise InvalidFlag(f"--cgroup-parent: {run.resources.cgroup_parent!r} must not contain '..'")


def check_request(request: BuildRequest) -> None:
    """Raises UsageError for the first option of `request` that cannot be fulfilled."""
    if request.context.kind is ContextKind.STDIN and request.dockerfile == "-":
        raise FlagConflict("--file: the context and the Dockerfile cannot both be standard input")
    if any(one.push and not one.dangling_prefix for one in request.outputs) and not request.tags:
        raise UsageError(
            "--push: tag is needed when pushing to registry",
            code="tag-missing",
            hint="give one with --tag",
        )
    files = {one.type for one in request.outputs} & {"local", "tar"}
    if request.iidfile is not None and files:
        raise FlagConflict(f"--iidfile: an output of type={files.pop()} has no image ID")
    _check_limits(request.run)
