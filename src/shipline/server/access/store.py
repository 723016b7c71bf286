"""All accounts of a node: a consistent view in memory over records that several processes write.

DIR/access/accounts.db    records (SQLite), readable by the owner alone
DIR/access/lock           held while a change is made (flock), touched when it is on the disk

user     <name>                     one of `accounts.User`
project  <name>                     `accounts.Project`
robot    <id>                       `accounts.Robot`
next     <kind>                     the next number of its kind
used     <login>                    when an account was last used, Unix time in seconds
refresh  <login> <digest>           a refresh token: audience, client, created, expires
key      <kid>                      a signing key: PEM, created, retired
setting  <name>                     what the command line must know of the node's settings

The command line changes accounts while the node runs: every commit moves the write-ahead log, then
the time of the lock file, so two stat(2) tell the node whether its view is still what the disk
says. It looks every 5 ms at most (a call that gives the interpreter's lock away costs more than a
manifest), and who makes a change waits that long before it says that it is made. Of the two files
the second tells of a commit whose fsync took long, the first of a process that died before it could
touch the lock.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from shipline.metadata import Key, SqliteRecords, walk
from shipline.server.access.accounts import (
    Account,
    Project,
    Robot,
    RobotPrefix,
    User,
    read_project,
    read_robot,
    read_user,
)
from shipline.server.layout import sync_directory

_LONGEST = 255  # characters of a repository's name; what a client says may be longer
_LOOK_S = 0.005  # how old the view may be
_GRAIN_NS = 20_000_000  # file times are no finer: a stamp this young may hide a second write
Stamp = tuple[int, ...]
_UNKNOWN: Stamp = ()
Changes = dict[Key, bytes | None]


@dataclass(frozen=True, slots=True)
class AccountsView:
    """Every account at one moment."""

    users: Mapping[str, User] = field(default_factory=dict)
    projects: Mapping[str, Project] = field(default_factory=dict)
    robots: Mapping[int, Robot] = field(default_factory=dict)
    logins: Mapping[str, Robot] = field(default_factory=dict)
    keys: Mapping[str, bytes] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()  # names of projects that were removed

    @classmethod
    def of(cls, records: SqliteRecords) -> Self:
        robots = [read_robot(value) for _, value in walk(records, ("robot",))]
        projects = [read_project(value) for _, value in walk(records, ("project",))]
        return cls(
            {key[0]: read_user(value) for key, value in walk(records, ("user",))},
            {project.name: project for project in projects if not project.removed},
            {robot.id: robot for robot in robots},
            {robot.login: robot for robot in robots},
            {key[0]: value for key, value in walk(records, ("key",))},
            frozenset(project.name for project in projects if project.removed),
        )

    def account(self, login: str) -> Account | None:
        return self.users.get(login) or self.logins.get(login)

    def project(self, repository: str) -> Project | None:
        """The project of a repository: the longest whose name begins its path; None where that one
        was removed.
        """
        name = repository if len(repository) <= _LONGEST else ""
        while name:
            found = self.projects.get(name)
            if found is not None or name in self.removed:
                return found
            name = name.rpartition("/")[0]
        return None


class AccountStore:
    """The accounts of a data directory. Safe to use from any thread, and by several processes."""

    def __init__(self, data: Path, *, clock: Callable[[], float] = time.time) -> None:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = data / "access"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.chmod(self.root, 0o700)
        self.clock = clock
        file = self.root / "accounts.db"
        os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self.records = SqliteRecords(file)
        sync_directory(self.root)
        self._files = (str(file) + "-wal", str(self.root / "lock"))
        self._lock = threading.RLock()
        self._stamp = _UNKNOWN
        self._looked = 0.0  # monotonic time in seconds
        self._view = AccountsView()
        self._reload(self._now())

    def close(self) -> None:
        self.records.close()

    def view(self) -> AccountsView:
        """The accounts as they are on the disk; the same object while nothing changed."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return self._view
        stamp = self._now()
        if stamp != self._stamp:
            with self._lock:
                if stamp != self._stamp:
                    self._reload(stamp)
        self._looked = now
        return self._view

    def is_current(self) -> bool:
        """Whether `view` needs no records: nothing has changed."""
        return time.monotonic() - self._looked < _LOOK_S or self._now() == self._stamp

    @contextmanager
    def change(self, *, seen: bool = True) -> Iterator[Changes]:
        """Collect changes to records; they are written, all or none, when the block ends well.

        No other process changes accounts meanwhile. When it returns, every process acts on the
        change; with `seen` false a moment later.
        """
        with self._lock:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                changes: Changes = {}
                yield changes
                if changes:
                    self.records.write(changes)
                    os.utime(fd)
                    self._looked = 0.0
            finally:
                os.close(fd)
        if changes and seen:
            time.sleep(_LOOK_S)

    def number(self, changes: Changes, kind: str) -> int:
        """The next number of a kind, taken by the change."""
        record = self.records.get(("next", kind))
        number = 1 if record is None else int(record)
        changes[("next", kind)] = str(number + 1).encode()
        return number

    def prefix(self) -> RobotPrefix:
        """What login names of new robots begin with: as the node was last told."""
        record = self.records.get(("setting", "robot-prefix"))
        return RobotPrefix() if record is None else RobotPrefix(record.decode())

    def set_prefix(self, prefix: RobotPrefix) -> None:
        if prefix != self.prefix():
            with self.change() as changes:
                changes[("setting", "robot-prefix")] = prefix.text.encode()

    def last_used(self, login: str) -> float:
        """Unix time in seconds, 0 for never."""
        record = self.records.get(("used", login))
        return 0.0 if record is None else float(json.loads(record))

    def _reload(self, stamp: Stamp) -> None:
        """The stamp is older than what is read, so a write in between is seen next time."""
        view = AccountsView.of(self.records)
        if view != self._view:
            self._view = view
        settled = time.time_ns() - max(stamp) > _GRAIN_NS
        self._stamp = stamp if settled else _UNKNOWN

    def _now(self) -> Stamp:
        """Times and size of the files; a time in nanoseconds is greater than any size."""
        return (*_stamp(self._files[0]), *_stamp(self._files[1]))


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
