"""The program: its commands, options and end."""

from __future__ import annotations

import gc
import signal
import sys

import click

from shipline import __version__
from shipline.cli.failures import Settings, report
from shipline.cli.lazy import Entry, LazyGroup

COMMANDS = {
    "Build": (
        Entry("build", "shipline.cli.build:command", "Build an image from a Dockerfile.", ("b",)),
        Entry("imagetools", "shipline.cli.imagetools:group", "Look at images and combine them."),
        Entry("builder", "shipline.cli.builder:group", "Prepare this machine for builds."),
        Entry("login", "shipline.cli.login:login", "Keep credentials for a registry."),
        Entry("logout", "shipline.cli.login:logout", "Forget the credentials of a registry."),
    ),
    "Release": (
        Entry("init", "shipline.cli.init:command", "Write a first shipline.yaml."),
        Entry("config", "shipline.cli.config:group", "Check and show shipline.yaml."),
        Entry("ship", "shipline.cli.ship:command", "Run the chain that shipline.yaml declares."),
        Entry("runs", "shipline.cli.runs:group", "Look at what `shipline ship` did."),
        Entry("ci", "shipline.cli.ci:group", "Write the files of CI systems."),
        Entry("hooks", "shipline.cli.hooks:group", "Run early gates before commits and pushes."),
    ),
    "Parts of a release, one at a time": (
        Entry("version", "shipline.cli.version:command", "Print the version of this commit."),
        Entry("tags", "shipline.cli.tags:command", "Print the tags of this commit, and why."),
        Entry("changelog", "shipline.cli.changelog:command", "Print what changed since a version."),
        Entry("gate", "shipline.cli.gate:command", "Judge reports and images by quality gates."),
        Entry("key", "shipline.cli.key:group", "Make and look at keys for signatures."),
        Entry("sign", "shipline.cli.sign:command", "Sign images."),
        Entry("attest", "shipline.cli.attest:command", "Attach signed statements to images."),
        Entry("verify", "shipline.cli.verify:command", "Verify who signed images."),
        Entry(
            "verify-attestation",
            "shipline.cli.verify:attestation",
            "Verify signed statements about images.",
        ),
    ),
    "Serve": (Entry("registry", "shipline.cli.registry:group", "Run a registry node."),),
    "Shell": (
        Entry("completion", "shipline.cli.completion:command", "Print a completion script."),
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
    "prune": "the cache is the directory SHIPLINE_HOME: delete it when no build runs",
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
def program(settings: Settings, debug: bool) -> None:
    """From a git commit to a signed, multi-architecture container image in every region."""
    settings.debug = debug


def run(arguments: list[str]) -> int:
    """Run the command line; the exit status.

    Takes SIGTERM over, which then does what Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.set_threshold(100_000, 20, 20)  # a build makes many small values, and they live long
    settings = Settings()
    try:
        status = program.main(arguments, "shipline", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except BaseException as failure:  # whatever ended the program, there is a status for it
        return report(failure, settings)
    return status if isinstance(status, int) else 0
