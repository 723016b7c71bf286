"""Variables of a Dockerfile: the predefined ones, and how each instruction changes them.

Source: Dockerfile reference, "ARG", "ENV", "Predefined ARGs", "Automatic platform ARGs in the
global scope". As in BuildKit, the later of ENV and ARG wins within the build, and a stage based on
another stage inherits its ARGs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct, field

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.mounts import Mount, resolve_mount
from shipline.dockerfile.stages import Dockerfile, Stage
from shipline.dockerfile.text import did_you_mean
from shipline.dockerfile.values import checked_signal, exposed_ports
from shipline.dockerfile.words import BACKSLASH, Expansion, Mode, process_word
from shipline.errors import DockerfileError, located
from shipline.values import replace

PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")


class PlatformArgs(Struct, frozen=True):
    """The platforms of a build as `os/arch[/variant]`: of the image, and of the builder."""

    target: str
    build: str

    def variables(self, stage: str = "") -> dict[str, str]:
        """The platform ARGs; `stage` is the name of the target stage, if it has one."""
        return {
            **_platform_variables("BUILD", self.build),
            **_platform_variables("TARGET", self.target),
            "TARGETSTAGE": stage or "default",
        }


def _platform_variables(prefix: str, platform: str) -> dict[str, str]:
    system, _, rest = platform.partition("/")
    architecture, _, variant = rest.partition("/")
    return {
        f"{prefix}PLATFORM": platform,
        f"{prefix}OS": system.partition("(")[0],
        f"{prefix}OSVERSION": system.partition("(")[2].removesuffix(")"),
        f"{prefix}ARCH": architecture,
        f"{prefix}VARIANT": variant,
    }


def proxy_variables(build_args: Mapping[str, str]) -> dict[str, str]:
    """The proxy settings in `build_args`, each name in both letter cases.

    Commands get them even if undeclared; cache keys never include them.
    """
    given = {name.upper(): value for name, value in build_args.items()}
    result = {}
    for name in PROXY_NAMES:
        if name in given:
            result[name] = result[name.lower()] = given[name]
    return result


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_IN_ENVIRONMENT = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})

Word = Callable[[str], str]


class Base(Struct, frozen=True):
    """The FROM of a stage after expansion; `platform` is empty if not given.

    `used` are the variables in name and platform.
    """

    name: str
    platform: str
    used: frozenset[str] = frozenset()


class GlobalScope(Struct, frozen=True):
    """The variables before the first FROM: platform ARGs and global ARGs with their values.

    `build_args` override every default.
    """

    variables: Mapping[str, str]
    build_args: Mapping[str, str]
    escape: str = BACKSLASH

    def base_of(self, stage: Stage) -> Base:
        """Raises DockerfileError for a name or platform that expands to the empty string."""
        with located(stage.span):
            name = self._expand(stage.base)
            platform = self._expand(stage.platform)
            if not name.text:
                raise _blank_base(stage.base, name, self.variables)
            if stage.platform and not platform.text:
                raise DockerfileError(
                    f"empty platform value from expression {stage.platform}"
                    + _suggestion(platform.undefined, self.variables),
                    code="dockerfile-from",
                    hint="give the ARG a default before the first FROM",
                )
        return Base(name.text, platform.text, name.used | platform.used)

    def undefined_in(self, stage: Stage) -> frozenset[str]:
        """The variables in name and platform of FROM that have no value."""
        with located(stage.span):
            return self._expand(stage.base).undefined | self._expand(stage.platform).undefined

    def suggestion_for(self, stage: Stage) -> str:
        """What one of the `undefined_in` the stage may have been meant to be, for a message."""
        return _suggestion(self.undefined_in(stage), self.variables)

    def _expand(self, text: str) -> Expansion:
        return process_word(text, self.variables, escape=self.escape)


def _blank_base(text: str, name: Expansion, variables: Mapping[str, str]) -> DockerfileError:
    missing = ", ".join(sorted(name.undefined)) or text
    return DockerfileError(
        f"base name ({text}) should not be blank" + _suggestion(name.undefined, variables),
        code="dockerfile-from",
        hint=f"declare ARG {missing} with a default before the first FROM, or pass --build-arg",
    )


def _suggestion(undefined: Iterable[str], variables: Iterable[str]) -> str:
    return next(filter(None, (did_you_mean(name, variables) for name in sorted(undefined))), "")


def open_scope(
    dockerfile: Dockerfile,
    platforms: PlatformArgs,
    *,
    build_args: Mapping[str, str] | None = None,
    target: str = "",
) -> GlobalScope:
    """The global scope of a build; `target` is the name of the target stage.

    Raises DockerfileError if the default of a global ARG cannot be expanded.
    """
    given = dict(build_args or {})
    name = target or dockerfile.stages[-1].name
    variables = platforms.variables(name)
    variables.update({key: given[key] for key in variables if key in given})
    scope = GlobalScope(variables, given, dockerfile.escape)
    for instruction in dockerfile.global_args:
        scope = _declare_global(instruction, scope)
    return scope


def _declare_global(instruction: ins.Arg, scope: GlobalScope) -> GlobalScope:
    variables = dict(scope.variables)
    with located(instruction.span):
        for arg in instruction.args:
            if arg.name in scope.build_args:
                variables[arg.name] = scope.build_args[arg.name]
            elif arg.default is not None:
                expansion = process_word(arg.default, variables, escape=scope.escape)
                variables[arg.name] = expansion.text
    return replace(scope, variables=variables)


class VariableScope(Struct, frozen=True):
    """The variables at one point of a stage.

    `env` goes into the image configuration, in order. `variables` is used for `$NAME` and as the
    environment of commands. `args` are the declared ARGs with their values, in order; None is an
    ARG without a value.
    """

    env: tuple[tuple[str, str], ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    args: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def of_image(cls, env: Iterable[str] = (), *, os: str = "linux") -> VariableScope:
        """The scope at the start of a stage whose base is an image with `env` (`NAME=value`).

        A missing PATH is added, except on Windows, because commands need one.
        """
        pairs: dict[str, str] = {}
        for entry in env:
            name, _, value = entry.partition("=")
            pairs[name] = value
        if "PATH" not in pairs and os != "windows":
            pairs["PATH"] = DEFAULT_PATH
        return cls(tuple(pairs.items()), dict(pairs))

    def with_env(self, pairs: Iterable[tuple[str, str]]) -> VariableScope:
        env, variables = dict(self.env), dict(self.variables)
        for name, value in pairs:
            env[name] = variables[name] = value
        return replace(self, env=tuple(env.items()), variables=variables)

    def with_arg(self, name: str, value: str | None) -> VariableScope:
        variables = dict(self.variables)
        if value is not None and name not in _NOT_IN_ENVIRONMENT:
            variables[name] = value
        return replace(self, variables=variables, args=(*self.args, (name, value)))


class ScopedInstruction(Struct, frozen=True):
    """An instruction after expansion, the scope after it, and the mounts of a RUN.

    `undefined` are the variables that are neither in scope nor declared.
    """

    instruction: ins.Instruction
    scope: VariableScope
    mounts: tuple[Mount, ...] = ()
    undefined: frozenset[str] = frozenset()


def apply(
    instruction: ins.Instruction, scope: VariableScope, global_scope: GlobalScope
) -> ScopedInstruction:
    """Expand `instruction` in `scope`.

    Raises DockerfileError with the position for text that cannot be expanded, and for an invalid
    mount or port.
    """
    words = _Expander(scope.variables, global_scope.escape)
    with located(instruction.span):
        if isinstance(instruction, ins.Arg):
            return _declare(instruction, scope, global_scope)
        mounts: tuple[Mount, ...] = ()
        if isinstance(instruction, ins.Run):
            mounts = tuple(resolve_mount(flag, words) for flag in instruction.mount_flags)
        expanded = _expand(instruction, words)
        if isinstance(expanded, ins.Env):
            scope = scope.with_env((pair.key, pair.value) for pair in expanded.pairs)
    return ScopedInstruction(expanded, scope, mounts, _undeclared(words.undefined, scope))


def _undeclared(undefined: Iterable[str], scope: VariableScope) -> frozenset[str]:
    declared = {name for name, _ in scope.args}
    return frozenset(undefined) - declared - _NOT_IN_ENVIRONMENT


class _Expander(Struct):
    """Expands words of one instruction and collects undefined variables."""

    variables: Mapping[str, str]
    escape: str
    undefined: set[str] = field(default_factory=set)

    def __call__(self, text: str) -> str:
        return self._note(process_word(text, self.variables, escape=self.escape)).text

    def split(self, text: str) -> tuple[str, ...]:
        return self._note(process_word(text, self.variables, escape=self.escape)).words

    def document(self, text: str) -> str:
        """Text of a heredoc: quotes are literal, and the escape is always a backslash."""
        return self._note(process_word(text, self.variables, mode=Mode(quoting=False))).text

    def _note(self, expansion: Expansion) -> Expansion:
        self.undefined |= expansion.undefined
        return expansion


def _declare(
    instruction: ins.Arg, scope: VariableScope, global_scope: GlobalScope
) -> ScopedInstruction:
    """ARG: --build-arg overrides the default, the default overrides the global value.

    A default sees the ARGs before it on the same line; an overridden one is not expanded.
    """
    args: list[ins.ArgDefault] = []
    undefined: frozenset[str] = frozenset()
    for arg in instruction.args:
        value = global_scope.build_args.get(arg.name)
        if value is None and arg.default is None:
            value = global_scope.variables.get(arg.name)
        elif value is None and arg.default is not None:
            words = _Expander(scope.variables, global_scope.escape)
            value = words(arg.default)
            undefined |= _undeclared(words.undefined, scope)
        scope = scope.with_arg(arg.name, value)
        args.append(ins.ArgDefault(arg.name, value))
    return ScopedInstruction(replace(instruction, args=tuple(args)), scope, undefined=undefined)


def _expand(instruction: ins.Instruction, words: _Expander) -> ins.Instruction:
    match instruction:
        case ins.Env() | ins.Label():
            pairs = (replace(p, key=words(p.key), value=words(p.value)) for p in instruction.pairs)
            return replace(instruction, pairs=tuple(pairs))
        case ins.Transfer():
            return _expand_transfer(instruction, words)
        case ins.Workdir():
            return replace(instruction, path=words(instruction.path))
        case ins.User():
            return replace(instruction, user=words(instruction.user))
        case ins.StopSignal():
            return replace(instruction, signal=checked_signal(words(instruction.signal)))
        case ins.Volume():
            return replace(instruction, paths=_volumes(instruction, words))
        case ins.Expose():
            ports = [word for port in instruction.ports for word in words.split(port)]
            return replace(instruction, ports=exposed_ports(ports))
        case _:
            return instruction


def _volumes(instruction: ins.Volume, words: Word) -> tuple[str, ...]:
    paths = tuple(words(path) for path in instruction.paths)
    if "" in paths:
        raise DockerfileError(
            "VOLUME specified can not be an empty string", hint="one of its variables is empty"
        )
    return paths


def _expand_transfer(instruction: ins.Transfer, words: _Expander) -> ins.Transfer:
    files = tuple(
        replace(file, content=words.document(file.content)) if file.expand else file
        for file in instruction.files
    )
    expanded = replace(
        instruction,
        chown=words(instruction.chown),
        chmod=words(instruction.chmod),
        sources=tuple(words(source) for source in instruction.sources),
        destination=words(instruction.destination),
        files=files,
        excludes=tuple(words(pattern) for pattern in instruction.excludes),
    )
    if isinstance(expanded, ins.Add):
        return replace(expanded, checksum=words(expanded.checksum))
    return expanded
