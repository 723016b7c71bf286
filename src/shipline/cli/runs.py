"""`shipline runs`: the records of `shipline ship`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shipline.cli.program import CommandGroup
from shipline.errors import MissingFlag, UsageError

if TYPE_CHECKING:
    from shipline.ship.record import RunRecord
    from shipline.ship.runs import Runs


@click.group("runs", cls=CommandGroup, invoke_without_command=True)
@click.pass_context
def group(context: click.Context) -> None:
    """Show the runs of `shipline ship`. RUN is an id, its beginning or end, or `latest`: the newest
    run of the project in this directory.
    """
    if context.invoked_subcommand is None:
        context.invoke(listing)


@group.command("ls")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("-n", "--last", "count", type=int, default=20, show_default=True, help="How many.")
def listing(as_json: bool = False, count: int = 20) -> None:
    """List runs, the newest first."""
    latest = list(islice(_runs().all(), count))
    if as_json:
        click.echo(json.dumps([run.to_json() for run in latest], indent=2))
        return
    if not latest:
        click.echo("no runs yet: `shipline ship` starts one", err=True)
    for run in latest:
        click.echo(_line(run))


@group.command("show")
@click.argument("run", default="latest")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(run: str, as_json: bool) -> None:
    """Show one run with its steps."""
    from shipline.ship.render import run_text

    runs = _runs()
    record = runs.read(runs.resolve(run, _project()))
    click.echo(json.dumps(record.to_json(), indent=2) if as_json else run_text(record))


@group.command("logs")
@click.argument("run", default="latest")
@click.argument("steps", nargs=-1, metavar="[STEP]...")
def logs(run: str, steps: Sequence[str]) -> None:
    """Print the logs of STEPs, by default of all."""
    runs = _runs()
    record = runs.read(runs.resolve(run, _project()))
    names = [step.name for step in record.steps]
    for step in steps:
        if step not in names:
            raise UsageError(
                f"{record.id} has no step {step!r}",
                code="step-unknown",
                hint=f"its steps: {', '.join(names)}",
            )
    sys.stdout.flush()
    for step in steps or names:
        path = runs.log(record.id, step)
        if path.is_file():
            click.echo(f"==> {step}", err=True)
            with path.open("rb") as file:
                while data := file.read(1 << 16):
                    sys.stdout.buffer.write(data)


@group.command("rm")
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option("--all", "everything", is_flag=True, help="Delete all runs that have ended.")
def remove(runs: Sequence[str], everything: bool) -> None:
    """Delete runs."""
    if not runs and not everything:
        raise MissingFlag("no RUN is given", hint="name runs, or pass --all")
    kept = _runs()
    chosen = kept.ids() if everything else [kept.resolve(name, _project()) for name in runs]
    for run in chosen:
        if everything and kept.alive(run):
            continue
        kept.remove(run)
        click.echo(run)


def _runs() -> Runs:
    from shipline.home import state_directory
    from shipline.ship.runs import Runs

    return Runs(state_directory())


def _project() -> str:
    """The directory of this project's configuration; otherwise the current one."""
    from shipline.config import find

    config_file = find(Path.cwd())
    return str(Path.cwd() if config_file is None else config_file.parent)


def _line(run: RunRecord) -> str:
    from shipline.ship.steps.publish import names_of

    started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M")
    took = f"{run.finished - run.started:.1f}s" if run.finished else ""
    what = " ".join(names_of(run)) or _unnamed(run)
    state, commit = run.state.value, run.commit[:12]
    return f"{run.id}  {state:<11}  {started}  {took:>6}  {commit}  {what}".rstrip()


def _unnamed(run: RunRecord) -> str:
    """The error of a run without tags, else its digest."""
    from shipline.ship.steps.build import digest_of

    outcome = run.error.partition("\n")[0] or digest_of(run)
    image = run.shown_image
    return f"{image}: {outcome}" if image and outcome else outcome or image
