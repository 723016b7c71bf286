"""The program: its commands, imported on use, global options and exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import click

from shipline import __version__
from shipline.cli.completing import complete_files
from shipline.cli.entry import is_buildx
from shipline.cli.failures import ProgramSettings, open_standard_streams, report


class LazyCommand(NamedTuple):
    """A command by name: `target` is `module:attribute` in `cli`, `help` its line of the list."""

    name: str
    target: str
    help: str
    aliases: tuple[str, ...] = ()

    def load(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(import_module(f"shipline.cli.{module}"), attribute)
        return command


class ForeignCommand(click.exceptions.NoSuchCommand):
    """A command of another program; `hint` names the replacement."""

    def __init__(self, name: str, hint: str, ctx: click.Context) -> None:
        super().__init__(name, ctx=ctx)
        self.hint = hint


class CommandGroup(click.Group):
    """A group whose help has the first sentence of each command whole, over several lines."""

    group_class = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {name: one for name, one in self.commands.items() if not one.hidden}
        rows = [(name, shown[name].get_short_help_str(sys.maxsize)) for name in sorted(shown)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class LazyGroup(click.Group):
    """A group of commands in titled sections; its help imports none of them.

    `pointers` maps commands of other programs to their replacement.
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
                raise ForeignCommand(name, self._pointers[name], ctx) from None
            names = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(name, possibilities=names, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_sections(self._sections, formatter)


def _write_sections(
    sections: Mapping[str, Sequence[LazyCommand]], formatter: click.HelpFormatter
) -> None:
    widest = max(len(entry.name) for entries in sections.values() for entry in entries)
    for title, entries in sections.items():
        with formatter.section(title):
            formatter.write_dl([(entry.name.ljust(widest), entry.help) for entry in entries])


class Program(LazyGroup):
    """The group of all commands. To docker it shows those of buildx alone, with the option before
    them: programs search this help for what they need.
    """

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        params = super().get_params(ctx)
        return [_BUILDER, *params] if is_buildx() else params

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not is_buildx():
            super().format_commands(ctx, formatter)
            return
        from shipline.cli.builder import COMMANDS as OF_BUILDERS

        found = {entry.name: entry for entry in (*self._entries, *OF_BUILDERS, _VERSION)}
        _write_sections({"Commands": [found[name] for name in _OF_BUILDX]}, formatter)


COMMANDS = {
    "Build": (
        LazyCommand("build", "build:command", "Build an image from a Dockerfile.", ("b",)),
        LazyCommand("bake", "bake:command", "Build the targets of a bake file.", ("f",)),
        LazyCommand("imagetools", "imagetools:group", "Inspect images, tag and combine them."),
        LazyCommand("copy", "copy:command", "Copy images.", ("cp",)),
        LazyCommand("inspect", "imagetools:inspect_command", "Show an image, or all of it."),
        LazyCommand("tag", "images:tag", "Give an image further tags."),
        LazyCommand("digest", "images:digest", "Print the digest of an image."),
        LazyCommand("ls", "images:ls", "List tags, or repositories.", ("catalog",)),
        LazyCommand("diff", "images:diff", "Show what two images differ in."),
        LazyCommand("delete", "images:delete", "Remove tags and images.", ("rmi",)),
        LazyCommand("du", "builder:du", "Show the size of the build cache."),
        LazyCommand("prune", "builder:prune_command", "Remove build cache."),
        LazyCommand("builder", "builder:group", "Choose what builds, and prepare it."),
        LazyCommand("login", "login:login", "Store credentials for a registry."),
        LazyCommand("logout", "login:logout", "Remove the credentials of a registry."),
    ),
    "Release": (
        LazyCommand("init", "init:command", "Write a first shipline.yaml."),
        LazyCommand("config", "config:group", "Check and show shipline.yaml."),
        LazyCommand("ship", "ship:command", "Run the pipeline in shipline.yaml."),
        LazyCommand("deploy", "deploy:command", "Set images in a GitOps repository."),
        LazyCommand("canary", "canary:command", "Deploy images step by step."),
        LazyCommand("drift", "drift:command", "Compare environments with git."),
        LazyCommand("check", "check:command", "Verify what an environment runs."),
        LazyCommand(
            "promote", "promote:promote_command", "Take an image from one environment to the next."
        ),
        LazyCommand("approve", "promote:approve_command", "Approve an image for an environment."),
        LazyCommand("hold", "promote:hold_command", "Keep an image out of an environment."),
        LazyCommand("release", "promote:release_command", "End the hold of an image."),
        LazyCommand(
            "rollback",
            "promote:rollback_command",
            "Go back to the image before, and hold the present one.",
        ),
        LazyCommand("status", "environments:status", "Show what is deployed where, and why."),
        LazyCommand("env", "environments:group", "Show the history of an environment."),
        LazyCommand("argocd", "cluster:argocd", "Write objects for Argo CD."),
        LazyCommand("flux", "cluster:flux", "Write objects for Flux."),
        LazyCommand("k8s", "cluster:kubernetes", "Write objects for Kubernetes."),
        LazyCommand("history", "history:group", "Show earlier runs of build, bake and ship."),
        LazyCommand("why", "why:command", "Say why a step ran again."),
        LazyCommand("runs", "runs:group", "Show the runs of `shipline ship`."),
        LazyCommand("ci", "ci:group", "Write the files of CI systems."),
        LazyCommand("hooks", "hooks:group", "Run early gates before commits and pushes."),
    ),
    "Parts of a release, one at a time": (
        LazyCommand("version", "version:command", "Print the version of this commit."),
        LazyCommand("tags", "tags:command", "Print the tags of this commit, and why."),
        LazyCommand("changelog", "version:changelog", "Print what changed since a version."),
        LazyCommand("gate", "gate:command", "Judge reports and images by quality gates."),
        LazyCommand("key", "key:group", "Create and show signing keys."),
        LazyCommand("sign", "sign:command", "Sign images."),
        LazyCommand("attest", "sign:attest_command", "Attach signed statements to images."),
        LazyCommand("verify", "verify:command", "Verify who signed images."),
        LazyCommand(
            "verify-attestation", "verify:attestation", "Verify signed statements about images."
        ),
        LazyCommand("sign-blob", "blobs:sign", "Sign files."),
        LazyCommand("verify-blob", "blobs:verify", "Verify who signed files."),
    ),
    "Serve": (
        LazyCommand("ui", "ui:command", "Show runs and releases in the browser."),
        LazyCommand("report", "report:command", "Write the page of a run to a file."),
        LazyCommand("registry", "registry:group", "Run a registry node."),
        LazyCommand("mirror", "mirror:group", "Show, configure and fill mirrors."),
        LazyCommand("regions", "regions:group", "Compare the registries of regions."),
        LazyCommand("telemetry", "telemetry:group", "Show and deliver traces and logs of runs."),
    ),
    "Help": (
        LazyCommand("doctor", "doctor:command", "Show what is missing here, and how to fix it."),
        LazyCommand("explain", "explain:command", "Explain an error code."),
        LazyCommand("completion", "program:completion", "Print a completion script."),
    ),
}

_OF_BUILDX = (
    *("bake", "build", "create", "du", "history", "imagetools", "inspect", "install", "ls"),
    *("prune", "rm", "stop", "uninstall", "use", "version"),
)
"""The commands of `docker buildx`."""
_VERSION = LazyCommand("version", "", "Print the version of buildx.")
_BUILDER = click.Option(
    ["--builder"], metavar="string", expose_value=False, help="The builder to use."
)
"""`cli.entry` takes it from the command line."""

_COPY = "`shipline copy OLD NEW` copies and tags images in registries"
POINTERS = {
    "push": f"`shipline build --push -t NAME .` pushes while it builds; {_COPY}",
    "pull": "`shipline copy NAME docker-daemon:NAME` loads an image into the engine, and"
    " `shipline copy NAME oci:DIR` writes it to a directory",
    "manifest": _COPY,
    "lint": "`shipline build --check .` runs the Dockerfile checks",
    "serve": "`shipline registry serve` runs a registry node",
    "run": "`shipline build --load -t NAME .` loads the image into the local engine:"
    " `docker run NAME` runs it",
    "help": "`shipline COMMAND --help` explains a command",
    "policy": "`shipline build --policy filename=FILE` judges what a build reads",
    "dap": "`shipline -D build` shows where an error comes from",
    "debug": "`shipline -D build` shows where an error comes from",
    "install": 'write {"aliases": {"builder": "shipline"}} into ~/.docker/config.json, so that'
    " `docker build` calls the plugin docker-shipline",
    "uninstall": "remove `aliases` from ~/.docker/config.json",
    "stop": "builds end with their process; `shipline builder rm` removes a builder",
    **{
        name: f"`shipline builder {name}` does that"
        for name in ("create", "use", "rm", "dial-stdio")
    },
}
"""Commands of other programs, with their replacements."""


@click.group(
    "shipline",
    cls=Program,
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


@click.command("completion")
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a completion script for SHELL.

    Load it with: eval "$(shipline completion bash)"
    """
    from click.shell_completion import get_completion_class

    script = get_completion_class(shell)
    if script is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(script(ctx.find_root().command, {}, "shipline", "_SHIPLINE_COMPLETE").source())


def run(arguments: list[str], *, as_buildx: bool = False) -> int:
    """Run the command line; returns the exit status, which is that of buildx `as_buildx`.

    SIGTERM is handled like Ctrl-C. A parent that ignores SIGCHLD hands that on: the kernel would
    not keep the exit status of a program, and `subprocess` takes a lost one for success.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    settings = ProgramSettings(tuple(arguments), as_buildx=as_buildx)
    open_standard_streams()
    if "_SHIPLINE_COMPLETE" in os.environ:
        complete_files()
    if "TRACEPARENT" in os.environ:
        from shipline.propagation import continue_from

        continue_from(os.environ)
    try:
        name = "docker buildx" if is_buildx() else "shipline"
        status = program.main(arguments, name, standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BaseException as failure:  # every exit has a status
        return report(failure, settings)
    return status if isinstance(status, int) else 0
