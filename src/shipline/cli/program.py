"""The program: its commands, options and end."""

from __future__ import annotations

import gc
import signal
import sys

import click

from shipline import __version__
from shipline.cli.failures import Settings, report
from shipline.cli.lazy import Entry, LazyGroup

COMMANDS = (
    Entry("build", "shipline.cli.build:command", "Build an image from a Dockerfile.", ("b",)),
    Entry("tags", "shipline.cli.tags:command", "Print the tags of this commit's image, and why."),
    Entry("imagetools", "shipline.cli.imagetools:group", "Look at images and combine them."),
    Entry("ci", "shipline.cli.ci:group", "Write the files of CI systems."),
    Entry("init", "shipline.cli.init:command", "Write a first shipline.yaml."),
    Entry("ship", "shipline.cli.ship:command", "Run the whole chain that shipline.yaml declares."),
    Entry("runs", "shipline.cli.runs:group", "Look at what `shipline ship` did."),
    Entry("config", "shipline.cli.config:group", "Check and show shipline.yaml."),
    Entry("registry", "shipline.cli.registry:group", "Run a registry node."),
    Entry("login", "shipline.cli.login:login", "Keep credentials for a registry."),
    Entry("logout", "shipline.cli.login:logout", "Forget the credentials of a registry."),
    Entry("key", "shipline.cli.key:group", "Make and look at keys for signatures."),
    Entry("gate", "shipline.cli.gate:command", "Judge reports and images by quality gates."),
    Entry("hooks", "shipline.cli.hooks:group", "Run early gates before commits and pushes."),
    Entry("sign", "shipline.cli.sign:command", "Sign images."),
    Entry("attest", "shipline.cli.attest:command", "Attach signed statements to images."),
    Entry("verify", "shipline.cli.verify:command", "Verify who signed images."),
    Entry(
        "verify-attestation",
        "shipline.cli.verify:attestation",
        "Verify signed statements about images.",
    ),
    Entry("completion", "shipline.cli.completion:command", "Print a completion script."),
    Entry("changelog", "shipline.cli.changelog:command", "Print what changed since a version."),
    Entry("version", "shipline.cli.version:command", "Print the version of this commit."),
)


@click.group(
    "shipline",
    cls=LazyGroup,
    entries=COMMANDS,
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
