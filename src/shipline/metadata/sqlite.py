"""Records in one SQLite file: write-ahead log, synchronous=FULL, so that commits are durable.

One table, `records(key BLOB PRIMARY KEY, value BLOB)`; `PRAGMA user_version` is the layout version.
SQLite keeps `-wal` and `-shm` files beside it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shipline.errors import ConfigError
from shipline.metadata.group import Changes, Counters, GroupCommit
from shipline.metadata.protocols import DamagedRecords, Key, bounds, decode, encode
from shipline.tasks import directory_lock

_VERSION = 1
_WAIT_S = 60.0
_RETRY_S = 0.005
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LEVEL = {True: "FULL", False: "NORMAL"}


class SqliteRecords:
    """One connection writes; readers use pooled connections and never wait for the writer."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises ConfigError for one that this version cannot read."""
        with directory_lock(path.parent, fcntl.LOCK_SH):  # nothing is removed meanwhile
            self._open(path)

    def _open(self, path: Path) -> None:
        self._path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._writer = self._connect()
        self._file = os.stat(path)
        self._durable = True
        self.write = GroupCommit(self._apply).write
        try:
            with _translated(path):
                self._keep_log()
                self._prepare()
        except BaseException:
            self.close()
            raise

    def get(self, key: Key) -> bytes | None:
        with self._reader() as connection:
            row = connection.execute(
                "SELECT value FROM records WHERE key = ?", (encode(key),)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def scan(self, prefix: Key, *, after: Key = (), limit: int = 1000) -> list[tuple[Key, bytes]]:
        beyond, end, cut = bounds(prefix, after)
        with self._reader() as connection:
            rows = connection.execute(
                "SELECT key, value FROM records WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
                (beyond, end, limit),
            ).fetchall()
        return [(decode(key, cut), value) for key, value in rows]

    @classmethod
    def remove_unusable(cls, path: Path) -> None:
        """Remove a file that cannot be opened. One that another process has made in its place
        meanwhile stays.
        """
        with directory_lock(path.parent):
            try:
                records = cls.__new__(cls)
                records._open(path)
                records.close()
            except (DamagedRecords, ConfigError):
                _remove(path)

    def remove(self) -> None:
        """Remove this file, in which damage was found, unless it is another one by now. A process
        that has it open keeps using the removed files.
        """
        with directory_lock(self._path.parent), suppress(FileNotFoundError):
            if os.path.samestat(self._file, os.stat(self._path)):
                _remove(self._path)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._writer.close()

    def _apply(self, changes: Changes, counters: Counters, durable: bool) -> None:
        writer = self._writer
        with _translated(self._path):
            if durable is not self._durable:
                writer.execute(f"PRAGMA synchronous={_LEVEL[durable]}")
                self._durable = durable
            writer.execute("BEGIN IMMEDIATE")
            try:
                self._change(changes, counters)
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise

    def _change(self, changes: Changes, counters: Counters) -> None:
        self._writer.executemany(
            "INSERT INTO records VALUES (?, ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [item for item in changes.items() if item[1] is not None],
        )
        self._writer.executemany(
            "DELETE FROM records WHERE key = ?",
            [(key,) for key, value in changes.items() if value is None],
        )
        self._writer.executemany(
            "INSERT INTO records VALUES (?1, CAST(?2 AS BLOB)) ON CONFLICT (key) DO UPDATE "
            "SET value = CAST(CAST(CAST(value AS TEXT) AS INTEGER) + ?2 AS BLOB)",
            list(counters.items()),
        )

    def _keep_log(self) -> None:
        """Two connections that switch a new file at once would wait for each other, so that SQLite
        refuses one of them without waiting; it tries again.
        """
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(_RETRY_S)

    def _prepare(self) -> None:
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise ConfigError(
                f"{self._path} has layout {version}, this version supports {_VERSION}",
                code="registry-data-version",
                hint="run the version of shipline that wrote it, or a newer one",
            )
        if version == 0:
            self._writer.executescript(
                "BEGIN IMMEDIATE;"
                "CREATE TABLE IF NOT EXISTS records"
                " (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
                f"PRAGMA user_version = {_VERSION};"
                "COMMIT"
            )

    def _connect(self) -> sqlite3.Connection:
        with _translated(self._path):
            connection = sqlite3.connect(
                self._path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous=FULL")
            return connection

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        with _translated(self._path):
            yield connection
        self._idle.append(connection)


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(_errno(error, path), str(error), str(path)) from error
    except sqlite3.DatabaseError as error:
        kind = DamagedRecords if error.sqlite_errorcode & 0xFF in _DAMAGED else OSError
        raise kind(errno.EIO, str(error), str(path)) from error


def _errno(error: sqlite3.OperationalError, path: Path) -> int:
    """SQLite hides the system's errno; a failing file system reports it again."""
    code = error.sqlite_errorcode & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return errno.ENOSPC
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return errno.EBUSY
    probe = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
    try:
        os.utime(path)
        probe.touch()  # as the files beside it
        probe.unlink()
    except OSError as refusal:
        return refusal.errno or errno.EIO
    return errno.EROFS if code == sqlite3.SQLITE_READONLY else errno.EIO
