"""The target of registry commands, a data directory or a running node, and their output."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import click

from shipline.cli.environment import host_of, registry_options
from shipline.errors import FlagConflict, MissingFlag, RegistryError, UsageError

if TYPE_CHECKING:
    from shipline.server.access import AccountStore, Administration
    from shipline.server.events import Publish


_POLL_S = (0.05, 2.0)  # polling interval, initial and maximum
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
Command = TypeVar("Command", bound=Callable[..., Any])


def _host(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else host_of(value)


def node_option(command: Command) -> Command:
    """--node, and how to reach it."""
    return click.option(
        "--node",
        metavar="HOST[:PORT]",
        callback=_host,
        help="A running node instead of a directory; log in there as an administrator.",
    )(registry_options(command))


def required_node_option(command: Command) -> Command:
    """--node, and how to reach it."""
    return click.option(
        "--node",
        metavar="HOST[:PORT]",
        callback=_host,
        required=True,
        help="A running node; log in there as an administrator.",
    )(registry_options(command))


def ask(node: str, method: str, path: str, body: bytes = b"") -> str:
    """A request to a node's API, without retries; returns the body.

    Raises UsageError if the node says that it is impossible (400, 404, 409), AuthError,
    RegistryError.
    """
    from shipline.registry import Client

    with Client.of(os.environ, tries=1) as client, _usage_errors():
        return client.ask(node, method, path, body).decode()


def run_job(node: str, path: str, options: dict[str, Any]) -> Any:
    """Run a job of the node's API and wait for its result, a JSON value.

    Interrupting it leaves the job running. Raises as `ask`, and RegistryError if the job fails.
    """
    from shipline.registry import Client
    from shipline.tasks import sleep

    with Client.of(os.environ) as client, _usage_errors():
        raw = client.ask(node, "POST", path, json.dumps(options).encode())
        pause, longest = _POLL_S
        while (state := json.loads(raw))["running"]:
            sleep(pause)
            pause = min(pause * 2, longest)
            raw = client.ask(node, "GET", path)
    if state["error"]:
        raise RegistryError(
            f"the job failed on {node}: {state['error']}", code="registry-job-failed", host=node
        )
    return state["result"]


class Accounts(Protocol):
    """The accounts of a node, running or not."""

    def do(self, operation: str, **arguments: Any) -> Any:
        """Perform an operation of `server.access.operations`; returns its result. Raises UsageError
        if it is impossible, AuthError or RegistryError if the node is unreachable or refuses.
        """

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """`users`, `projects`, `robots` or `tokens`."""

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        """Events in the audit log, oldest first; `last` 0 for all."""


class _LocalAccounts:
    """Accounts in a data directory; a node that serves it notices changes at once."""

    def __init__(self, data: Path, store: AccountStore, administration: Administration) -> None:
        self._data, self._store, self._administration = data, store, administration

    def do(self, operation: str, **arguments: Any) -> Any:
        from shipline.server.access import perform

        return perform(self._administration, operation, arguments)

    def listed(self, kind: str) -> list[dict[str, Any]]:
        from shipline.server.access import accounts_json

        entries: list[dict[str, Any]] = accounts_json(self._store)[kind]
        return entries

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        from shipline.server.access import read_audit

        return read_audit(self._data, last=last)


class _RemoteAccounts:
    """Accounts of a running node, with the rights of the logged-in user."""

    def __init__(self, node: str) -> None:
        self._node = node

    def do(self, operation: str, **arguments: Any) -> Any:
        body = json.dumps(arguments).encode()
        return json.loads(ask(self._node, "POST", f"/api/accounts/{operation}", body))["result"]

    def listed(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = json.loads(ask(self._node, "GET", "/api/accounts"))[kind]
        return entries

    def audit(self, last: int) -> Iterator[Mapping[str, Any]]:
        query = f"?last={last}" if last else ""
        return iter(json.loads(ask(self._node, "GET", f"/api/audit{query}")))


@contextmanager
def _usage_errors() -> Iterator[None]:
    """Raises the UsageError that the same operation raises on a directory."""
    try:
        yield
    except RegistryError as error:
        if error.status not in (400, 404, 409) or not error.diagnostics:
            raise
        _, _, reason = error.message.partition(f"{error.diagnostics[0]}: ")
        if not reason:
            raise
        raise UsageError(f"{error.host}: {reason}", code="node-unusable") from None


def directory_option(
    help: str, *, required: bool = False, kind: click.ParamType[Any] = _DIRECTORY
) -> Callable[[Command], Command]:
    """`--data DIR`, or DIR alone; the command gets it as `data`. Raises UsageError for both, and
    for none if it is required.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def called(directory: Any, data: Any, **options: Any) -> None:
            if directory and data:
                raise FlagConflict(
                    f"two data directories: {directory} and --data {data}",
                    hint="leave out one of them",
                )
            if required and not (directory or data):
                raise MissingFlag("no data directory given", hint="pass --data DIR")
            command(data=directory or data, **options)

        option = click.option("--data", type=kind, metavar="DIR", help=help)
        argument = click.argument("directory", type=kind, metavar="[DIR]", required=False)
        return cast(Command, argument(option(called)))

    return decorate


def target_options(command: Command) -> Command:
    """`--data` and `--node`, for `open_accounts`."""
    data = click.option("--data", type=_DIRECTORY, metavar="DIR", help="The node's data directory.")
    return data(node_option(command))


@contextmanager
def open_accounts(data: Path | None, node: str | None) -> Iterator[Accounts]:
    """The accounts of the target. Raises UsageError unless exactly one is given."""
    check_target(data, node)
    if node is not None:
        yield _RemoteAccounts(node)
        return
    assert data is not None
    if not data.is_dir():
        raise UsageError(
            f"there is no directory {data}",
            code="registry-data-directory",
            hint=f"the first `shipline registry serve --data {data}` makes it",
        )
    from shipline.server.access import AccountStore, Administration, Audit

    store = AccountStore(data)
    try:
        administration = Administration(store, actor=local_actor(), publish=Audit(data).on_event)
        yield _LocalAccounts(data, store, administration)
    finally:
        store.close()


def with_accounts(command: Command) -> Command:
    """`--data` and `--node`; the command gets the accounts of that target, in place of both."""

    @wraps(command)
    def called(data: Path | None, node: str | None, **options: Any) -> None:
        with open_accounts(data, node) as accounts:
            command(accounts, **options)

    return cast(Command, target_options(called))


def check_target(data: Path | None, node: str | None) -> None:
    """Raises UsageError unless exactly one is given."""
    if (data is None) is (node is None):
        raise MissingFlag(
            "no target given" if node is None else "--data and --node cannot be combined",
            hint="pass --data DIR for a directory, or --node HOST for a running node",
        )


def local_actor() -> str:
    """The actor for the audit log."""
    return f"{getpass.getuser()} (local)"


def audit_publisher(data: Path) -> Publish:
    """Publishes to the audit log of a directory, if it has one: a node without accounts does
    not.
    """
    from shipline.server.access import Audit

    return Audit(data).on_event if (data / "access").is_dir() else lambda event: None


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at else "never"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    every = [head, *rows]
    widths = [max(len(row[column]) for row in every) for column in range(len(head))]
    for row in every:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
