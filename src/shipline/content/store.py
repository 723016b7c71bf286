"""Content on the local disk: `blobs/<algorithm>/<hex>`, each file complete, synced and read-only.

A file gets its name by link(2) after fsync(2): several processes may write the same content at
once, and may die at any point, without leaving a partial file under any name.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from shipline.content.protocols import Advance, Fetcher
from shipline.content.readers import CHUNK, VerifiedReader, again_elsewhere, chunks
from shipline.content.recency import Recency
from shipline.errors import Cancelled, ContentError, DamagedContent, DigestMismatch, NotFound
from shipline.files import WriteBehind, write_in_pieces
from shipline.oci import Descriptor, Digest, Hasher
from shipline.tasks import check, on_cancel

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # never waits for a writer


class LocalIngest:
    """An unnamed file. Other threads may `follow` its bytes while they are written."""

    def __init__(self, store: LocalStore, fd: int, temporary: Path | None) -> None:
        self._store = store
        self._fd = fd
        self._temporary = temporary
        self._condition = threading.Condition()
        self._committed: Descriptor | None = None
        self._aborted = False
        self._readers = 1
        self._awaited = sys.maxsize  # the size at which a waiting reader goes on
        self.size = 0
        self._hasher = Hasher()
        self._written = WriteBehind(fd)

    @property
    def digest(self) -> Digest:
        """The sha256 of the bytes written so far."""
        return self._hasher.digest

    def write(self, data: bytes) -> None:
        """Append. Raises ContentError when the disk is full."""
        self._hasher.update(data)
        try:
            write_in_pieces(self._fd, data, self.size)
        except OSError as error:
            raise ContentError(
                f"cannot write to {self._store.root}: {error.strerror}",
                code="disk-full",
                hint="free some space there (`shipline prune` does in SHIPLINE_HOME), or choose"
                " a directory on a larger disk",
            ) from error
        self._written.grown(self.size + len(data))
        with self._condition:
            self.size += len(data)
            if self.size >= self._awaited:
                self._awaited = sys.maxsize
                self._condition.notify_all()

    def commit(self, target: Descriptor) -> None:
        """Publish the file durably. Raises DigestMismatch if the bytes do not match."""
        seen = self._hasher.digest if target.digest.algorithm == "sha256" else self._rehash(target)
        if seen != target.digest or self.size != target.size:
            raise DigestMismatch(
                expected=str(target.digest), got=str(seen), where=str(self._store.root)
            )
        os.fsync(self._fd)
        self._store._publish(self._fd, self._temporary, target.digest)
        with self._condition:
            self._committed = target
            self._condition.notify_all()

    def follow(self) -> Follow:
        """Read the file from its first byte, from another thread, until it is closed."""
        with self._condition:
            self._readers += 1
        return Follow(self)

    def close(self) -> None:
        with self._condition:
            self._aborted = self._committed is None
            self._condition.notify_all()
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                self._temporary.unlink()
        self._release()

    def _wait(self, size: int) -> Descriptor | None:
        """Block until `size` bytes are written or committed. Raises Cancelled after an abort."""
        with on_cancel(self._wake), self._condition:
            while self._committed is None and self.size < size:
                check()
                if self._aborted:
                    raise Cancelled("the followed content was abandoned")
                self._awaited = min(self._awaited, size)
                self._condition.wait()
            return self._committed

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _release(self) -> None:
        with self._condition:
            self._readers -= 1
            last = self._readers == 0
        if last:
            os.close(self._fd)

    def _rehash(self, target: Descriptor) -> Digest:
        seen = Hasher(target.digest.algorithm)
        for position in range(0, self.size, CHUNK):
            seen.update(os.pread(self._fd, CHUNK, position))
        return seen.digest


class Follow:
    """A reader of content that is still being written; holds the file open until closed."""

    def __init__(self, ingest: LocalIngest) -> None:
        self._ingest = ingest

    def __iter__(self) -> Iterator[bytes]:
        """All bytes, a CHUNK at a time, up to the commit. Raises Cancelled if it is abandoned."""
        position = 0
        while True:
            done = self._ingest._wait(position + CHUNK)
            data = os.pread(self._ingest._fd, CHUNK, position)
            if not data and done is not None:
                return
            position += len(data)
            yield data

    def wait(self) -> Descriptor:
        """Block until the commit; returns its descriptor. Raises Cancelled if it is abandoned."""
        target = self._ingest._wait(sys.maxsize)
        assert target is not None
        return target

    @property
    def total(self) -> int:
        """The final size in bytes; 0 before the commit."""
        committed = self._ingest._committed
        return 0 if committed is None else committed.size

    def growing(self, size: int) -> bool:
        """Block until `size` bytes are written or committed; returns whether more may follow."""
        return self._ingest._wait(size) is None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ingest._release()


class LocalStore:
    """A directory of blobs; a Store, from which registries send files.

    With `on_damage`, files that do not match their digest are removed and reported, so that the
    content can be recreated: when a read fails or the size is wrong. `verified` checks all bytes of
    a file on first use. With `recency`, what is asked for counts as used and is safe from eviction.
    Without `create` nothing is written before content is.
    """

    def __init__(
        self,
        root: Path,
        on_damage: Callable[[Path], object] | None = None,
        *,
        verified: bool = False,
        recency: Recency | None = None,
        create: bool = True,
    ) -> None:
        self.root = root
        self._recency = recency
        self._on_damage = on_damage
        self._verified = verified
        self._intact: set[Digest] = set()
        if create:
            for algorithm in ("sha256", "sha512"):
                (root / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """The path of the content, which may not exist."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def exists(self, target: Descriptor) -> bool:
        try:
            size = self.path(target.digest).lstat().st_size
        except FileNotFoundError:
            return False
        if size != target.size:
            self._require_intact(target.digest)
            return False
        if self._verified and target.digest not in self._intact:
            if not self._require_intact(target.digest):
                return False
            self._intact.add(target.digest)
        return self._recency is None or self._recency.touch(self.path(target.digest))

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[VerifiedReader]:
        path = self.path(target.digest)
        if self._recency is not None:
            self._recency.touch(path)
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError:
            raise NotFound(f"{target.digest} is not in {self.root}", code="content-gone") from None
        except OSError as error:
            linked = error.errno == errno.ELOOP  # O_NOFOLLOW
            reason = "it is a symbolic link" if linked else error.strerror
            raise ContentError(
                f"cannot read {path}: {reason}", code="content-unreadable"
            ) from error
        with open(fd, "rb", buffering=0) as source:
            try:
                yield VerifiedReader(source, target, str(path))
            except Exception as error:
                if self._require_intact(target.digest):
                    raise
                raise DamagedContent(
                    f"{path} was damaged and has been removed", hint="run again"
                ) from error

    def _require_intact(self, digest: Digest) -> bool:
        """Whether the file matches its digest; if not, with `on_damage`, it is removed."""
        if self._on_damage is None:
            return True
        path = self.path(digest)
        try:
            with open(path, "rb", opener=lambda name, _: os.open(name, _READ)) as file:
                if _matches(file, digest):
                    return True
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # not replaced meanwhile
                    path.unlink()
        except FileNotFoundError:
            return False
        self._on_damage(path)
        return False

    @contextmanager
    def ingest(self) -> Iterator[LocalIngest]:
        fd, temporary = self._create_file()
        ingest = LocalIngest(self, fd, temporary)
        try:
            yield ingest
        finally:
            ingest.close()

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        if not self.exists(target):
            again_elsewhere(lambda: self._receive(target, source, advance))

    def _receive(self, target: Descriptor, source: Fetcher, advance: Advance | None) -> None:
        with source.fetch(target) as reader, self.ingest() as ingest:
            for data in chunks(reader):
                ingest.write(data)
                if advance is not None:
                    advance(len(data))
            ingest.commit(target)

    def add(self, content: bytes, media_type: str) -> Descriptor:
        """Store `content`; returns its descriptor."""
        target = Descriptor.of(content, media_type)
        if not self.exists(target):
            with self.ingest() as ingest:
                ingest.write(content)
                ingest.commit(target)
        return target

    def _create_file(self) -> tuple[int, Path | None]:
        """A new unnamed file (O_TMPFILE); a temporary one where that is not supported."""
        blobs = self.root / "blobs"
        try:
            return os.open(blobs, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o444), None
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
                raise
        name = blobs / f".ingest-{os.getpid()}-{threading.get_ident()}-{os.urandom(6).hex()}"
        return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o444), name

    def _publish(self, fd: int, temporary: Path | None, digest: Digest) -> None:
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        open_files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
        try:  # open(2), O_TMPFILE: linked through its entry in /proc
            os.link(temporary or str(fd), path.name, src_dir_fd=open_files, dst_dir_fd=directory)
            os.fsync(directory)
        except FileExistsError:  # replace the existing file, which may be damaged
            name = f"../.ingest-{os.getpid()}-again-{os.urandom(6).hex()}"
            os.link(temporary or str(fd), name, src_dir_fd=open_files, dst_dir_fd=directory)
            os.rename(name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except OSError as error:  # its file name is a descriptor
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            os.close(open_files)
            os.close(directory)


def _matches(file: BinaryIO, digest: Digest) -> bool:
    """Whether the whole file is readable and matches `digest`."""
    seen = Hasher(digest.algorithm)
    try:
        while data := file.read(CHUNK):
            seen.update(data)
    except OSError:
        return False
    return seen.digest == digest
