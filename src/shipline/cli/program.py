"""The program: its commands, imported when they are called, its options and its end."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from shipline import __version__
from shipline.cli.failures import ProgramSettings, report


@dataclass(frozen=True, slots=True)
class LazyCommand:
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
        sections: Mapping[str, Sequence[LazyCommand]],
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


COMMANDS = {
    "Build": (
        LazyCommand(
            "build", "shipline.cli.build:command", "Build an image from a Dockerfile.", ("b",)
        ),
        LazyCommand(
            "imagetools", "shipline.cli.imagetools:group", "Look at images and combine them."
        ),
        LazyCommand("du", "shipline.cli.disk:du", "Show what the build cache takes of the disk."),
        LazyCommand("prune", "shipline.cli.disk:prune_command", "Remove build cache."),
        LazyCommand("builder", "shipline.cli.builder:group", "Prepare this machine for builds."),
        LazyCommand("login", "shipline.cli.login:login", "Keep credentials for a registry."),
        LazyCommand("logout", "shipline.cli.login:logout", "Forget the credentials of a registry."),
    ),
    "Release": (
        LazyCommand("init", "shipline.cli.init:command", "Write a first shipline.yaml."),
        LazyCommand("config", "shipline.cli.config:group", "Check and show shipline.yaml."),
        LazyCommand(
            "ship", "shipline.cli.ship:command", "Run the chain that shipline.yaml declares."
        ),
        LazyCommand("runs", "shipline.cli.runs:group", "Look at what `shipline ship` did."),
        LazyCommand("ci", "shipline.cli.ci:group", "Write the files of CI systems."),
        LazyCommand(
            "hooks", "shipline.cli.hooks:group", "Run early gates before commits and pushes."
        ),
    ),
    "Parts of a release, one at a time": (
        LazyCommand("version", "shipline.cli.version:command", "Print the version of this commit."),
        LazyCommand("tags", "shipline.cli.tags:command", "Print the tags of this commit, and why."),
        LazyCommand(
            "changelog", "shipline.cli.changelog:command", "Print what changed since a version."
        ),
        LazyCommand(
            "gate", "shipline.cli.gate:command", "Judge reports and images by quality gates."
        ),
        LazyCommand("key", "shipline.cli.key:group", "Make and look at keys for signatures."),
        LazyCommand("sign", "shipline.cli.sign:command", "Sign images."),
        LazyCommand(
            "attest", "shipline.cli.sign:attest_command", "Attach signed statements to images."
        ),
        LazyCommand("verify", "shipline.cli.verify:command", "Verify who signed images."),
        LazyCommand(
            "verify-attestation",
            "shipline.cli.verify:attestation",
            "Verify signed statements about images.",
        ),
    ),
    "Serve": (LazyCommand("registry", "shipline.cli.registry:group", "Run a registry node."),),
    "Shell": (
        LazyCommand("completion", "shipline.cli.completion:command", "Print a completion script."),
    ),
}

_COPY = "`shipline imagetools create -t NEW OLD` copies and names images that a registry has"
POINTERS = {
    "buildx": "`shipline build` takes the flags of `docker buildx build`, and `shipline imagetools`"
    " stands for `docker buildx imagetools`",
    "push": f"`shipline build --push -t NAME .` pushes while it builds; {_COPY}",
    "pull": "builds pull what they need by themselves; `shipline build --load -t NAME .` gives the"
    " result to the engine here, `shipline imagetools inspect NAME` looks at an image",
    "tag": _COPY,
    "copy": _COPY,
    "cp": _COPY,
    "manifest": _COPY,
    "inspect": "`shipline imagetools inspect NAME` looks at an image",
    "lint": "`shipline build --check .` shows what the Dockerfile checks find",
    "check": "`shipline build --check .` shows what the Dockerfile checks find",
    "serve": "`shipline registry serve` runs a registry node",
    "release": "`shipline ship` runs the whole chain, `shipline ship --plan` shows it",
    "run": "`shipline build --load -t NAME .` gives the image to the engine here:"
    " `docker run NAME` runs it",
    "help": "`shipline build --help` explains build, and so on",
}
"""Commands of other programs, and what stands for them here."""


@click.group(
    "shipline",
    cls=LazyGroup,
    sections=COMMANDS,
    pointers=POINTERS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("-D", "--debug", is_flag=True, help="Show where an error comes from.")
@click.version_option(__version__, message="shipline %(version)s")
@click.pass_obj
def program(settings: ProgramSettings, debug: bool) -> None:
    """From a git commit to a signed, multi-architecture container image in every region."""
    settings.debug = debug


def run(arguments: list[str]) -> int:
    """Run the command line; the exit status.

    Takes SIGTERM over, which then does what Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(100_000, 20, 20)  # a build makes many small values, and they live long
    settings = ProgramSettings()
    try:
        status = program.main(arguments, "shipline", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BaseException as failure:  # whatever ended the program, there is a status for it
        return report(failure, settings)
    return status if isinstance(status, int) else 0
