"""The plan of a build: for each platform the vertex of the target stage, and its configuration.

Instructions are taken in order; each turns the state of its stage into the next state. One that
changes files adds a vertex, the others only change the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from shipline import dockerfile as df
from shipline.build.attributes import parse_boolean
from shipline.build.base_images import LAYOUT, TARGET, BaseImage
from shipline.build.clock import epoch_of
from shipline.build.graph import (
    MAIN_CONTEXT,
    ContextOp,
    CopyOp,
    GitOp,
    HttpOp,
    Op,
    ScratchOp,
    Vertex,
    VertexLabel,
)
from shipline.build.remotes import CONTEXT_FILE, context_source
from shipline.build.request import BuildRequest, Context, ContextKind
from shipline.build.stages import (
    LAYERED,
    DispatchOptions,
    HistoryNote,
    StageState,
    dispatch,
    environment,
)
from shipline.errors import DockerfileError, ShiplineError, Span, UsageError, located
from shipline.oci import ImageConfig, InvalidDigest, InvalidReference, Platform, Reference
from shipline.tasks import run_all
from shipline.values import replace

_IMAGES = (ContextKind.IMAGE, ContextKind.LAYOUT, ContextKind.TARGET)
_SCAN = "BUILDKIT_SBOM_SCAN_"


class BaseImages(Protocol):
    def resolve(self, name: str, platform: Platform) -> BaseImage:
        """Look up an image by its name in FROM, or `oci-layout://PATH[:TAG][@DIGEST]`.

        Raises NotFound, RegistryError, AuthError.
        """


class _NamedContexts:
    """The contexts of --build-context, found by any spelling of an image's name."""

    def __init__(self, contexts: Mapping[str, Context]) -> None:
        self._contexts = {_familiar(name): (name, one) for name, one in contexts.items()}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _familiar(name) in self._contexts

    def find(self, name: str) -> tuple[str, Context | None]:
        """The name as it was given, and the context; None for the main context."""
        return self._contexts.get(_familiar(name), (name, None))


def _familiar(name: str) -> str:
    """`name` in its short form, without the tag `latest`."""
    try:
        return Reference.parse(name).familiar.removesuffix(":latest")
    except (InvalidReference, InvalidDigest):
        return name


def plan_platforms(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    images: BaseImages,
    *,
    all_stages: bool = False,
) -> list[StageState]:
    """The target stage for each platform of the request, in their order; with `all_stages` also
    stages that the target does not need are planned, and thereby checked.
    """
    plans = [
        PlatformPlan(request, dockerfile, platform, images, all_stages=all_stages)
        for platform in request.target_platforms
    ]
    return run_all(PlatformPlan.result, plans)


class PlatformPlan:
    """The plan of a Dockerfile for one target platform."""

    def __init__(
        self,
        request: BuildRequest,
        dockerfile: df.Dockerfile,
        platform: Platform,
        images: BaseImages,
        *,
        all_stages: bool = False,
    ) -> None:
        self._request = request
        self._dockerfile = dockerfile
        self._platform = platform
        self._images = images
        self._contexts = _NamedContexts(request.build_contexts)
        self._done: dict[int, StageState] = {}
        self._steps: dict[int, list[df.ScopedInstruction]] = {}
        self._globals = df.open_scope(
            dockerfile,
            df.PlatformArgs(platform.full, str(Platform.local())),
            build_args=request.build_args,
            target=request.target or "",
        )
        epoch = epoch_of(request, dockerfile)
        self._timestamp = int(epoch) * 1_000_000_000 if re.fullmatch("[0-9]+", epoch) else -1
        self._stages = df.stage_plan(
            dockerfile,
            df.resolve_target(dockerfile, request.target),
            lambda stage: self._globals.base_of(stage).name,
            contexts=self._contexts,
            image_triggers=self._triggers,
            all_stages=all_stages,
        )

    def result(self) -> StageState:
        """The target stage, planned after every stage that it needs."""
        for stage in self._stages.stages:
            self._done[stage.index] = self._plan_stage(stage)
        target = self._done[self._stages.target.index]
        labels = {**(target.image.run.get("Labels") or {}), **self._request.labels}
        state = target.with_run(Labels=labels)
        platform = _completed(self._platform, state.image.platform)
        return replace(state, scanned=self._scanned(), target=platform)

    def outline(self) -> df.Outline:
        """What the target takes, once all that it needs could be planned."""
        self.result()
        return df.outline(self._dockerfile, self._globals, self._stages, self._steps)

    def _scanned(self) -> tuple[tuple[str, Vertex], ...]:
        """What BUILDKIT_SBOM_SCAN_STAGE and _CONTEXT name: they hold for the stage where ARG
        declares them, and for all stages where that is before the first FROM.
        """
        found: dict[str, Vertex] = {}
        for stage in self._stages.stages:
            declared = {name: value or "" for name, value in self._done[stage.index].scope.args}
            variables = {**self._globals.variables, **declared}
            of_target = stage.index == self._stages.target.index
            wish = variables.get(f"{_SCAN}{'CONTEXT' if of_target else 'STAGE'}", "")
            if not _is_scanned(stage, wish):
                continue
            if of_target:
                found[MAIN_CONTEXT] = Vertex(ContextOp(MAIN_CONTEXT))
            else:
                found[stage.label] = self._done[stage.index].vertex
        return tuple(sorted(found.items()))

    def _shown_name(self, stage: df.Stage) -> str:
        """The name in the display, as BuildKit's: an only stage needs none."""
        return stage.label if len(self._dockerfile.stages) > 1 else stage.name

    def _plan_stage(self, stage: df.Stage) -> StageState:
        platform = self._platform_of(stage)
        instructions = self._stages.instructions(stage)
        first = int(self._counts_from(stage))
        total = first + sum(isinstance(one, LAYERED) for one in instructions)
        state = self._base(stage, platform, total).with_run(OnBuild=None)
        cache = self._request.cache
        proxies = df.proxy_variables(self._request.build_args)
        options = DispatchOptions(
            stage=self._shown_name(stage),
            platform=platform,
            run=self._request.run,
            source=self._source,
            described=self._described,
            total=total,
            number=first,
            fresh=cache.disabled or stage.label in cache.disabled_stages,
            proxies=tuple(f"{name}={value}" for name, value in proxies.items()),
            hostname=self._request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME", ""),
            timestamp=self._timestamp,
            cache_namespace=self._request.build_args.get("BUILDKIT_CACHE_MOUNT_NS", ""),
        )
        steps = self._steps[stage.index] = []
        for instruction in instructions:
            if isinstance(instruction, LAYERED):
                options = replace(options, number=options.number + 1)
            step = df.apply(instruction, state.scope, self._globals)
            steps.append(step)
            shown = _shown(platform, step.scope.variables)
            state = dispatch(state, step, replace(options, shown=shown))
        return replace(state, cmd_set=False)

    def _counts_from(self, stage: df.Stage) -> bool:
        """Whether FROM is a numbered step, as with BuildKit: neither scratch nor a stage is one."""
        base = self._stages.bases[stage.index]
        return not isinstance(base, df.StageSource) and base.name != df.SCRATCH

    def _platform_of(self, stage: df.Stage) -> Platform:
        written = self._globals.base_of(stage).platform
        if not written:
            return self._platform
        try:
            return Platform.parse(written)
        except UsageError as error:
            raise DockerfileError(
                f"failed to parse platform {stage.platform}: {_platform_fault(written)}"
                f": invalid argument{self._globals.suggestion_for(stage)}",
                code=error.code,
                span=stage.span,
                hint=error.hint,
            ) from error

    def _base(self, stage: df.Stage, platform: Platform, total: int) -> StageState:
        base = self._stages.bases[stage.index]
        if isinstance(base, df.StageSource):
            return self._done[base.index]
        label = VertexLabel("", self._shown_name(stage), f"1/{total}", str(platform), stage.span)
        vertex, image = self._outside(base, platform, label)
        if stage.index in self._stages.replaced and vertex.op == ScratchOp():
            image = ImageConfig(platform)
        notes: tuple[HistoryNote, ...] = ()
        if isinstance(vertex.op, ContextOp | GitOp | HttpOp):
            copy = CopyOp((".",), "/")
            vertex = Vertex(
                copy, (Vertex(ScratchOp(), label=VertexLabel("scratch")), vertex), vertex.label
            )
            notes = (HistoryNote(f"FROM {base.name}", vertex),)
            if stage.index not in self._stages.replaced:
                image = image.set(WorkingDir="/")
        scope = df.VariableScope.of_image(image.run.get("Env") or (), os=platform.os)
        named = self._platform if self._request.platforms else platform
        named = _completed(named, image.platform)
        image = replace(image.specified, platform=named).set(Env=environment(scope))
        shell = tuple(image.run.get("Shell") or df.default_shell(platform.os))
        state = StageState(vertex, image, scope, notes, shell=shell, os=platform.os)
        if platform.os != "windows" or not image.run.get("WorkingDir"):
            return state
        with located(stage.span):
            return state.with_run(WorkingDir=df.shown_path(state.workdir, platform.os))

    def _source(self, name: str, span: Span, platform: Platform) -> Vertex:
        """What `--from=name` means; the main context for an empty name."""
        found = self._stages.source(name) if name else df.ContextSource(MAIN_CONTEXT)
        if isinstance(found, df.StageSource):
            return self._done[found.index].vertex
        return self._outside(found, platform, VertexLabel("", platform=str(platform), span=span))[0]

    def _described(self, name: str) -> str:
        found = self._stages.source(name)
        kind = {df.StageSource: "stage", df.ContextSource: "context"}.get(type(found), "image")
        return f"the {kind} {name}"

    def _outside(
        self, source: df.ImageSource | df.ContextSource, platform: Platform, label: VertexLabel
    ) -> tuple[Vertex, ImageConfig]:
        """An image or context, and the configuration that comes with it."""
        span = label.span
        assert span is not None
        name = source.name
        if isinstance(source, df.ContextSource):
            key, context = self._contexts.find(name)
            if context is None or context.kind not in _IMAGES:
                label = replace(label, name=f"load {name}")
                op = ContextOp(key) if context is None else self._context_op(key, context)
                return Vertex(op, label=label), ImageConfig(platform)
            name = self._name_of(context)
        if name == df.SCRATCH:
            image = ImageConfig(platform).set(WorkingDir="/")
            return Vertex(ScratchOp(), label=VertexLabel("scratch")), image
        base = self._image(name, platform, span)
        label = replace(label, name=f"FROM {base.name}")
        return Vertex(base.manifest, label=label), base.config

    def _context_op(self, name: str, context: Context) -> Op:
        """The operation that brings a named context here."""
        if context.kind is ContextKind.GIT:
            return GitOp(context_source(context.location, {}))
        if context.kind is ContextKind.HTTP:
            return HttpOp(context.location, CONTEXT_FILE)
        return ContextOp(name)

    def _name_of(self, context: Context) -> str:
        """What `BaseImages.resolve` takes for a named context that is an image."""
        if context.kind is ContextKind.LAYOUT:
            return f"{LAYOUT}{context.location}"
        if context.kind is ContextKind.TARGET:
            return f"{TARGET}{context.location}"
        return context.location

    def _image(self, name: str, platform: Platform, span: Span) -> BaseImage:
        try:
            return self._images.resolve(name, platform)
        except (InvalidReference, InvalidDigest) as error:
            hint = self._hint(name, span) or error.hint
            message = f'failed to parse stage name "{name}": invalid reference format'
            raise DockerfileError(
                f"{message}: {error.message}", code=error.code, span=span, hint=hint
            ) from error
        except ShiplineError as error:
            error.span = span
            error.hint = self._hint(name, span) or error.hint
            raise

    def _hint(self, name: str, span: Span) -> str:
        """A hint for a `name` that is not an image; `span` is the instruction that has it."""
        stages = self._dockerfile.stages
        here = next((one for one in stages if one.span == span), None)
        if here and (unset := sorted(self._globals.undefined_in(here))):
            return self._unset_hint(unset)
        others = [one for one in stages if one.name and one is not here]
        for later in others:
            if here and later.name == name.lower() and later.index > here.index:
                return f"the stage {name} is on line {later.span.line}: move it before this one"
            if here and later.name == name.lower():
                return f"FROM finds a stage by its name in lower case: write FROM {later.name}"
        meant = df.nearest(name, [one.name for one in others])
        return f"did you mean the stage {meant}? There is no stage {name}" if meant else ""

    def _unset_hint(self, names: list[str]) -> str:
        """FROM sees only the ARGs before the first FROM."""
        for stage in self._dockerfile.stages:
            for arg in stage.instructions:
                if isinstance(arg, df.Arg) and {one.name for one in arg.args} & {*names}:
                    return (
                        f"move ARG (line {arg.span.line}) before the first FROM, and use it there"
                    )
        declared = {arg.name for line in self._dockerfile.global_args for arg in line.args}
        known = {*self._globals.variables, *declared}
        name = names[0]
        if meant := df.nearest(name, known):
            return f"${name} is not set: did you mean ${meant}?"
        value = f"--build-arg {name}=VALUE"
        if name in declared:
            return f"${name} has no value: give ARG {name} a default, or {value}"
        return f"${name} is not declared: write ARG {name}=VALUE before the first FROM"

    def _triggers(self, stage: df.Stage) -> tuple[df.Instruction, ...]:
        """The ONBUILD instructions of the image that `stage` is made from."""
        name = self._globals.base_of(stage).name
        context = self._contexts.find(name)[1]
        if context is not None:
            is_image = context.kind in _IMAGES
            name = self._name_of(context) if is_image else df.SCRATCH
        if name == df.SCRATCH:
            return ()
        image = self._image(name, self._platform_of(stage), stage.span).config
        texts = image.run.get("OnBuild") or ()
        escape = self._dockerfile.escape
        return tuple(df.parse_trigger(text, stage.span, escape=escape) for text in texts)


def _is_scanned(stage: df.Stage, value: str) -> bool:
    """Whether a boolean, or a list of stages, means the stage."""
    try:
        return parse_boolean(value or "false", _SCAN)
    except UsageError:
        return stage.label in value.split(",")


_OS = re.compile("[A-Za-z0-9_-]+")
_COMPONENT = re.compile("[A-Za-z0-9_.-]+")


def _platform_fault(platform: str) -> str:
    """What BuildKit says about a text that is not a platform."""
    system, *parts = platform.split("/")
    if len(parts) > 2:
        return f'"{platform}": cannot parse platform specifier'
    if not _OS.fullmatch(system):
        return f'"{system}" is an invalid OS component of "{platform}"'
    for part in parts:
        if not _COMPONENT.fullmatch(part):
            return (
                f'"{part}" is an invalid component of "{platform}": platform specifier component '
                f'must match "^{_COMPONENT.pattern}$"'
            )
    return f'"{platform}": unknown operating system or architecture'


def _completed(platform: Platform, base: Platform) -> Platform:
    """With what a base for Windows says of version and features, where `platform` does not."""
    if platform.os != "windows" or base.os != platform.os:
        return platform
    return replace(
        platform,
        os_version=platform.os_version or base.os_version,
        os_features=platform.os_features or base.os_features,
    )


def _shown(platform: Platform, variables: Mapping[str, str]) -> str:
    """`linux/amd64->arm64` where a stage on one platform declares ARG TARGETPLATFORM, TARGETARCH or
    the like, and builds for another.
    """
    parts = variables.get("TARGETPLATFORM", "").split("/")
    if len(parts) < 2:
        arch = variables.get("TARGETARCH", "")
        parts = [variables.get("TARGETOS") or platform.os, arch, variables.get("TARGETVARIANT", "")]
    target = "/".join(filter(None, parts)) if parts[1] else str(platform)
    if target == str(platform):
        return target
    return f"{platform}->{target.removeprefix(f'{platform.os}/')}"
