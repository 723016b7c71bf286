"""What the commands about a registry node share: a data directory or a running node, and how they
print.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from shipline.cli.environment import host_of, registry_options
from shipline.errors import RegistryError, ShiplineError, UsageError

if TYPE_CHECKING:
    from shipline.server.access import AccountStore, Administration
    from shipline.server.journal import NodeEvent


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


class Accounts(Protocol):
    """Accounts of a node, which runs or not."""

    def do(self, operation: str, **said: Any) -> Any:
        """Do one of `server.access.operations`; returns its result. Raises UsageError for what
        cannot be done, AuthError or RegistryError where a node is not reached or forbids it.
        """

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """`users`, `projects`, `robots` or `tokens`."""

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        """Lines of the audit log, oldest first; 0 for as many as there are."""


class _Here:
    """In a directory, with the rights of whoever may write to it; a node that serves it takes
    notice at once.
    """

    def __init__(self, data: Path, directory: AccountStore, administration: Administration) -> None:
        self._data, self._directory, self._administration = data, directory, administration

    def do(self, operation: str, **said: Any) -> Any:
        from shipline.server.access import perform

        return perform(self._administration, operation, said)

    def listed(self, kind: str) -> list[dict[str, Any]]:
        from shipline.server.access import accounts_json

        found: list[dict[str, Any]] = accounts_json(self._directory)[kind]
        return found

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        from shipline.server.access import read_audit

        return read_audit(self._data, last=last)


class _There:
    """At a running node, with the rights of who is logged in."""

    def __init__(self, node: str) -> None:
        self._node = node

    def do(self, operation: str, **said: Any) -> Any:
        body = json.dumps(said).encode()
        try:
            raw = ask(self._node, "POST", f"/api/accounts/{operation}", body)
        except RegistryError as error:
            raise _as_in_a_directory(error) from None
        return json.loads(raw)["result"]

    def listed(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(ask(self._node, "GET", "/api/accounts"))[kind]
        return found

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        query = f"?last={last}" if last else ""
        return iter(json.loads(ask(self._node, "GET", f"/api/audit{query}")))


def _as_in_a_directory(error: RegistryError) -> ShiplineError:
    """The error of the same operation in a directory, where the node's answer is about names."""
    if error.status not in (400, 404, 409) or not error.diagnostics:
        return error
    _, _, reason = error.message.partition(f"{error.diagnostics[0]}: ")
    return UsageError(f"{error.host}: {reason}") if reason else error


def place_options(command: Command) -> Command:
    """`--data` and `--node`, for `reached`."""
    data = click.option(
        "--data",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        metavar="DIR",
        help="The node's data directory.",
    )
    return data(node_option(command))


@contextmanager
def reached(data: Path | None, node: str | None) -> Iterator[Accounts]:
    """The accounts that were meant. Raises UsageError unless one place is named."""
    if (data is None) is (node is None):
        raise UsageError(
            "no node is named", hint="give --data DIR, or --node HOST for a running one"
        )
    if node is not None:
        yield _There(node)
        return
    assert data is not None
    from shipline.server.access import AccountStore, Administration, Audit

    directory = AccountStore(data)
    try:
        by = Administration(directory, actor=local_actor(), notice=Audit(data).note)
        yield _Here(data, directory, by)
    finally:
        directory.close()


def local_actor() -> str:
    """What the audit log calls the person at this machine."""
    return f"{getpass.getuser()} (local)"


def tell_audit(data: Path) -> Callable[[NodeEvent], object]:
    """Writes events to the audit log of a directory, if it has one: a node without accounts does
    not.
    """
    from shipline.server.access import Audit

    return Audit(data).note if (data / "access").is_dir() else lambda event: None


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else "never"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    for row in every:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
