"""The accounts of a node: a consistent in-memory view of records that several processes write.

  DIR/access/accounts.db    records (SQLite), readable by the owner only
  DIR/access/lock           locked (flock) during a change, touched once it is durable

  user     <name>              `accounts.User`
  project  <name>              `accounts.Project`
  robot    <id>                `accounts.Robot`
  next     <kind>              the next id of a kind
  used     <login>             when the account was last used, Unix time in seconds
  refresh  <login> <digest>    a refresh token: audience, client, created, expires
  key      <kid>               a signing key: PEM, created, retired
  setting  <name>              settings of the node that the command line needs

The command line changes accounts while the node runs. A commit changes the mtime of the write-ahead
log, then that of the lock file, so that two stat(2) tell whether the view is current. The view is
checked every 5 ms at most (a system call that releases the GIL costs more than serving a manifest),
and a change waits that long before it returns. The lock file reveals a commit whose fsync was slow,
the log one of a process that died before touching the lock.
"""

from __future__ import annotations

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
from shipline.tasks import lock

_MAX_NAME = 255  # characters of a repository name
_MAX_AGE_S = 0.005  # maximum age of the view
_MTIME_GRAIN_NS = 20_000_000  # granularity of file times: a younger stamp may hide a second write
Stamp = tuple[int, ...]
_UNKNOWN: Stamp = ()
Changes = dict[Key, bytes | None]


@dataclass(frozen=True, slots=True)
class AccountsView:
    """All accounts at one point in time."""

    users: Mapping[str, User] = field(default_factory=dict)
    projects: Mapping[str, Project] = field(default_factory=dict)
    robots: Mapping[int, Robot] = field(default_factory=dict)
    logins: Mapping[str, Robot] = field(default_factory=dict)
    keys: Mapping[str, bytes] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()  # names of removed projects

    @classmethod
    def of(cls, records: SqliteRecords) -> Self:
        """Reads all records."""
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
        """The user or robot with this login name; None if there is none."""
        return self.users.get(login) or self.logins.get(login)

    def project(self, repository: str) -> Project | None:
        """The project of a repository: the longest matching prefix; None if that one was
        removed.
        """
        name = repository if len(repository) <= _MAX_NAME else ""
        while name:
            project = self.projects.get(name)
            if project is not None or name in self.removed:
                return project
            name = name.rpartition("/")[0]
        return None


class AccountStore:
    """The accounts of a data directory. Safe to use from any thread and from several processes."""

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
        self._checked = 0.0  # monotonic time in seconds
        self._view = AccountsView()
        self._reload(self._file_stamp())

    def close(self) -> None:
        self.records.close()

    def view(self) -> AccountsView:
        """The current accounts; the same object until something changes."""
        now = time.monotonic()
        if now - self._checked < _MAX_AGE_S:
            return self._view
        stamp = self._file_stamp()
        if stamp != self._stamp:
            with self._lock:
                if stamp != self._stamp:
                    self._reload(stamp)
        self._checked = now
        return self._view

    def is_current(self) -> bool:
        """Whether `view` would read no records."""
        return time.monotonic() - self._checked < _MAX_AGE_S or self._file_stamp() == self._stamp

    @contextmanager
    def change(self, *, wait: bool = True) -> Iterator[Changes]:
        """Collect changes; they are written atomically if the block succeeds.

        Other processes are locked out meanwhile. On return every process acts on the change; with
        `wait` false, a moment later.
        """
        with self._lock:
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                lock(fd)
                changes: Changes = {}
                yield changes
                if changes:
                    self.records.write(changes)
                    os.utime(fd)
                    self._checked = 0.0
            finally:
                os.close(fd)
        if changes and wait:
            time.sleep(_MAX_AGE_S)

    def next_id(self, changes: Changes, kind: str) -> int:
        """Allocate the next id of a kind, as part of the change."""
        record = self.records.get(("next", kind))
        next_id = 1 if record is None else int(record)
        changes[("next", kind)] = str(next_id + 1).encode()
        return next_id

    def robot_prefix(self) -> RobotPrefix:
        """The prefix of new robots' login names, as the node was last configured."""
        record = self.records.get(("setting", "robot-prefix"))
        return RobotPrefix() if record is None else RobotPrefix(record.decode())

    def set_robot_prefix(self, robot_prefix: RobotPrefix) -> None:
        if robot_prefix != self.robot_prefix():
            with self.change() as changes:
                changes[("setting", "robot-prefix")] = robot_prefix.text.encode()

    def last_used(self, login: str) -> float:
        """Unix time in seconds, 0 for never."""
        record = self.records.get(("used", login))
        return 0.0 if record is None else float(json.loads(record))

    def _reload(self, stamp: Stamp) -> None:
        """The stamp was taken before reading, so that a write in between is noticed next time."""
        view = AccountsView.of(self.records)
        if view != self._view:
            self._view = view
        settled = time.time_ns() - max(stamp) > _MTIME_GRAIN_NS
        self._stamp = stamp if settled else _UNKNOWN

    def _file_stamp(self) -> Stamp:
        """mtime and size of both files; a time in nanoseconds exceeds any size."""
        return (*_stamp(self._files[0]), *_stamp(self._files[1]))


def _stamp(file: str) -> Stamp:
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
