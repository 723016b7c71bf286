"""A step of the repository's action: inputs in, a build, outputs for later steps."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from shipline.cli.build import command
from shipline.cli.failures import ProgramSettings
from shipline.deliver.ci import Invocation, invocation
from shipline.errors import StepFailed


def run_action(settings: ProgramSettings, environ: Mapping[str, str]) -> None:
    """Build what the inputs ask for; write imageid, digest and metadata where the runner says.

    Secrets lie in files that only this user reads, until the build has ended.
    """
    with tempfile.TemporaryDirectory(prefix="shipline-", dir=environ.get("RUNNER_TEMP")) as place:
        scratch = Path(place)
        wanted = invocation(environ, scratch, lambda value: _keep(scratch, value))
        _announce(wanted, on_runner=environ.get("GITHUB_ACTIONS") == "true")
        status = command.main(
            list(wanted.arguments), "shipline build", standalone_mode=False, obj=settings
        )
        if status:
            raise StepFailed("the build did not succeed", status=status)
        if output := environ.get("GITHUB_OUTPUT"):
            _write_outputs(Path(output), wanted)


def _keep(scratch: Path, value: str) -> Path:
    handle, name = tempfile.mkstemp(prefix="secret-", dir=scratch)  # mode 0600
    with os.fdopen(handle, "w") as file:
        file.write(value)
    return Path(name)


def _announce(wanted: Invocation, *, on_runner: bool) -> None:
    """Keep secrets out of the log, which only the runner can do; say what was left out."""
    if on_runner:
        for value in wanted.masked:
            for line in filter(None, value.splitlines()):
                click.echo(f"::add-mask::{line}")
    for warning in wanted.warnings:
        click.echo(f"::warning::{warning}" if on_runner else f"warning: {warning}", err=True)


def _write_outputs(output: Path, wanted: Invocation) -> None:
    outputs = {}
    if wanted.iidfile is not None and wanted.iidfile.exists():
        outputs["imageid"] = wanted.iidfile.read_text().strip()
    if wanted.metadata_file.exists():
        text = wanted.metadata_file.read_text()
        outputs["digest"] = json.loads(text).get("containerimage.digest", "")
        outputs["metadata"] = text.strip()
    with output.open("a") as file:
        for name, value in outputs.items():
            mark = f"end_{secrets.token_hex(8)}"  # a value cannot end its own block
            file.write(f"{name}<<{mark}\n{value}\n{mark}\n")
