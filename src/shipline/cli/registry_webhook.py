"""`shipline registry webhook`: whom a running node tells, and what did not arrive."""

from __future__ import annotations

import json
from typing import Any

import click

from shipline.cli.registry_directory import table
from shipline.cli.registry_node import ask, required_node_option


@click.group("webhook")
def webhook() -> None:
    """Receivers of a running node's events."""


@webhook.command("ls")
@required_node_option
@click.option("--json", "as_json", is_flag=True, help="Print what the node says, with events.")
def list_webhooks(node: str, as_json: bool) -> None:
    """List receivers: how many events wait, and how many were given up."""
    raw = ask(node, "GET", "/api/webhooks")
    if as_json:
        click.echo(raw)
        return
    found: list[dict[str, Any]] = json.loads(raw)
    rows = [
        (
            one["name"],
            str(one["waiting"]),
            str(one["given_up"]),
            one["url"],
            one["events"][0]["reason"] if one["events"] else "",
        )
        for one in found
    ]
    table(("NAME", "WAITING", "GIVEN UP", "URL", "REASON"), rows)


@webhook.command("test")
@click.argument("name")
@required_node_option
def ping(name: str, node: str) -> None:
    """Have the node send a ping to receiver NAME, and say how that went."""
    ask(node, "POST", f"/api/webhooks/{name}/test")
    click.echo(f"{name} has taken the ping", err=True)


@webhook.command("redeliver")
@click.argument("name")
@required_node_option
def redeliver(name: str, node: str) -> None:
    """Have the node send once more what receiver NAME did not take."""
    number = json.loads(ask(node, "POST", f"/api/webhooks/{name}/redeliver"))["events"]
    click.echo(f"{number} events wait for {name} again", err=True)
