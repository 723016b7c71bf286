"""Boolean flags as docker takes them: `--push`, and also `--push=true` and `--push=false`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from shipline.build import parse_boolean


class SwitchCommand(click.Command):
    """A command whose boolean flags may carry their value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {
            name
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and parameter.is_flag
            for name in parameter.opts
        }
        return super().parse_args(ctx, plain_switches(args, names))


def plain_switches(args: Sequence[str], names: set[str]) -> list[str]:
    """`args` with each `--name=true` as `--name`, and without those that end as `--name=false`."""
    plain: list[str] = []
    for position, word in enumerate(args):
        if word == "--":
            return [*plain, *args[position:]]
        name, equals, value = word.partition("=")
        if not equals or name not in names:
            plain.append(word)
        elif parse_boolean(value, name):
            plain.append(name)
        else:
            plain = [one for one in plain if one != name]
    return plain
