"""`shipline telemetry`: what is delivered where, and what waits for its receiver."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from shipline.cli.program import CommandGroup
from shipline.units import counted, shown_size

if TYPE_CHECKING:
    from shipline.telemetry.spool import SpooledRun


@click.group("telemetry", cls=CommandGroup)
def group() -> None:
    """Show and deliver traces and logs of runs (docs/telemetry.md)."""


@group.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status_command(as_json: bool) -> None:
    """Show what is sent, and the runs of which something was not delivered yet."""
    from shipline.home import state_directory
    from shipline.telemetry.spool import spooled_runs
    from shipline.telemetry.variables import wanted

    targets = wanted(os.environ)
    waiting = list(_waiting(spooled_runs(state_directory() / "telemetry")))
    if as_json:
        click.echo(json.dumps({"sent": targets, "waiting": waiting}, indent=2))
        return
    click.echo(
        f"sent: {', '.join(targets) or 'nothing: neither OTEL_* nor SHIPLINE_LOKI asks for it'}"
    )
    for one in waiting:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["started"]))
        left = "runs" if one["running"] else f"waiting: {', '.join(one['waiting'])}"
        click.echo(f"{at}  {one['kind']} {one['pipeline']}  {shown_size(one['bytes'])}  {left}")


def _waiting(runs: Iterable[SpooledRun]) -> Iterator[dict[str, Any]]:
    for spooled in runs:
        try:
            run = spooled.run
            yield {
                "run": run.run,
                "kind": run.kind,
                "pipeline": run.pipeline,
                "trace": run.trace.trace_id if run.trace else "",
                "started": spooled.started,
                "bytes": spooled.size,
                "running": spooled.is_live,
                "waiting": spooled.targets(),
            }
        except (OSError, ValueError):
            continue  # it was delivered just now, or is of another version


@group.command("replay")
def replay_command() -> None:
    """Deliver what is waiting, with the receivers that the environment names now."""
    from shipline.errors import MissingFlag
    from shipline.home import state_directory
    from shipline.telemetry.delivery import replay
    from shipline.telemetry.variables import wanted

    if not wanted(os.environ):
        raise MissingFlag(
            "the environment names no receiver of traces and logs",
            hint="set OTEL_EXPORTER_OTLP_ENDPOINT or SHIPLINE_LOKI",
        )
    runs, records = set(), 0
    for spooled, _, sent in replay(state_directory() / "telemetry", os.environ):
        runs.add(spooled.directory)
        records += sent
    click.echo(f"delivered {counted(records, 'record')} of {counted(len(runs), 'run')}", err=True)
