"""Build checks: running them for a request, and showing what they found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from shipline import dockerfile as df
from shipline.build.request import BuildRequest
from shipline.errors import UsageError
from shipline.events import Step
from shipline.oci import ImageConfig, Platform
from shipline.values import replace

KnownImages = Callable[[str, Platform], ImageConfig | None]
"""The configuration of an image for a platform; None where it is not known."""

_PREDEFINED = {*df.PROXY_NAMES, "SOURCE_DATE_EPOCH"}
_OPTIONS_OF = re.compile("BUILDKIT_|BUILDX_")
_OPTIONS = "BUILDKIT_DOCKERFILE_CHECK"


def configured(dockerfile: df.Dockerfile, request: BuildRequest) -> df.Dockerfile:
    """The Dockerfile with the check options of the build argument instead of its own."""
    text = request.build_args.get(_OPTIONS)
    if text is None:
        return dockerfile
    return replace(dockerfile, directives=replace(dockerfile.directives, check=text))


def warnings_of(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    ignore: df.IgnoreRules,
    *,
    target: df.Stage | None,
    images: KnownImages = lambda name, platform: None,
) -> tuple[df.LintWarning, ...]:
    """The warnings for all platforms, in the order of lines, each once.

    With `target` only for the stages that it needs. Raises DockerfileError for a file that cannot
    be built at all.
    """

    def known(name: str, platform: str) -> df.KnownImage | None:
        try:
            wanted = Platform.parse(platform)
        except UsageError:  # in a stage that the build does not need
            return None
        image = images(name, wanted)
        if image is None:
            return None
        variables = tuple(image.run.get("Env") or ())
        return df.KnownImage(variables, str(image.platform), str(wanted))

    found: dict[df.LintWarning, None] = {}
    for platform in request.target_platforms:
        arguments = df.PlatformArgs(str(platform), str(Platform.local()))
        found |= dict.fromkeys(
            df.lint(
                dockerfile,
                arguments,
                target=target,
                build_args=request.build_args,
                ignore=ignore,
                images=known,
            )
        )
    return tuple(sorted(found, key=lambda one: one.span.line))


def unused_arguments(request: BuildRequest, dockerfile: df.Dockerfile) -> Iterator[str]:
    """Warnings about build arguments that no ARG declares and that BuildKit does not predefine."""
    lines = (*dockerfile.global_args, *(one for s in dockerfile.stages for one in s.instructions))
    declared = {arg.name for line in lines if isinstance(line, df.Arg) for arg in line.args}
    known = declared | set(df.PlatformArgs("", "").variables())
    for name in request.build_args:
        if name not in known and name.upper() not in _PREDEFINED and not _OPTIONS_OF.match(name):
            meant = df.nearest(name, declared)
            question = f": did you mean {meant}?" if meant else ""
            yield f"no ARG declares the build argument {name}{question}"


def show_warnings(warnings: Iterable[df.LintWarning], step: Step) -> None:
    """Show the warnings, as the last step of a build."""
    lines = [f"- {one.rule}: {one.message} (line {one.span.line})" for one in warnings]
    if not lines:
        return
    with step.step("check Dockerfile", kind="internal") as check:
        check.warn(f"{len(lines)} warning{'s' * (len(lines) > 1)} found, see --check:")
        for line in lines:
            check.warn(line)
