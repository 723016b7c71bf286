"""A stage while its instructions are read, and what each instruction does to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from shipline import dockerfile as df
from shipline import git
from shipline.build.downloads import file_name, parse_checksum
from shipline.build.entitlements import devices_of, is_insecure, network_of
from shipline.build.graph import (
    CopyOp,
    GitOp,
    HttpOp,
    MakeDirectoryOp,
    Op,
    RunMount,
    RunOp,
    Vertex,
    VertexLabel,
)
from shipline.build.locating import is_http
from shipline.build.placing import parse_mode
from shipline.build.request import RunOptions
from shipline.build.ssh import SSH_AUTH_SOCK
from shipline.errors import DockerfileError, Span, UsageError
from shipline.net import without_logins
from shipline.oci import ImageConfig, Platform
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.git import GitSource

LAYERED = (df.Run, df.Copy, df.Add, df.Workdir)
"""The instructions that can add a layer: the numbered steps of a build."""


class HistoryNote(Struct, frozen=True):
    """An entry for the image history; `vertex` adds its layer, None for an entry without one."""

    text: str
    vertex: Vertex | None = None
    comment: str = df.COMMENT


class StageState(Struct, frozen=True):
    """A stage so far. `image` has the history of the base only, `notes` are the entries since;
    `scanned` are stages and the context, by name, whose packages are to be listed beside its own.
    `target` is the platform that the image is for, None for that of its configuration. As in
    BuildKit they differ where FROM names a platform and the build does not.
    """

    vertex: Vertex
    image: ImageConfig
    scope: df.VariableScope
    notes: tuple[HistoryNote, ...] = ()
    shell: tuple[str, ...] = df.DEFAULT_SHELL
    cmd_set: bool = False
    scanned: tuple[tuple[str, Vertex], ...] = ()
    target: Platform | None = None

    @property
    def workdir(self) -> str:
        return str(self.image.run.get("WorkingDir") or "/")

    @property
    def user(self) -> str:
        return str(self.image.run.get("User") or "")

    def with_run(self, **values: Any) -> StageState:
        return replace(self, image=self.image.set(**values))

    def noted(self, text: str | None, vertex: Vertex | None = None) -> StageState:
        if text is None:
            return self
        state = self if vertex is None else replace(self, vertex=vertex)
        return replace(state, notes=(*self.notes, HistoryNote(text, vertex)))


class DispatchOptions(Struct, frozen=True):
    """What an instruction uses besides the state of its stage. `source` resolves a name after
    `--from=`, an empty one to the main context; `described` is what messages call it; `fresh`
    forbids cached results; `timestamp` is that of directories of WORKDIR; `number` counts steps
    from 1; `shown` is the platform in the display.
    """

    stage: str
    platform: Platform
    run: RunOptions
    source: Callable[[str, Span, Platform], Vertex]
    described: Callable[[str], str]
    total: int
    fresh: bool
    proxies: tuple[str, ...] = ()
    hostname: str = ""
    cache_namespace: str = ""
    timestamp: int = -1
    number: int = 1
    shown: str = ""

    def vertex(
        self,
        op: Op,
        inputs: Iterable[Vertex],
        name: str,
        span: Span,
        origin: str = "",
        hint: str = "",
    ) -> Vertex:
        number = f"{self.number}/{self.total}"
        platform = self.shown or str(self.platform)
        label = VertexLabel(name, self.stage, number, platform, span, origin, hint)
        return Vertex(op, tuple(inputs), label, self.fresh)


def dispatch(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    """The state after the instruction. Raises DockerfileError for what is not supported."""
    handler = _HANDLERS.get(type(step.instruction))
    if handler is None:
        raise DockerfileError(
            f"{step.instruction.name} is not supported", span=step.instruction.span
        )
    return replace(handler(state, step, options), scope=step.scope)


def environment(scope: df.VariableScope) -> list[str]:
    return [f"{name}={value}" for name, value in scope.env]


def _text(state: StageState, step: df.ScopedInstruction) -> str | None:
    return df.history_text(step.instruction, step.scope, shell=state.shell, workdir=state.workdir)


def _run(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    run = step.instruction
    assert isinstance(run, df.Run)
    settings = options.run
    inputs, mounts = [state.vertex], []
    for mount in step.mounts:
        source = _mount_source(mount, options, run.span)
        if source is not None and source not in inputs[1:]:
            inputs.append(source)
        number = inputs.index(source, 1) if source else 0
        mounts.append(_run_mount(mount, state, number, options.cache_namespace))
    mounts = _placed_agents(mounts)
    agent = next((one.target for one in mounts if one.type == "ssh"), None)
    variables = dict(step.scope.variables)
    if agent:
        variables.setdefault(SSH_AUTH_SOCK, agent)
    script = df.script_of(run)
    devices, absent = devices_of(run, settings)
    op = RunOp(
        args=df.command_line(run, state.shell),
        env=tuple(f"{name}={value}" for name, value in variables.items()),
        cwd=df.working_directory("/", state.workdir),
        user=state.user,
        platform=str(options.platform),
        mounts=tuple(mounts),
        network=network_of(run, settings),
        insecure=is_insecure(run, settings),
        hosts=tuple((host.name, host.address) for host in settings.hosts),
        shm_size=settings.shm_size,
        ulimits=settings.ulimits,
        script=(script.name, script.content) if script is not None else ("", ""),
        hostname=options.hostname,
        proxies=options.proxies,
        resources=settings.resources,
        devices=devices,
        absent=absent,
    )
    hint = _hint(step.scope, " ".join((*op.args, *op.script)))
    vertex = options.vertex(op, inputs, f"RUN {_shown(run)}", run.span, hint=hint)
    return state.noted(_text(state, step), vertex)


def _hint(scope: df.VariableScope, script: str) -> str:
    """What may help if a command fails: build arguments that it uses and that have no value."""
    unset = (name for name, value in scope.args if value is None and name not in scope.variables)
    names = ((name, re.escape(name)) for name in unset)
    used = [name for name, one in names if re.search(rf"\$(?:{one}\b|{{{one}}})", script)]
    if not used:
        return ""
    return f"no value is given for {', '.join(used)}: --build-arg {used[0]}=VALUE"


def _placed_agents(mounts: Iterable[RunMount]) -> list[RunMount]:
    """The mounts, with the default target for SSH agents that have none."""
    number, found = 0, []
    for one in mounts:
        if one.type == "ssh":
            one = one if one.target else replace(one, target=f"/run/buildkit/ssh_agent.{number}")
            number += 1
        found.append(one)
    return found


def _shown(run: df.Run) -> str:
    return run.source.partition(" ")[2].strip() or " ".join(run.command.words)


def _mount_source(mount: df.Mount, options: DispatchOptions, span: Span) -> Vertex | None:
    if mount.origin:
        return options.source(mount.origin, span, options.platform)
    if mount.type == "bind":
        return options.source("", span, options.platform)
    return None


def _run_mount(mount: df.Mount, state: StageState, input_: int, namespace: str) -> RunMount:
    target = mount.target
    identity = mount.id
    if namespace and mount.type == "cache":
        identity = f"{namespace}/{mount.id or target}"
    return RunMount(
        type=str(mount.type),
        target=df.resolve_path(state.workdir, target) if target else "",
        source=mount.source,
        input=input_,
        id=identity,
        env=mount.env or "",
        read_only=mount.read_only,
        required=mount.required,
        sharing=str(mount.sharing),
        mode=mount.mode,
        uid=mount.uid,
        gid=mount.gid,
        size=mount.size,
        owned=mount.owned,
    )


def _copy(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    copy = step.instruction
    assert isinstance(copy, df.Copy | df.Add)
    if isinstance(copy, df.Add):
        sources, parents, unpack = _add_sources(copy, options), False, _unpack(copy)
    else:
        parents, unpack = copy.parents, "never"
        context = options.source(copy.origin, copy.span, options.platform)
        sources = [(context, one) for one in copy.sources]
    inputs = list(dict.fromkeys(vertex for vertex, _ in sources))
    try:
        parse_mode(copy.chmod)
    except DockerfileError as error:
        error.span = copy.span
        raise
    op = CopyOp(
        sources=tuple(path for _, path in sources),
        destination=df.resolve_path(state.workdir, copy.destination, keep_slash=True),
        files=tuple((one.name, one.content) for one in copy.files),
        chown=copy.chown,
        chmod=copy.chmod,
        link=copy.link and not copy.chmod,
        parents=parents,
        excludes=copy.excludes,
        unpack=unpack,
        inputs=tuple(1 + inputs.index(vertex) for vertex, _ in sources) if inputs[1:] else (),
    )
    origin = options.described(copy.origin) if isinstance(copy, df.Copy) and copy.origin else ""
    name = without_logins(copy.source)
    vertex = options.vertex(op, [state.vertex, *inputs], name, copy.span, origin)
    return state.noted(without_logins(_text(state, step) or ""), vertex)


def _add_sources(add: df.Add, options: DispatchOptions) -> list[tuple[Vertex, str]]:
    """The sources of an ADD, in order: the vertex that has each, and its path there."""
    if add.checksum and len(add.sources) > 1:
        raise DockerfileError("--checksum is for a single source", span=add.span)
    return [_add_source(source, add, options) for source in add.sources]


def _add_source(source: str, add: df.Add, options: DispatchOptions) -> tuple[Vertex, str]:
    if repository := _git_source(source, add):
        return options.vertex(GitOp(repository), [], repository.shown, add.span), "."
    if is_http(source):
        name, checksum = file_name(source), parse_checksum(add.checksum, add.span)
        op = HttpOp(source, name, checksum)
        return options.vertex(op, [], without_logins(source), add.span), _literal(name)
    if add.checksum:
        raise DockerfileError("checksum requires HTTP(S) or Git sources: --checksum", span=add.span)
    return options.source("", add.span, options.platform), source


def _git_source(source: str, add: df.Add) -> GitSource | None:
    """The Git repository that `source` is; None for another source. Raises DockerfileError."""
    try:
        found = git.parse_git_source(source)
        if found is None:
            return None
        kept = add.keep_git_dir or bool(found.keep_git_dir)
        return replace(found.with_checksum(add.checksum), keep_git_dir=kept)
    except UsageError as error:
        raise DockerfileError(
            error.message, code=error.code, span=add.span, hint=error.hint
        ) from None


def _literal(name: str) -> str:
    """A pattern that matches `name` alone."""
    return re.sub(r"[*?[\\]", lambda found: "[\\\\]" if found[0] == "\\" else f"[{found[0]}]", name)


def _unpack(add: df.Add) -> str:
    """Archives of a context are unpacked by default, those at URLs on request."""
    if add.unpack is None:
        return "local archives"
    return "archives" if add.unpack else "never"


def _workdir(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    workdir = step.instruction
    assert isinstance(workdir, df.Workdir)
    path = df.working_directory(state.workdir, workdir.path)
    text = _text(state, step)
    makes_layer = df.makes_layer(workdir, workdir=state.workdir)
    state = state.with_run(WorkingDir=path)
    if not makes_layer:
        return state.noted(text)
    clean = df.resolve_path("/", path)  # as BuildKit's mkdir, thus its cache key
    op = MakeDirectoryOp(clean, state.user, options.timestamp)
    vertex = options.vertex(op, [state.vertex], f"WORKDIR {workdir.path}", workdir.span)
    return state.noted(text, vertex)


def _env(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    return state.with_run(Env=environment(step.scope)).noted(_text(state, step))


def _noted(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    return state.noted(_text(state, step))


def _label(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.Label)
    labels = dict(state.image.run.get("Labels") or {})
    labels |= {pair.key: pair.value for pair in step.instruction.pairs}
    return state.with_run(Labels=labels).noted(_text(state, step))


def _user(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.User)
    return state.with_run(User=step.instruction.user).noted(_text(state, step))


def _cmd(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.Cmd)
    words = list(df.command_line(step.instruction, state.shell))
    state = state.with_run(Cmd=words, ArgsEscaped=True)
    return replace(state, cmd_set=True).noted(_text(state, step))


def _entrypoint(
    state: StageState, step: df.ScopedInstruction, options: DispatchOptions
) -> StageState:
    assert isinstance(step.instruction, df.Entrypoint)
    words = list(df.command_line(step.instruction, state.shell))
    state = state.with_run(Entrypoint=words)
    if not state.cmd_set:
        state = state.with_run(Cmd=None)
    return state.noted(_text(state, step))


def _shell(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.Shell)
    words = step.instruction.shell
    state = replace(state.with_run(Shell=list(words)), shell=words)
    return state.noted(_text(state, step))


def _expose(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.Expose)
    return _keys(state, "ExposedPorts", step.instruction.ports).noted(_text(state, step))


def _volume(state: StageState, step: df.ScopedInstruction, options: DispatchOptions) -> StageState:
    assert isinstance(step.instruction, df.Volume)
    return _keys(state, "Volumes", step.instruction.paths).noted(_text(state, step))


def _keys(state: StageState, key: str, names: Iterable[str]) -> StageState:
    found: Mapping[str, Any] = state.image.run.get(key) or {}
    return state.with_run(**{key: {**found, **{name: {} for name in names}}})


def _stop_signal(
    state: StageState, step: df.ScopedInstruction, options: DispatchOptions
) -> StageState:
    assert isinstance(step.instruction, df.StopSignal)
    return state.with_run(StopSignal=step.instruction.signal).noted(_text(state, step))


def _health_check(
    state: StageState, step: df.ScopedInstruction, options: DispatchOptions
) -> StageState:
    check = step.instruction
    assert isinstance(check, df.HealthCheck)
    values = {
        "Test": list(check.test),
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    }
    kept = {key: value for key, value in values.items() if value}
    return state.with_run(Healthcheck=kept).noted(_text(state, step))


def _on_build(
    state: StageState, step: df.ScopedInstruction, options: DispatchOptions
) -> StageState:
    assert isinstance(step.instruction, df.OnBuild)
    found = state.image.run.get("OnBuild") or ()
    return state.with_run(OnBuild=[*found, step.instruction.expression]).noted(_text(state, step))


def _maintainer(
    state: StageState, step: df.ScopedInstruction, options: DispatchOptions
) -> StageState:
    assert isinstance(step.instruction, df.Maintainer)
    image = replace(state.image, author=step.instruction.author)
    return replace(state, image=image).noted(_text(state, step))


_Handler = Callable[[StageState, df.ScopedInstruction, DispatchOptions], StageState]
_HANDLERS: dict[type[df.Instruction], _Handler] = {
    df.Run: _run,
    df.Copy: _copy,
    df.Add: _copy,
    df.Workdir: _workdir,
    df.Env: _env,
    df.Arg: _noted,
    df.Label: _label,
    df.User: _user,
    df.Cmd: _cmd,
    df.Entrypoint: _entrypoint,
    df.Shell: _shell,
    df.Expose: _expose,
    df.Volume: _volume,
    df.StopSignal: _stop_signal,
    df.HealthCheck: _health_check,
    df.OnBuild: _on_build,
    df.Maintainer: _maintainer,
}
