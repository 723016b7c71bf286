"""The command of an instruction, and its entry in the image history.

Source: OCI image configuration, "history"; the texts are those of BuildKit's `created_by`, which
follow Go's `%q` and `%v`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shipline.dockerfile import instructions as ins
from shipline.dockerfile.parser import chomp, parse_heredoc
from shipline.dockerfile.paths import working_directory
from shipline.dockerfile.scope import VariableScope
from shipline.dockerfile.text import quote, quote_character
from shipline.dockerfile.values import format_duration
from shipline.errors import DockerfileError

DEFAULT_SHELL = ("/bin/sh", "-c")
_WINDOWS_SHELL = ("cmd", "/S", "/C")
SCRIPT_DIRECTORY = "/dev/pipes"
COMMENT = "buildkit.dockerfile.v0"
_MARK = " # buildkit"


def default_shell(os: str) -> tuple[str, ...]:
    """The shell of an operating system, as Go names it, where the image names none."""
    return _WINDOWS_SHELL if os == "windows" else DEFAULT_SHELL


def command_line(
    instruction: ins.Run | ins.Cmd | ins.Entrypoint, shell: Sequence[str] = DEFAULT_SHELL
) -> tuple[str, ...]:
    """The words to execute, prefixed by the shell in shell form, with here-documents inlined.

    Raises DockerfileError for a here-document of a RUN in exec form.
    """
    if isinstance(instruction, ins.Run) and instruction.files:
        script = script_of(instruction)
        if script is not None:
            return (*shell, f"{SCRIPT_DIRECTORY}/{script.name}")
        return (*shell, _with_documents(instruction))
    command = instruction.command
    return (*shell, " ".join(command.words)) if command.shell_form else command.words


def script_of(instruction: ins.Run) -> ins.InlineFile | None:
    """The here-document of a RUN that is a script: alone, and starting with `#!` in the file; after
    tabs, which `<<-` removes, it is the shell's.

    It must be executable in `/dev/pipes` under its name while the step runs. Its content is
    final: variables are left to the script.
    """
    document = _only_document(instruction)
    if document is None or not instruction.files[0].content.startswith("#!"):
        return None
    return document


def summary_of(run: ins.Run) -> str:
    """The first line of a here-document that is the whole command, as BuildKit shows it."""
    if _only_document(run) is None:
        return ""
    first, *others = run.files[0].content.strip().replace("\r\n", "\n").split("\n")
    return f"{first}..." if others else first


def _only_document(instruction: ins.Run) -> ins.InlineFile | None:
    """The document if the whole command is `<<NAME`, with tabs removed for `<<-`."""
    if not instruction.files or not parse_heredoc(" ".join(instruction.command.words)):
        return None
    first = instruction.files[0]
    content = chomp(first.content) if first.chomp else first.content
    return ins.InlineFile(first.name, content, first.expand, first.chomp)


def _with_documents(instruction: ins.Run) -> str:
    if not instruction.command.shell_form:
        raise DockerfileError("a here-document needs the shell form", span=instruction.span)
    document = _only_document(instruction)
    if document is not None:
        return document.content
    ends = "".join(f"\n{file.content}{file.name}" for file in instruction.files)
    return " ".join(instruction.command.words) + ends


def makes_layer(instruction: ins.Instruction, *, workdir: str = "/") -> bool:
    """Whether the history entry of `instruction` has a layer.

    `workdir` is the working directory before it: a WORKDIR to `/` has none.
    """
    if isinstance(instruction, ins.Workdir):
        return working_directory(workdir, instruction.path) != "/"
    return isinstance(instruction, ins.Run | ins.Transfer)


def history_text(
    instruction: ins.Instruction,
    scope: VariableScope,
    *,
    shell: Sequence[str] = DEFAULT_SHELL,
    workdir: str = "/",
) -> str | None:
    """The `created_by` of an expanded instruction; None if it has no entry (ONBUILD, FROM).

    `scope`, `shell` and `workdir` are those before the instruction.
    """
    match instruction:
        case ins.Run():
            words = [*_declared(scope), *command_line(instruction, shell)]
            return f"RUN {' '.join(words)}{_MARK}"
        case ins.Transfer():
            return _transfer(instruction)
        case ins.Workdir():
            return f"WORKDIR {working_directory(workdir, instruction.path)}"
        case ins.Cmd() | ins.Entrypoint():
            return f"{instruction.name} {quoted_list(command_line(instruction, shell))}"
        case ins.HealthCheck():
            return _health_check(instruction)
        case ins.OnBuild() | ins.From():
            return None
        case _:
            return f"{instruction.name} {_plain(instruction)}"


def _plain(instruction: ins.Instruction) -> str:
    match instruction:
        case ins.Env() | ins.Label():
            return " ".join(f"{pair.key}={pair.value}" for pair in instruction.pairs)
        case ins.Arg():
            return " ".join(_arg(arg.name, arg.default) for arg in instruction.args)
        case ins.Expose():
            return bare_list(instruction.ports)
        case ins.Volume():
            return bare_list(instruction.paths)
        case ins.Shell():
            return bare_list(instruction.shell)
        case ins.User():
            return instruction.user
        case ins.StopSignal():
            return instruction.signal
        case ins.Maintainer():
            return instruction.author
        case _:
            raise AssertionError(f"no history text for {instruction.name}")


def _arg(name: str, value: str | None) -> str:
    return name if value is None else f"{name}={value}"


def _declared(scope: VariableScope) -> list[str]:
    """`|2 A=1 B=2`: the number of ARGs in scope, and their values in the environment."""
    values = {name: scope.variables.get(name, value or "") for name, value in scope.args}
    if not values:
        return []
    return [f"|{len(values)}", *(f"{name}={value}" for name, value in values.items())]


def _transfer(instruction: ins.Transfer) -> str:
    words = [instruction.name]
    if isinstance(instruction, ins.Copy) and instruction.parents:
        words.append("--parents")
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += instruction.sources
    words += (f"<<{file.name}" for file in instruction.files)
    return " ".join([*words, instruction.destination]) + _MARK


def _health_check(instruction: ins.HealthCheck) -> str:
    """Go's `%q` of the address of a struct."""
    durations = (
        instruction.interval_ns,
        instruction.timeout_ns,
        instruction.start_period_ns,
        instruction.start_interval_ns,
    )
    words = " ".join(quote(format_duration(one)) for one in durations)
    retries = quote_character(instruction.retries)
    return f"HEALTHCHECK &{{{quoted_list(instruction.test)} {words} {retries}}}"


def bare_list(words: Iterable[str]) -> str:
    """`[a b]`, as Go prints a list with `%v`."""
    return f"[{' '.join(words)}]"


def quoted_list(words: Iterable[str]) -> str:
    """`["a" "b"]`, as Go prints a list with `%q`."""
    return bare_list(quote(word) for word in words)
