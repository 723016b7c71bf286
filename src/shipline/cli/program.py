"""The program: its commands, imported on use, global options and exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click

from shipline import __version__
from shipline.cli.failures import ProgramSettings, open_standard_streams, report


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command by name: `target` is `module:attribute`, `help` its line in the list."""

    name: str
    target: str
    help: str
    aliases: tuple[str, ...] = ()

    def load(self) -> click.Command:
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


class ForeignCommand(click.exceptions.NoSuchCommand):
    """A command of another program; `hint` names the replacement."""

    def __init__(self, name: str, hint: str, ctx: click.Context) -> None:
        super().__init__(name, ctx=ctx)
        self.hint = hint


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
            "bake", "shipline.cli.bake:command", "Build the targets of a bake file.", ("f",)
        ),
        LazyCommand(
            "imagetools", "shipline.cli.imagetools:group", "Inspect images, tag and combine them."
        ),
        LazyCommand("copy", "shipline.cli.copy:command", "Copy images.", ("cp",)),
        LazyCommand(
            "inspect", "shipline.cli.imagetools:inspect_command", "Show an image, or all of it."
        ),
        LazyCommand("tag", "shipline.cli.images:tag", "Give an image further tags."),
        LazyCommand("digest", "shipline.cli.images:digest", "Print the digest of an image."),
        LazyCommand("ls", "shipline.cli.images:ls", "List tags, or repositories.", ("catalog",)),
        LazyCommand("diff", "shipline.cli.images:diff", "Show what two images differ in."),
        LazyCommand("delete", "shipline.cli.images:delete", "Remove tags and images.", ("rmi",)),
        LazyCommand("du", "shipline.cli.builder:du", "Show the size of the build cache."),
        LazyCommand("prune", "shipline.cli.builder:prune_command", "Remove build cache."),
        LazyCommand("builder", "shipline.cli.builder:group", "Choose what builds, and prepare it."),
        LazyCommand("login", "shipline.cli.login:login", "Store credentials for a registry."),
        LazyCommand("logout", "shipline.cli.login:logout", "Remove the credentials of a registry."),
    ),
    "Release": (
        LazyCommand("init", "shipline.cli.init:command", "Write a first shipline.yaml."),
        LazyCommand("config", "shipline.cli.config:group", "Check and show shipline.yaml."),
        LazyCommand("ship", "shipline.cli.ship:command", "Run the pipeline in shipline.yaml."),
        LazyCommand("deploy", "shipline.cli.deploy:command", "Set images in a GitOps repository."),
        LazyCommand("canary", "shipline.cli.canary:command", "Deploy images step by step."),
        LazyCommand("drift", "shipline.cli.drift:command", "Compare environments with git."),
        LazyCommand("check", "shipline.cli.check:command", "Verify what an environment runs."),
        LazyCommand(
            "promote",
            "shipline.cli.promote:promote_command",
            "Take an image from one environment to the next.",
        ),
        LazyCommand(
            "approve",
            "shipline.cli.promote:approve_command",
            "Approve an image for an environment.",
        ),
        LazyCommand(
            "hold", "shipline.cli.promote:hold_command", "Keep an image out of an environment."
        ),
        LazyCommand("release", "shipline.cli.promote:release_command", "End the hold of an image."),
        LazyCommand(
            "rollback",
            "shipline.cli.promote:rollback_command",
            "Go back to the image before, and hold the present one.",
        ),
        LazyCommand(
            "status", "shipline.cli.environments:status", "Show what is deployed where, and why."
        ),
        LazyCommand(
            "env", "shipline.cli.environments:group", "Show the history of an environment."
        ),
        LazyCommand("argocd", "shipline.cli.cluster:argocd", "Write objects for Argo CD."),
        LazyCommand("flux", "shipline.cli.cluster:flux", "Write objects for Flux."),
        LazyCommand("k8s", "shipline.cli.cluster:kubernetes", "Write objects for Kubernetes."),
        LazyCommand(
            "history", "shipline.cli.history:group", "Show earlier runs of build, bake and ship."
        ),
        LazyCommand("why", "shipline.cli.why:command", "Say why a step ran again."),
        LazyCommand("runs", "shipline.cli.runs:group", "Show the runs of `shipline ship`."),
        LazyCommand("ci", "shipline.cli.ci:group", "Write the files of CI systems."),
        LazyCommand(
            "hooks", "shipline.cli.hooks:group", "Run early gates before commits and pushes."
        ),
    ),
    "Parts of a release, one at a time": (
        LazyCommand("version", "shipline.cli.version:command", "Print the version of this commit."),
        LazyCommand("tags", "shipline.cli.tags:command", "Print the tags of this commit, and why."),
        LazyCommand(
            "changelog",
            "shipline.cli.version:changelog",
            "Print what changed since a version.",
        ),
        LazyCommand(
            "gate", "shipline.cli.gate:command", "Judge reports and images by quality gates."
        ),
        LazyCommand("key", "shipline.cli.key:group", "Create and show signing keys."),
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
    "Serve": (
        LazyCommand("ui", "shipline.cli.ui:command", "Show runs and releases in the browser."),
        LazyCommand("report", "shipline.cli.report:command", "Write the page of a run to a file."),
        LazyCommand("registry", "shipline.cli.registry:group", "Run a registry node."),
        LazyCommand("mirror", "shipline.cli.mirror:group", "Show, configure and fill mirrors."),
        LazyCommand("regions", "shipline.cli.regions:group", "Compare the registries of regions."),
        LazyCommand(
            "telemetry", "shipline.cli.telemetry:group", "Show and deliver traces and logs of runs."
        ),
    ),
    "Help": (
        LazyCommand(
            "doctor",
            "shipline.cli.doctor:command",
            "Show what is missing here, and how to mend it.",
        ),
        LazyCommand("explain", "shipline.cli.explain:command", "Explain an error code."),
        LazyCommand("completion", "shipline.cli.program:completion", "Print a completion script."),
    ),
}

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
    "dial-stdio": "builds run in this process, which no other program can connect to",
    "install": 'write {"aliases": {"builder": "shipline"}} into ~/.docker/config.json, so that'
    " `docker build` calls the plugin docker-shipline",
    "uninstall": "remove `aliases` from ~/.docker/config.json",
    "stop": "builds end with their process; `shipline builder rm` removes a builder",
    **{name: f"`shipline builder {name}` does that" for name in ("create", "use", "rm")},
}
"""Commands of other programs, with their replacements."""


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


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit status.

    SIGTERM is handled like Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = ProgramSettings()
    open_standard_streams()
    if "TRACEPARENT" in os.environ:
        from shipline.propagation import continue_from

        continue_from(os.environ)
    try:
        status = program.main(arguments, "shipline", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BaseException as failure:  # every exit has a status
        return report(failure, settings)
    return status if isinstance(status, int) else 0
