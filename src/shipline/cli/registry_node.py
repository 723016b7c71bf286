"""Work that a running node does for its operator: begun, then asked about until it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from shipline.cli.environment import host_of, registry_options
from shipline.errors import RegistryError

_LOOK_S = (0.05, 2.0)  # between two looks, at first and at most
Command = TypeVar("Command", bound=Callable[..., Any])


def _host(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else host_of(value)


def node_option(command: Command) -> Command:
    """--node, and how to reach it."""
    return click.option(
        "--node",
        metavar="HOST[:PORT]",
        callback=_host,
        help="A running node, instead of a directory; log in as an administrator.",
    )(registry_options(command))


def required_node_option(command: Command) -> Command:
    """--node, and how to reach it."""
    return click.option(
        "--node",
        metavar="HOST[:PORT]",
        callback=_host,
        required=True,
        help="The running node; log in there as an administrator.",
    )(registry_options(command))


def ask(node: str, method: str, path: str, body: bytes = b"") -> str:
    """What a node answers its operator. Raises AuthError, RegistryError; asks once."""
    from shipline.registry import Client, keychain_from, settings_from

    with Client(settings_from(os.environ), keychain_from(os.environ), tries=1) as client:
        return client.ask(node, method, path, body).decode()


def done_by(node: str, path: str, wish: dict[str, Any]) -> Any:
    """The result of the work below `path` of the node's API, as JSON has it.

    Interrupting it leaves the node at work. Raises RegistryError where the work fails.
    """
    from shipline.registry import Client, keychain_from, settings_from
    from shipline.tasks import sleep

    with Client(settings_from(os.environ), keychain_from(os.environ)) as client:
        raw = client.ask(node, "POST", path, json.dumps(wish).encode())
        pause, longest = _LOOK_S
        while (state := json.loads(raw))["running"]:
            sleep(pause)
            pause = min(pause * 2, longest)
            raw = client.ask(node, "GET", path)
    if state["error"]:
        raise RegistryError(f"{node} has begun, and failed: {state['error']}", host=node)
    return state["result"]
