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
from shipline.errors import DockerfileError, Span, located
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
    BuildKit they differ where FROM names a platform and the build does not. `os` is the operating
    system whose paths the instructions have.
    """

    vertex: Vertex
    image: ImageConfig
    scope: df.VariableScope
    notes: tuple[HistoryNote, ...] = ()
    shell: tuple[str, ...] = df.DEFAULT_SHELL
    cmd_set: bool = False
    scanned: tuple[tuple[str, Vertex], ...] = ()
    target: Platform | None = None
    os: str = "linux"

    @property
    def workdir(self) -> str:
        return df.system_path(str(self.image.run.get("WorkingDir") or "/"), self.os)

    @property
    def user(self) -> str:
        return str(self.image.run.get("User") or "")

    def with_run(self, **values: Any) -> StageState:
        return replace(self, image=self.image.set(**values))

    def with_note(self, text: str | None, vertex: Vertex | None = None) -> StageState:
        """With an entry for the history, and the `vertex` whose layer it has; the same without a
        text.
        """
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
    if handler is not None:
        after = handler(state, step, options)
    else:
        after = _configure(state, step).with_note(_text(state, step))
    return replace(after, scope=step.scope)


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
    return state.with_note(_text(state, step), vertex)


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
    text = run.source.partition(" ")[2].strip() or " ".join(run.command.words)
    return f"{text} ({summary})" if (summary := df.summary_of(run)) else text


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
        sources, parents, unpack = _add_sources(copy, state, options), False, _unpack(copy)
    else:
        _check_copied(copy)
        parents, unpack = copy.parents, "never"
        context = options.source(copy.origin, copy.span, options.platform)
        sources = [(context, _local_path(one, copy, state)) for one in copy.sources]
    inputs = list(dict.fromkeys(vertex for vertex, _ in sources))
    with located(copy.span):
        parse_mode(copy.chmod)
        destination = df.system_path(copy.destination, state.os)
    op = CopyOp(
        sources=tuple(path for _, path in sources),
        destination=df.resolve_path(state.workdir, destination, keep_slash=True),
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
    name = without_logins(copy.name + copy.source[len(copy.name) :])
    vertex = options.vertex(op, [state.vertex, *inputs], name, copy.span, origin)
    return state.with_note(without_logins(_text(state, step) or ""), vertex)


def _check_copied(copy: df.Copy) -> None:
    """Raises DockerfileError for a source that only ADD takes."""
    for source in copy.sources:
        kind = "git ref" if _git_source(source, copy) else "URL" if is_http(source) else ""
        if kind:
            raise DockerfileError(
                f"source can't be a {kind} for COPY",
                span=copy.span,
                hint=f"write ADD {without_logins(source)}",
            )


def _local_path(source: str, transfer: df.Copy | df.Add, state: StageState) -> str:
    with located(transfer.span):
        return df.system_path(source, state.os)


def _add_sources(
    add: df.Add, state: StageState, options: DispatchOptions
) -> list[tuple[Vertex, str]]:
    """The sources of an ADD, in order: the vertex that has each, and its path there."""
    if add.checksum and len(add.sources) > 1:
        raise DockerfileError("--checksum is for a single source", span=add.span)
    return [_add_source(source, add, state, options) for source in add.sources]


def _add_source(
    source: str, add: df.Add, state: StageState, options: DispatchOptions
) -> tuple[Vertex, str]:
    if repository := _git_source(source, add):
        return options.vertex(GitOp(repository), [], repository.shown, add.span), "."
    if is_http(source):
        name, checksum = file_name(source), parse_checksum(add.checksum, add.span)
        op = HttpOp(source, name, checksum)
        return options.vertex(op, [], without_logins(source), add.span), _literal(name)
    if add.checksum:
        raise DockerfileError("checksum requires HTTP(S) or Git sources: --checksum", span=add.span)
    return options.source("", add.span, options.platform), _local_path(source, add, state)


def _git_source(source: str, transfer: df.Copy | df.Add) -> GitSource | None:
    """The Git repository that `source` is; None for another source. Raises DockerfileError."""
    with located(transfer.span):
        found = git.parse_git_source(source)
        if found is None or not isinstance(transfer, df.Add):
            return found
        kept = transfer.keep_git_dir or bool(found.keep_git_dir)
        return replace(found.with_checksum(transfer.checksum), keep_git_dir=kept)


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
    name = f"WORKDIR {workdir.path}"
    with located(workdir.span, prefix="normalizing workdir: normalizing working directory: "):
        workdir = replace(workdir, path=df.system_path(workdir.path, state.os))
    path = df.working_directory(state.workdir, workdir.path)
    text = _text(state, replace(step, instruction=workdir))
    makes_layer = df.makes_layer(workdir, workdir=state.workdir)
    state = state.with_run(WorkingDir=df.shown_path(path, state.os))
    if not makes_layer:
        return state.with_note(text)
    clean = df.resolve_path("/", path)  # as BuildKit's mkdir, thus its cache key
    op = MakeDirectoryOp(clean, state.user, options.timestamp)
    vertex = options.vertex(op, [state.vertex], name, workdir.span)
    return state.with_note(text, vertex)


def _configure(state: StageState, step: df.ScopedInstruction) -> StageState:
    """The state after an instruction that changes no files."""
    match step.instruction:
        case df.Arg():
            return state
        case df.Env():
            return state.with_run(Env=environment(step.scope))
        case df.Label(pairs=pairs):
            labels: Mapping[str, str] = state.image.run.get("Labels") or {}
            return state.with_run(Labels={**labels, **{one.key: one.value for one in pairs}})
        case df.User(user=user):
            return state.with_run(User=user)
        case df.Cmd() as cmd:
            words = list(df.command_line(cmd, state.shell))
            return replace(state.with_run(Cmd=words, ArgsEscaped=True), cmd_set=True)
        case df.Entrypoint() as entrypoint:
            state = state.with_run(Entrypoint=list(df.command_line(entrypoint, state.shell)))
            return state if state.cmd_set else state.with_run(Cmd=None)
        case df.Shell(shell=shell):
            return replace(state.with_run(Shell=list(shell)), shell=shell)
        case df.Expose(ports=ports):
            return _with_keys(state, "ExposedPorts", ports)
        case df.Volume(paths=paths):
            return _with_keys(state, "Volumes", paths)
        case df.StopSignal(signal=signal):
            return state.with_run(StopSignal=signal)
        case df.HealthCheck() as check:
            return state.with_run(Healthcheck=_health_check(check))
        case df.OnBuild(expression=expression):
            return state.with_run(OnBuild=[*(state.image.run.get("OnBuild") or ()), expression])
        case df.Maintainer(author=author):
            return replace(state, image=replace(state.image, author=author))
    raise DockerfileError(f"{step.instruction.name} is not supported", span=step.instruction.span)


def _with_keys(state: StageState, key: str, names: Iterable[str]) -> StageState:
    found: Mapping[str, Any] = state.image.run.get(key) or {}
    return state.with_run(**{key: {**found, **{name: {} for name in names}}})


def _health_check(check: df.HealthCheck) -> dict[str, object]:
    values = {
        "Test": list(check.test),
        "Interval": check.interval_ns,
        "Timeout": check.timeout_ns,
        "StartPeriod": check.start_period_ns,
        "StartInterval": check.start_interval_ns,
        "Retries": check.retries,
    }
    return {key: value for key, value in values.items() if value}


_Handler = Callable[[StageState, df.ScopedInstruction, DispatchOptions], StageState]
_HANDLERS: dict[type[df.Instruction], _Handler] = {
    df.Run: _run,
    df.Copy: _copy,
    df.Add: _copy,
    df.Workdir: _workdir,
}
"""What the instructions that can add a layer do to the state, and to its history."""
