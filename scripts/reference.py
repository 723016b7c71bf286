"""Prints docs/commands.md: every command with its arguments and options, as --help has them."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import cleandoc

import click

from shipline.cli.program import COMMANDS, program

BAR = "\\|"
HEAD = """# Commands

Every command of `shipline` with its options, from the program itself (`python scripts/reference.py`). `shipline COMMAND --help` shows the same;
`-h` is short for `--help` everywhere. What the flags of `build` do is explained in [build.md](build.md), what exit codes mean in the
[README](../README.md#commands).
"""


def reference() -> str:
    """The page, in the order of `shipline --help`."""
    return "\n".join(_page())


def _page() -> Iterator[str]:
    yield HEAD
    root = click.Context(program, info_name="shipline")
    for title, entries in COMMANDS.items():
        yield f"## {title}\n"
        for entry in entries:
            yield from _command(entry.load(), click.Context(entry.load(), root, entry.name))


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    if command.hidden:
        return
    yield f"### `{context.command_path}`\n"
    yield _text(command.help or command.short_help or "") + "\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{context.command_path} {usage}\n```\n"
    yield from _options(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _command(inner, click.Context(inner, context, name))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = [one.get_help_record(context) for one in command.params]
    rows = [record for record in records if record is not None]
    if not rows:
        return
    yield "| option | |\n|---|---|"
    for option, text in rows:
        yield f"| `{option.replace('|', BAR)}` | {_text(text).replace('|', BAR)} |"
    yield ""


def _text(text: str) -> str:
    """Help as Markdown; paragraphs that click does not wrap stay as they are."""
    return "\n\n".join(_paragraph(one) for one in cleandoc(text).split("\n\n"))


def _paragraph(text: str) -> str:
    if text.startswith("\b\n"):
        return f"```text\n{text[2:]}\n```"
    return " ".join(text.split())


if __name__ == "__main__":
    print(reference(), end="")
