"""A group of commands whose modules are imported only when they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """A command by name: `place` is `module:attribute`, `help` its line in the list."""

    name: str
    place: str
    help: str
    aliases: tuple[str, ...] = ()

    def load(self) -> click.Command:
        module, _, attribute = self.place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class PointedCommand(click.exceptions.NoSuchCommand):
    """A command of another program; `hint` names what to use instead."""

    def __init__(self, name: str, hint: str, ctx: click.Context) -> None:
        super().__init__(name, ctx=ctx)
        self.hint = hint


class LazyGroup(click.Group):
    """A group made of entries below titles; showing its help imports none of them.

    `pointers` are names that people try, with what to use instead.
    """

    def __init__(
        self,
        *args: Any,
        sections: Mapping[str, Sequence[Entry]],
        pointers: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections
        self._entries = [entry for entries in sections.values() for entry in entries]
        self._pointers = pointers or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [entry.name for entry in self._entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for entry in self._entries:
            if cmd_name in (entry.name, *entry.aliases):
                return entry.load()
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            name = error.command_name
            if name in self._pointers:
                raise PointedCommand(name, self._pointers[name], ctx) from None
            names = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(name, possibilities=names, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(len(entry.name) for entry in self._entries)
        for title, entries in self._sections.items():
            with formatter.section(title):
                rows = [(entry.name.ljust(widest), entry.help) for entry in entries]
                formatter.write_dl(rows)
