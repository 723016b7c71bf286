"""`shipline status` and `shipline env`: what is deployed where, since when, by whom and why."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from shipline.cli.commit import CommitQuery, project_options
from shipline.cli.environment import registry_options
from shipline.cli.program import CommandGroup
from shipline.cli.promote import REASON, open_delivery, show_record
from shipline.cli.tables import columns
from shipline.errors import MissingFlag, ShiplineError
from shipline.units import Duration, counted

if TYPE_CHECKING:
    from shipline.deliver.promotion.board import BoardRow
    from shipline.deliver.promotion.performance import Performance
    from shipline.telemetry.metrics import MetricValues

_EVERY_S = 5.0
_HEADS = ("ENVIRONMENT", "VERSION", "SINCE", "STATE", "NEXT", "WAITS FOR")
_MEASURES = ("ENVIRONMENT", "DEPLOYMENTS", "LEAD TIME", "FAILED", "RESTORED AFTER")
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_NAME = click.argument("name", metavar="NAME")


@click.command("status")
@click.option("--watch", is_flag=True, help="Every five seconds, until interrupted.")
@_AS_JSON
@project_options
@registry_options
def status(query: CommitQuery, watch: bool, as_json: bool) -> None:
    """Show the environments: what each has, what comes next, and what that waits for.

    It is read from the GitOps repositories; the registry is not asked.
    """
    from shipline.deliver.promotion import read_states
    from shipline.deliver.promotion.board import board_rows
    from shipline.tasks import sleep

    with open_delivery(query) as delivery:
        while True:
            rows = board_rows(delivery, read_states(delivery))
            if as_json:
                click.echo(json.dumps([row.to_json() for row in rows], indent=None if watch else 2))
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                click.echo(_table(rows, delivery.clock()), nl=False)
            if not watch:
                return
            sys.stdout.flush()
            sleep(_EVERY_S)


@click.group("env", cls=CommandGroup)
def group() -> None:
    """Show the history of an environment, and stop or resume promotions to it."""


@group.command("history")
@_NAME
@click.option("-n", "--last", "count", type=int, default=20, show_default=True, help="How many.")
@_AS_JSON
@project_options
@registry_options
def history_command(query: CommitQuery, name: str, count: int, as_json: bool) -> None:
    """List what happened in an environment, newest first, with changes of images by hand."""
    from shipline.deliver.promotion import read_history
    from shipline.deliver.promotion.board import deployment_json, history_rows

    with open_delivery(query) as delivery:
        commits = read_history(delivery, name, count)
    if as_json:
        click.echo(json.dumps([deployment_json(one) for one in commits], indent=2))
    elif commits:
        click.echo(columns(history_rows(commits), 2), nl=False)
    else:
        click.echo(f"nothing was deployed to {name}", err=True)


@group.command("metrics")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--last",
    "span",
    type=Duration.parse,
    default="30d",
    show_default=True,
    metavar="DURATION",
    help="The time to look at.",
)
@_AS_JSON
@click.option("--prometheus", is_flag=True, help="All of the history, in Prometheus' text format.")
@click.option(
    "--send",
    "sends",
    is_flag=True,
    help="Send that to SHIPLINE_PUSHGATEWAY, SHIPLINE_METRICS_FILE and OTLP.",
)
@project_options
@registry_options
def metrics_command(
    query: CommitQuery,
    names: tuple[str, ...],
    span: Duration,
    as_json: bool,
    prometheus: bool,
    sends: bool,
) -> None:
    """Measure the delivery to environments, by default to all: DORA's four.

    How often is deployed, how long commits take to get there, how many changes fail, and how long
    that lasts; all of it is read from the GitOps repositories.
    """
    from shipline.deliver.promotion import read_states
    from shipline.deliver.promotion.performance import changes, delivery_metrics, measure

    with open_delivery(query) as delivery:
        states = read_states(delivery, names)
        found = {name: changes(state, delivery.git) for name, state in states.items()}
        app, now = delivery.app, delivery.clock()
    if prometheus or sends:
        _export(delivery_metrics(app, states, found), sends=sends)
        return
    shown = [measure(name, found[name], now - span.seconds, now) for name in states]
    if as_json:
        click.echo(json.dumps([one.to_json() for one in shown], indent=2))
        return
    click.echo(columns([_MEASURES, *map(_measures, shown)], 3), nl=False)
    if unknown := sum(one.unknown for one in shown):
        click.echo(
            f"warning: of {counted(unknown, 'change')} this clone does not have the commits;"
            " `git fetch --unshallow` brings them",
            err=True,
        )


def _export(values: MetricValues, *, sends: bool) -> None:
    """Print the metrics, or send them."""
    from shipline.home import state_directory
    from shipline.telemetry.prometheus import render, samples_of
    from shipline.telemetry.sending import FILE, GATEWAY, send

    if not sends:
        click.echo(render(samples_of(values)).decode(), nl=False)
        return
    failures: list[tuple[str, str]] = []
    places = send(
        values, os.environ, directory=state_directory(), warn=lambda *why: failures.append(why)
    )
    if not places:
        raise MissingFlag("--send: nothing says where to", hint=f"set {GATEWAY} or {FILE}")
    for message, hint in failures:
        raise ShiplineError(message, code="telemetry", hint=hint)


def _measures(one: Performance) -> tuple[str, ...]:
    from shipline.deliver.promotion.performance import p50, p95
    from shipline.deliver.promotion.policy import shown_span

    def times(values: Sequence[float]) -> str:
        if not values:
            return "-"
        return f"{shown_span(_rounded(p50(values)))}, p95 {shown_span(_rounded(p95(values)))}"

    ratio = one.failure_ratio
    broken = f", {one.broken} not yet" if one.broken else ""
    return (
        one.environment,
        f"{one.changes}, {one.per_day:.2g} a day" if one.changes else "none",
        times(one.lead_times_s),
        "-" if ratio is None else f"{one.failed}, {ratio:.0%}",
        times(one.restore_times_s) + broken,
    )


def _rounded(seconds: float) -> float:
    """To minutes from an hour on, to hours from two days on."""
    unit = 3600 if seconds >= 172_800 else 60 if seconds >= 3600 else 1
    return round(seconds / unit) * unit


@group.command("why")
@_NAME
@_AS_JSON
@project_options
@registry_options
def why_command(query: CommitQuery, name: str, as_json: bool) -> None:
    """Say why an environment has its image, and what the next one waits for, also by gates and
    signatures.
    """
    from shipline.deliver.promotion import read_states
    from shipline.deliver.promotion.board import row, why

    with open_delivery(query) as delivery:
        after = delivery.environment(name).after
        states = read_states(delivery, filter(None, (name, after)))
        shown = row(delivery, states, name, judged=True)
    click.echo(json.dumps(shown.to_json(), indent=2) if as_json else why(shown))


@group.command("blame")
@_NAME
@_AS_JSON
@project_options
@registry_options
def blame_command(query: CommitQuery, name: str, as_json: bool) -> None:
    """Show for each image of an environment the commit that brought it there, who made it, who
    approved it, and whose source it is.
    """
    from shipline.deliver.promotion import read_states
    from shipline.deliver.promotion.board import blame, committed_at, deployment_json

    with open_delivery(query) as delivery:
        state = read_states(delivery, [name])[name]
    found = blame(state)
    if state.edited:
        click.echo(f"warning: {name} was changed by hand: {state.edited}", err=True)
    if as_json:
        values = [{"image": image, **deployment_json(one)} for image, one in found]
        click.echo(json.dumps(values, indent=2))
        return
    for image, one in found:
        approved = f", approved by {', '.join(one.approved_by)}" if one.approved_by else ""
        source = f", source {one.commit[:12]}" if one.commit else ""
        author = f" by {one.author}" if one.author else ""
        click.echo(
            f"{image}\n  {one.id[:12]} {committed_at(one)} {one.by}{approved}{source}{author}"
        )


@group.command("stop")
@_NAME
@REASON
@project_options
@registry_options
def stop_command(query: CommitQuery, name: str, reason: str) -> None:
    """Stop all promotions to an environment. Rollbacks stay possible. Prints the commit."""
    from shipline.deliver.promotion import set_stopped

    with open_delivery(query) as delivery:
        made = set_stopped(delivery, name, True, reason=reason)
    show_record(made, f"promotions to {name} are stopped already")


@group.command("resume")
@_NAME
@REASON
@project_options
@registry_options
def resume_command(query: CommitQuery, name: str, reason: str) -> None:
    """Allow promotions to an environment again. Prints the commit."""
    from shipline.deliver.promotion import set_stopped

    with open_delivery(query) as delivery:
        made = set_stopped(delivery, name, False, reason=reason)
    show_record(made, f"promotions to {name} are not stopped")


def _table(rows: list[BoardRow], now: float) -> str:
    return columns([_HEADS, *(_cells(row, now) for row in rows)], 3)


def _cells(row: BoardRow, now: float) -> tuple[str, ...]:
    from shipline.deliver.promotion.policy import shown_span

    current = row.state.current
    since = shown_span(max(1.0, now - current.time)) if current else ""
    going = row.canary
    notes = [
        *([f"canary {going.version} {going.weight} %"] if going else []),
        *(["stopped"] if row.state.stopped else []),
        *(
            [f"held: {', '.join(one.version for one in row.state.holds)}"]
            if row.state.holds
            else []
        ),
    ]
    state = ", ".join(filter(None, (row.verification, *notes)))
    waits = "; ".join(f"{one.rule}: {one.reason}" for one in row.blockers)
    if row.possible and any(one.until for one in row.blockers):
        waits += f" (in {shown_span(max(1.0, row.possible.timestamp() - now))})"
    return (
        row.state.name,
        current.version if current else "-",
        since or "-",
        state or "-",
        row.candidate.version if row.candidate else "-",
        waits or ("nothing" if row.candidate else "-"),
    )
