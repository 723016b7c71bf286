"""Where a replication learns what changed: the journal of this node, or that of another one."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

from msgspec import Struct

from shipline.errors import AuthError, RegistryError
from shipline.registry import Client
from shipline.server import Storage
from shipline.server.journal import JournalEntry, snapshot
from shipline.tasks import check, on_cancel
from shipline.values import replace

_CURSOR = re.compile("([0-9]{1,20}-[!-~]{1,100})?")


class Page(Struct, frozen=True):
    """Entries after a cursor, and the cursor to go on from. `last` is the newest number there is;
    `skew_s` how far the other node's clock is ahead of this one's. If `cut`, the journal does not
    reach back to the cursor: compare everything.
    """

    entries: tuple[JournalEntry, ...]
    cursor: str
    last: int = 0
    skew_s: float = 0.0
    cut: bool = False


class JournalSource(Protocol):
    """Raises RegistryError or AuthError where the other node does not answer."""

    def after(self, cursor: str, wait_s: float, report: Mapping[str, str]) -> Page:
        """The entries after `cursor`; waits for the first. `report` says how this node is."""

    def snapshot(self) -> Iterator[JournalEntry]:
        """What the repositories hold."""


class LocalJournal:
    """The journal of this node."""

    def __init__(self, storage: Storage) -> None:
        self._records = storage.records
        self._journal = storage.journal

    def after(self, cursor: str, wait_s: float, report: Mapping[str, str]) -> Page:
        journal, deadline = self._journal, time.monotonic() + wait_s
        while True:
            page = journal.after(cursor)
            if page is None:
                return Page((), journal.head(), cut=True)
            left = deadline - time.monotonic()
            if page.entries or left <= 0:
                return Page(page.entries, page.cursor, page.last)
            woken = threading.Event()
            with on_cancel(woken.set):
                if journal.progress.wake_beyond(page.last, woken.set):
                    woken.wait(left)
            check()

    def snapshot(self) -> Iterator[JournalEntry]:
        return (entry for _, entry in snapshot(self._records))


class RemoteJournal:
    """The journal of the node `host`; names are those below `prefix`, without it."""

    def __init__(self, client: Client, host: str, prefix: str, node: str) -> None:
        """`node` is the name of this one there."""
        self._client = client
        self._host = host
        self._prefix = prefix
        self._node = node

    def after(self, cursor: str, wait_s: float, report: Mapping[str, str]) -> Page:
        query = {"since": cursor, "wait": f"{wait_s:.0f}s" if wait_s else "0", "node": self._node}
        document = self._ask(f"/_shipline/journal?{urlencode({**query, **report})}")
        with self._reading():
            return Page(
                tuple(self._named(map(JournalEntry.from_json, document["entries"]))),
                _cursor(document["cursor"]),
                int(document.get("last", 0)),
                _time(document["now"]) - time.time(),
                bool(document["cut"]),
            )

    def snapshot(self) -> Iterator[JournalEntry]:
        after = ""
        while True:
            document = self._ask(f"/_shipline/snapshot?after={after}")
            with self._reading():
                yield from self._named(map(JournalEntry.from_json, document["entries"]))
                following = str(document["next"])
            if not following or following == after:
                return
            after = following

    def _named(self, entries: Iterator[JournalEntry]) -> Iterator[JournalEntry]:
        for entry in entries:
            _time(entry.at)
            if entry.repository.startswith(self._prefix):
                yield replace(entry, repository=entry.repository.removeprefix(self._prefix))

    def _ask(self, path: str) -> dict[str, Any]:
        with self._reading():
            document = json.loads(self._client.ask(self._host, "GET", path))
            if not isinstance(document, dict):
                raise TypeError("not an object")
        return document

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except RegistryError as error:
            if error.status != 404:
                raise
            raise RegistryError(
                f"{self._host} keeps no journal: it has no role, or is not a shipline node",
                code="node-unusable",
                host=self._host,
                hint="serve it with --role primary",
            ) from None
        except AuthError as error:
            if error.status != 403:
                raise
            raise AuthError(
                f"{self._host} does not let this node's account replicate",
                code="replication-rights",
                host=self._host,
                status=403,
                hint="the account needs the action `replicate`, as of `shipline registry robot add"
                " NAME --project PROJECT --allow replicate`",
            ) from None
        except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise RegistryError(
                f"{self._host}: the answer is not that of a shipline node: {error}",
                code="node-unusable",
                host=self._host,
                hint="`from` names a registry node of shipline that is served with --role primary",
            ) from None


def _cursor(value: object) -> str:
    """A cursor: a number, and the name of the journal. Raises ValueError."""
    if not isinstance(value, str) or not _CURSOR.fullmatch(value):
        raise ValueError(f"{value!r:.100} is not a cursor")
    return value


def _time(value: Any) -> float:
    """Unix time. Raises ValueError."""
    if not math.isfinite(seconds := float(value)):
        raise ValueError(f"{value} is not a time")
    return seconds
