"""How far the regions of a node are: what `shipline regions` shows."""

from __future__ import annotations

import json
from typing import Any

import click

from shipline.cli.registry_node import ask, when
from shipline.units import shown_size

_EVERY_S = 2.0


def show_states(node: str, *, as_json: bool, watch: bool) -> None:
    """Print the followers of a node, and the replications that it makes itself; with `watch` again
    and again, until interrupted.
    """
    from shipline.tasks import sleep

    while True:
        document = json.loads(ask(node, "GET", "/_shipline/regions"))
        if as_json:
            click.echo(json.dumps(document["regions"], indent=None if watch else 2))
        else:
            if watch:
                click.clear()
            click.echo(_table(document), nl=False)
        if not watch:
            return
        sleep(_EVERY_S)


def _table(document: dict[str, Any]) -> str:
    from shipline.cli.tables import columns

    heads = (
        "REGION",
        "MODE",
        "REMOTE",
        "LAG",
        "ENTRIES",
        "IN FLIGHT",
        "ERRORS",
        "VERIFIED",
        "SEEN",
    )
    now = float(document["now"])
    rows = [_row(one, now) for one in document["regions"]]
    return (
        columns([heads, *rows], 3) if rows else "no edge follows this node, and it copies nothing\n"
    )


def _row(region: dict[str, Any], now: float) -> tuple[str, ...]:
    error = f" ({region['error']})" if region["error"] else ""
    return (
        region["name"],
        region["mode"],
        region["remote"],
        f"{region['seconds']:.0f}s",
        "unknown" if region["entries"] is None else str(region["entries"]),
        shown_size(region["bytes"]),
        f"{region['errors']}{error}",
        when(region["verified"]),
        f"{max(now - region['seen'], 0):.0f}s ago" if region["seen"] else "never",
    )
