"""No hint names what does not exist: every command and option in them is looked up."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache

import click
import pytest

from shipline.cli.program import program
from sources import Hint, source_files

_OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
_COMMAND = re.compile(r"\bshipline((?: (?!that\b)[a-z0-9][a-z0-9-]*)+)")
_FOREIGN = re.compile(
    r"\b(az|git|docker|sysctl|usermod|cosign|apt-get|dpkg|mount|ulimit|npm|pip|crun|[Nn]uclei)\b"
)
_INSTRUCTIONS = {
    *("--from", "--retries", "--mount", "--device", "--chmod", "--chown", "--link", "--parents")
}


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from commands(found, (*words, name))


def find(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that `words` begin with, after flags of the program, and what is left of them."""
    command: click.Command = program
    while words and words[0] in options_of(program):
        words = words[1:]
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


def options_of(command: click.Command) -> set[str]:
    return {
        name
        for one in command.get_params(click.Context(command))
        if isinstance(one, click.Option)
        for name in (*one.opts, *one.secondary_opts)
    } | {"-h", "--help"}


@cache
def every_option() -> set[str]:
    return set().union(*(options_of(find(list(words))[0]) for words in commands(program)))


def every_hint() -> list[Hint]:
    return [hint for file in source_files() for hint in file.hints]


@pytest.mark.slow
def test_what_a_hint_names_is_there() -> None:
    hints = every_hint()
    assert len(hints) > 200 and any("--ca" in hint.text for hint in hints)
    for hint in hints:
        check_hint(hint)


def check_hint(hint: Hint) -> None:
    for quoted in re.findall(r"`([^`]*)`", hint.text):
        if quoted.startswith("shipline "):
            check_command(shlex.split(quoted)[1:], hint)
    for found in _COMMAND.finditer(hint.text):
        words = found[1].split()
        command, left = find(words)
        assert len(left) < len(words), f"there is no command {found[0]!r} in {hint}"
        assert not isinstance(command, click.Group) or not left or command.invoke_without_command, (
            f"{found[0]!r} ends at a group in {hint}"
        )
    if not _FOREIGN.search(hint.text):
        known = every_option() | (_INSTRUCTIONS if hint.place.startswith("dockerfile/") else set())
        assert set(_OPTION.findall(hint.text)) <= known, hint


def check_command(words: list[str], hint: Hint) -> None:
    command, left = find(words)
    assert command is not program, f"there is no command {words} in {hint}"
    used = {word.partition("=")[0] for word in left if word.startswith("-") and word != "-"}
    assert used <= options_of(command), f"{words} has no {used - options_of(command)} in {hint}"


@pytest.mark.slow
def test_help_of_a_group_shows_whole_sentences() -> None:
    for words in commands(program):
        command = find(list(words))[0]
        if isinstance(command, click.Group):
            rows = click.HelpFormatter(width=80)
            command.format_commands(click.Context(command), rows)
            text = rows.getvalue()
            assert re.search(r"\S", text) and not re.search(r"(?<!\bREGISTRY)\.\.\.$", text, re.M)
