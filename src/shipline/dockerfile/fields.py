"""The parts of an instruction as typed values: flags, commands, COPY and ADD, HEALTHCHECK.

Source: Dockerfile reference, "COPY", "ADD", "Here-documents", "HEALTHCHECK"; OCI image
configuration, "Healthcheck".
"""

from __future__ import annotations

import re
from typing import TypedDict

from msgspec import Struct

from shipline.dockerfile.arguments import blank_separated, json_strings
from shipline.dockerfile.instructions import Add, Command, Copy, HealthCheck, InlineFile
from shipline.dockerfile.parser import ParsedInstruction, chomp, parse_heredoc
from shipline.dockerfile.text import SPACES, did_you_mean
from shipline.dockerfile.values import format_duration, parse_duration
from shipline.errors import DockerfileError, Span


class Common(TypedDict):
    span: Span
    source: str
    keyword: str
    comments: tuple[str, ...]


def common(node: ParsedInstruction) -> Common:
    """The fields of the class Instruction."""
    return Common(
        span=node.span,
        source=node.text.rstrip(SPACES),
        keyword=node.keyword,
        comments=node.comments,
    )


def read_command(text: str) -> Command:
    """Exec form where `text` is a JSON array of strings, else shell form."""
    words = json_strings(text)
    if words is not None:
        return Command(words, shell_form=False)
    return Command((text,) if text else (), shell_form=True)


class InvalidInstructionFlag(DockerfileError):
    """An instruction has no such flag, or not with this value."""

    code = "dockerfile-flag"


class InstructionFlags(Struct, frozen=True):
    """The values of the given flags by name, in order."""

    values: dict[str, tuple[str, ...]]

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, (default,))[-1]

    def all(self, name: str) -> tuple[str, ...]:
        return self.values.get(name, ())

    def switch(self, name: str) -> bool:
        return self.tristate(name) or False

    def tristate(self, name: str) -> bool | None:
        return self.text(name) == "true" if name in self.values else None


def read_flags(
    words: tuple[str, ...],
    *,
    text: tuple[str, ...] = (),
    repeated: tuple[str, ...] = (),
    switches: tuple[str, ...] = (),
) -> InstructionFlags:
    """The flags `words` (`--name=value`), of three kinds.

    Raises DockerfileError for an unknown flag, one given twice that is not `repeated`, a missing
    value and a switch that is neither true nor false.
    """
    known = (*text, *repeated, *switches)
    values: dict[str, tuple[str, ...]] = {}
    for word in words:
        name, equals, value = word[2:].partition("=")
        if name not in known:
            suggestion = did_you_mean(name, known)
            listed = ", ".join(f"--{flag}" for flag in known) or "none"
            raise InvalidInstructionFlag(
                f"unknown flag: --{name}{suggestion}", hint=f"the known flags are: {listed}"
            )
        if name in values and name not in repeated:
            raise InvalidInstructionFlag(
                f"duplicate flag specified: --{name}", hint="remove one of them"
            )
        if name in switches:
            value = _switch(name, bool(equals), value)
        elif not equals:
            raise InvalidInstructionFlag(
                f"missing a value on flag: --{name}", hint=f"write --{name}=..."
            )
        values[name] = (*values.get(name, ()), value)
    return InstructionFlags(values)


def _switch(name: str, given: bool, value: str) -> str:
    if given and not value:
        raise InvalidInstructionFlag(f"missing a value on flag: --{name}", hint=f"write --{name}")
    lower = value.lower() or "true"  # flags of instructions know these words only (bflag.go)
    if lower not in ("true", "false"):
        raise InvalidInstructionFlag(
            f"expecting boolean value for flag --{name}, not: {value}", hint="use true or false"
        )
    return lower


def _transfer(node: ParsedInstruction) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str]:
    """(sources, inline files, destination) of COPY and ADD."""
    keyword = node.keyword.upper()
    words = json_strings(node.rest)
    words = blank_separated(node.rest) if words is None else words
    if len(words) < 2:
        raise DockerfileError(
            f"{keyword} requires at least two arguments, but only one was provided. Destination "
            "could not be determined",
            hint=f"write {keyword} source destination",
        )
    *sources, destination = words
    documents = {doc.name: doc for doc in node.heredocs}
    if documents and parse_heredoc(destination):
        raise DockerfileError(f"{keyword} cannot accept a heredoc as a destination")
    paths: list[str] = []
    files: list[InlineFile] = []
    for source in sources:
        announced = parse_heredoc(source) if documents else None
        doc = documents.get(announced.name) if announced else None
        if doc is None:
            paths.append(source)
            continue
        content = chomp(doc.content) if doc.chomp else doc.content
        files.append(InlineFile(doc.name, content, doc.expand, doc.chomp))
    return tuple(paths), tuple(files), destination


def read_copy(node: ParsedInstruction, escape: str) -> Copy:
    sources, files, destination = _transfer(node)
    flags = read_flags(
        node.flags,
        text=("from", "chown", "chmod"),
        repeated=("exclude",),
        switches=("link", "parents"),
    )
    return Copy(
        sources=sources,
        files=files,
        destination=destination,
        origin=flags.text("from"),
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        parents=flags.switch("parents"),
        excludes=flags.all("exclude"),
        **common(node),
    )


def read_add(node: ParsedInstruction, escape: str) -> Add:
    sources, files, destination = _transfer(node)
    flags = read_flags(
        node.flags,
        text=("chown", "chmod", "checksum"),
        repeated=("exclude",),
        switches=("link", "keep-git-dir", "unpack"),
    )
    return Add(
        sources=sources,
        files=files,
        destination=destination,
        chown=flags.text("chown"),
        chmod=flags.text("chmod"),
        link=flags.switch("link"),
        keep_git_dir=flags.tristate("keep-git-dir"),
        checksum=flags.text("checksum"),
        unpack=flags.tristate("unpack"),
        excludes=flags.all("exclude"),
        **common(node),
    )


_MINIMUM_INTERVAL_NS = 1_000_000


class InvalidHealthcheck(DockerfileError):
    """HEALTHCHECK has a malformed command or flag."""

    code = "dockerfile-healthcheck"


def read_health_check(node: ParsedInstruction, escape: str) -> HealthCheck:
    kind, *tail = node.rest.split(None, 1) or [""]
    rest = tail[0] if tail else ""
    if not kind:
        raise InvalidHealthcheck("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise InvalidHealthcheck("HEALTHCHECK NONE takes no arguments")
        return HealthCheck(test=("NONE",), **common(node))
    if kind.upper() != "CMD":
        raise InvalidHealthcheck(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    command = read_command(rest)
    if not command.words:
        raise InvalidHealthcheck("Missing command after HEALTHCHECK CMD")
    times = ("interval", "timeout", "start-period", "start-interval")
    flags = read_flags(node.flags, text=(*times, "retries"))
    interval, timeout, start_period, start_interval = (_interval(flags, name) for name in times)
    return HealthCheck(
        test=("CMD-SHELL" if command.shell_form else "CMD", *command.words),
        interval_ns=interval,
        timeout_ns=timeout,
        start_period_ns=start_period,
        start_interval_ns=start_interval,
        retries=_retries(flags.text("retries")),
        **common(node),
    )


def _interval(flags: InstructionFlags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise InvalidHealthcheck(str(error), hint=f"write --{name}=30s") from None
    if value != 0 and value < _MINIMUM_INTERVAL_NS:
        least = format_duration(_MINIMUM_INTERVAL_NS)
        raise InvalidHealthcheck(f'Interval "{name}" cannot be less than {least}')
    return value


def _retries(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]*", text) or (len(text) > 9 and int(text) >= 1 << 31):
        raise InvalidHealthcheck(f'invalid number of retries: "{text}"', hint="write --retries=3")
    value = int(text or "0")
    if value < 0:
        raise InvalidHealthcheck(f"--retries cannot be negative ({value})")
    return value
