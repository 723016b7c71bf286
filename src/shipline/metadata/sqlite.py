"""Records in one SQLite file: write-ahead log, synchronous=FULL, so a commit is on the disk.

The file holds one table, `records(key BLOB PRIMARY KEY, value BLOB)`; `PRAGMA user_version` is the
version of that layout. Beside it SQLite keeps its `-wal` and `-shm` files.
"""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shipline.errors import ConfigError
from shipline.metadata.protocols import Key, encode

_VERSION = 1
_WAIT_S = 60.0


class SqliteRecords:
    """One connection writes; readers take idle connections and never wait for the writer."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises ConfigError for one that this version cannot read."""
        self._path = path
        self._lock = threading.Lock()
        self._idle: deque[sqlite3.Connection] = deque()
        self._writer = self._connect()
        with _translated(self._path):
            self._writer.execute("PRAGMA journal_mode=WAL")
            self._prepare()

    def get(self, key: Key) -> bytes | None:
        with self._reader() as connection:
            row = connection.execute(
                "SELECT value FROM records WHERE key = ?", (encode(key),)
            ).fetchone()
        return None if row is None else bytes(row[0])

    def scan(self, prefix: Key, *, after: Key = (), limit: int = 1000) -> list[tuple[Key, bytes]]:
        start = encode((*prefix, ""))
        beyond = encode((*prefix, *after)) if after else start
        with self._reader() as connection:
            rows = connection.execute(
                "SELECT key, value FROM records WHERE key > ? AND key < ? ORDER BY key LIMIT ?",
                (beyond, start[:-1] + b"\1", limit),
            ).fetchall()
        return [(tuple(key[len(start) :].decode().split("\0")), value) for key, value in rows]

    def write(self, changes: Mapping[Key, bytes | None]) -> None:
        rows = [(encode(key), value) for key, value in changes.items()]
        with self._lock, _translated(self._path):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                self._writer.executemany(
                    "INSERT INTO records VALUES (?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    [row for row in rows if row[1] is not None],
                )
                self._writer.executemany(
                    "DELETE FROM records WHERE key = ?",
                    [(key,) for key, value in rows if value is None],
                )
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().close()
            self._writer.close()

    def _prepare(self) -> None:
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _VERSION):
            raise ConfigError(
                f"{self._path} has layout {version}, this program knows {_VERSION}",
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


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
    except sqlite3.DatabaseError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
