"""Records in a RocksDB directory (optional package `rocksdict`).

Keys and values are stored as is; the one key that starts with byte 0xff holds the layout version.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shipline.errors import ConfigError
from shipline.metadata.group import Changes, Counters, GroupCommit
from shipline.metadata.protocols import Key, bounds, decode, encode

if TYPE_CHECKING:
    from rocksdict import Rdict

_VERSION = b"1"
_VERSION_KEY = b"\xffversion"
_LOGS = 4  # of RocksDB's own diagnostic logs
_BUFFER = 8 << 20  # bytes of a memtable: inserting into larger ones misses the CPU's caches
_RECYCLED = 4  # write-ahead logs written over: a sync need not update the size of the file
_MIN_FREE = 2 << 20  # bytes that opening needs


class RocksRecords:
    """Writes go through a group commit, so that counters have one writer."""

    def __init__(self, path: Path) -> None:
        """Open or create the directory.

        Raises ConfigError if `rocksdict` is missing, for another layout, and while another process
        has it open.
        """
        try:
            import rocksdict
        except ImportError:
            raise ConfigError(
                "metadata in RocksDB needs the package rocksdict",
                code="package-missing",
                hint="pip install 'shipline[rocksdb]'",
            ) from None
        self._package = rocksdict
        self._path = path
        self._reopening = threading.Lock()
        self._failed = False  # a write failed: RocksDB must be reopened
        with _translated(path):
            self._store = self._open()
            self._check_version()
        self.write = GroupCommit(self._apply).write

    def get(self, key: Key) -> bytes | None:
        with self._readable() as store:
            value: bytes | None = store.get(encode(key))
        return value

    def scan(self, prefix: Key, *, after: Key = (), limit: int = 1000) -> list[tuple[Key, bytes]]:
        beyond, end, cut = bounds(prefix, after)
        records: list[tuple[Key, bytes]] = []
        with self._readable() as store:
            options = self._package.ReadOptions()
            options.set_iterate_upper_bound(end)
            cursor = store.iter(options)
            cursor.seek(beyond + b"\0")
            while len(records) < limit and cursor.valid():
                records.append((decode(cursor.key(), cut), cursor.value()))
                cursor.next()
            cursor.status()
        return records

    def close(self) -> None:
        with _translated(self._path):
            self._store.close()

    def _apply(self, changes: Changes, counters: Counters, durable: bool) -> None:
        with _translated(self._path):
            self._reopen_if_failed()
            batch = self._package.WriteBatch(raw_mode=True)
            for key, value in changes.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
            for key, delta in counters.items():
                batch.put(key, b"%d" % (int(self._store.get(key) or 0) + delta))
            options = self._package.WriteOptions()
            options.sync = durable
            try:
                self._store.write(batch, options)
            except BaseException:
                self._failed = True
                raise

    def _open(self) -> Rdict:
        options = self._package.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_keep_log_file_num(_LOGS)
        options.set_write_buffer_size(_BUFFER)
        options.set_recycle_log_file_num(_RECYCLED)
        return self._package.Rdict(str(self._path), options)

    def _reopen_if_failed(self) -> None:
        """Reopen after a failed write, once there is space; reads keep working until then."""
        if not self._failed:
            return
        disk = os.statvfs(self._path)
        blocks = disk.f_bavail if os.geteuid() else disk.f_bfree
        if blocks * disk.f_frsize < _MIN_FREE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        if disk.f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self._path))
        with self._reopening:
            with suppress(Exception):  # it tries to write again
                self._store.close()
            self._store = self._open()
        self._failed = False

    @contextmanager
    def _readable(self) -> Iterator[Rdict]:
        """The store; waits while it is being reopened."""
        if self._failed:
            with self._reopening, _translated(self._path):
                yield self._store
        else:
            with _translated(self._path):
                yield self._store

    def _check_version(self) -> None:
        version = self._store.get(_VERSION_KEY)
        if version is None:
            self._store.put(_VERSION_KEY, _VERSION)
        elif version != _VERSION:
            raise ConfigError(
                f"{self._path} has layout {version.decode()}, this version supports 1",
                code="registry-data-version",
                hint="run the version of shipline that wrote it, or a newer one",
            )


_ERRNO = (
    ("no space left", errno.ENOSPC),
    ("quota exceeded", errno.EDQUOT),
    ("read-only file system", errno.EROFS),
)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (ConfigError, OSError, ValueError):
        raise
    except Exception as error:  # rocksdict raises bare Exception with RocksDB's words
        words = str(error)
        if "lock" in words.lower() and "LOCK" in words:
            raise ConfigError(
                f"{path} is open in another process",
                code="registry-in-use",
                hint="stop that process first",
            ) from None
        code = next((code for part, code in _ERRNO if part in words.lower()), errno.EIO)
        raise OSError(code, words, str(path)) from error
