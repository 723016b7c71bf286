"""What --call asks about a Dockerfile: the build checks, what a target takes, the targets."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path, PurePath

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.base_images import RegistryImages
from shipline.build.blobs import Blobs
from shipline.build.cache import open_records
from shipline.build.contexts import configured, load_dockerfile, main_rules
from shipline.build.engine_images import EngineImages, uses_local_images
from shipline.build.faults import Damage, system_errors
from shipline.build.plan import PlatformPlan, plan_platforms
from shipline.build.remotes import remotes_alone
from shipline.build.request import BuildRequest
from shipline.build.settings import Settings
from shipline.build.validation import check_frontend
from shipline.content import LocalStore
from shipline.errors import DockerfileError, ShiplineError, Span, UsageError
from shipline.events import Step
from shipline.net import without_logins
from shipline.oci import ImageConfig, Platform
from shipline.values import replace

KnownImages = Callable[[str, Platform], ImageConfig | None]
"""The configuration of an image for a platform; None where it is not known."""

_PREDEFINED = {*df.PROXY_NAMES, "SOURCE_DATE_EPOCH"}
_OPTIONS_OF = re.compile("BUILDKIT_|BUILDX_")
_OF_PARSER = frozenset(
    {"NoEmptyContinuation", "StageNameCasing", "FromAsCasing", "MaintainerDeprecated"}
    | {"InvalidDefinitionDescription"}
)
"""The rules of the checks that BuildKit makes while it reads an instruction."""


class CheckResult(Struct, frozen=True):
    """What the build checks found, and the error that would stop a build before it starts.

    `source` is a place in the Dockerfile, which has the whole file.
    """

    warnings: tuple[df.LintWarning, ...] = ()
    failure: ShiplineError | None = None
    source: Span | None = None


def call(
    request: BuildRequest, settings: Settings, step: Step
) -> CheckResult | df.Outline | df.Dockerfile:
    """The answer to the method of --call: that of the checks, the outline of the target, or the
    file with its stages. Base images are looked up, nothing is built.

    `check` plans the target, or all stages without one. Raises UsageError without a Dockerfile or
    target, the errors of the system as `build` does, and for other methods than `check` those of
    the Dockerfile and its base images.
    """
    from tempfile import TemporaryDirectory

    with system_errors(settings.home), TemporaryDirectory() as scratch, ExitStack() as stack:
        blobs = Blobs(LocalStore(settings.home / "content"), step)
        policy = settings.source_policy(request)
        records = stack.enter_context(open_records(settings.home / "cache.db", Damage(step)))
        engine = EngineImages(settings, blobs, records, Path(scratch))
        images = RegistryImages(settings.repositories, blobs, step, engine)
        images = images.under_policy(policy, local=uses_local_images(request))
        remotes = stack.enter_context(
            remotes_alone(request, settings, step, Path(scratch), blobs, policy)
        )
        try:
            request, dockerfile = load_dockerfile(request, settings.stdin, remotes, images, step)
        except DockerfileError as error:
            if request.call.method != "check":
                raise
            return CheckResult(warnings_before(error, request), error, error.span)
        if frontend := check_frontend(request, dockerfile.directives.syntax):
            step.warn(frontend)
        request = replace(request, run=replace(request.run, planned_only=True))
        match request.call.method:
            case "outline":
                return _outline(request, dockerfile, images, step, stack)
            case "targets":
                return dockerfile
            case _:
                return _checked(request, dockerfile, images)


def warnings_before(error: DockerfileError, request: BuildRequest) -> tuple[df.LintWarning, ...]:
    """What BuildKit warns of while it reads the instructions before the wrong one."""
    if error.span is None:
        return ()
    span = error.span
    try:
        read = df.parse_dockerfile(span.source, file=span.file, before=span.line)
    except DockerfileError:
        return ()
    found = warnings_of(
        request,
        configured(read, request),
        main_rules(request),
        target=None,
        on_failure=lambda later: None,
    )
    return tuple(one for one in found if one.rule in _OF_PARSER)


def _outline(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: RegistryImages,
    step: Step,
    stack: ExitStack,
) -> df.Outline:
    """The outline for the platform of this machine, as in BuildKit."""
    found = PlatformPlan(request, dockerfile, Platform.local(), images).outline()
    check_dockerfile(request, dockerfile, images, step, stack)
    return found


def _checked(
    request: BuildRequest, dockerfile: df.Dockerfile, images: RegistryImages
) -> CheckResult:
    target = df.resolve_target(dockerfile, request.target) if request.target else None
    failures: list[ShiplineError] = []
    found: tuple[df.LintWarning, ...] = ()
    try:
        plan_platforms(request, dockerfile, images, all_stages=target is None)
    except ShiplineError as error:
        failures.append(error)
    try:
        found = warnings_of(
            request,
            dockerfile,
            main_rules(request),
            target=target,
            images=images.known,
            on_failure=failures.append,
        )
        df.enforce(found, df.check_options(dockerfile))
    except DockerfileError as error:
        failures.append(error)
    return CheckResult(found, next(iter(failures), None), dockerfile.stages[0].span)


def check_dockerfile(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: RegistryImages,
    step: Step,
    stack: ExitStack,
) -> None:
    """Run the build checks; `stack` shows their warnings at its end. Raises DockerfileError if they
    are to stop the build.
    """
    target = df.resolve_target(dockerfile, request.target)
    rules = main_rules(request)
    for warning in unused_arguments(request, dockerfile):
        step.warn(warning)
    found = warnings_of(request, dockerfile, rules, target=target, images=images.known)
    stack.callback(show_warnings, found, step)
    df.enforce(found, df.check_options(dockerfile))


def show_findings(
    request: BuildRequest, dockerfile: df.Dockerfile, images: RegistryImages, step: Step
) -> None:
    """Show the warnings about a file that cannot be planned. Raises DockerfileError for its check
    options.
    """
    target = dockerfile.find(request.target) if request.target else dockerfile.stages[-1]
    found = warnings_of(
        request,
        dockerfile,
        main_rules(request),
        target=target,
        images=images.known,
        on_failure=lambda error: None,
    )
    if target is not None:
        show_warnings(found, step)


def warnings_of(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    ignore: df.IgnoreRules,
    *,
    target: df.Stage | None,
    images: KnownImages = lambda name, platform: None,
    on_failure: Callable[[DockerfileError], None] | None = None,
) -> tuple[df.LintWarning, ...]:
    """The warnings for all platforms, in the order of lines, each once.

    With `target` only for the stages that it needs. A file that cannot be built at all is as in
    `lint`.
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
        arguments = df.PlatformArgs(platform.full, str(Platform.local()))
        found |= dict.fromkeys(
            df.lint(
                dockerfile,
                arguments,
                target=target,
                build_args=request.build_args,
                ignore=ignore,
                images=known,
                on_failure=on_failure,
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
    warnings = tuple(warnings)
    if not warnings:
        return
    with step.step("check Dockerfile", kind="internal") as check:
        for one in warnings:
            message = f"{one.rule}: {one.message} (line {one.span.line})"
            check.warn(message, more=_as_of_buildkit(one))


def _as_of_buildkit(warning: df.LintWarning) -> dict[str, object]:
    """The fields of BuildKit's VertexWarning."""
    span = warning.span
    lines = range(span.line, span.end + 1)
    return {
        "detail": [_encoded(df.DESCRIPTIONS[warning.rule])],
        "url": df.rule_url(warning.rule),
        "sourceInfo": {
            "filename": PurePath(span.file).name,
            "data": _encoded(without_logins(span.source)),
            "language": "Dockerfile",
        },
        "range": [{"start": {"line": line}, "end": {"line": line}} for line in lines],
    }


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode(errors="backslashreplace")).decode()
