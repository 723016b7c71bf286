"""The disk usage of the state directory, and the eviction of what exceeds its limit.

Every record may be evicted at any time: blobs are fetched or made again, files are unpacked again,
tables are read again. What a running build has used since it started stays.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from msgspec import Struct

from shipline.build.block_indexes import indexed_blobs
from shipline.build.cache import forget_missing, open_records, results
from shipline.build.layer_files import COMPLETE, LINKED, USE_LOCK, LayerFiles
from shipline.content import LocalStore, Recency, read_file, try_lock, write_file
from shipline.errors import Cancelled, ShiplineError, UsageError
from shipline.events import Step
from shipline.layer import Layer
from shipline.metadata import DamagedRecords, Records
from shipline.oci import Digest
from shipline.sandbox import open_workspace, remove_tree
from shipline.tasks import is_locked
from shipline.units import ByteSize, counted, shown_size
from shipline.values import replace

_SIZE = "size"
_WORTH = 1 << 20  # bytes; smaller blobs are not worth a second look
_MOST, _LEAST = 50_000_000_000, 5_000_000_000  # bytes, of the limit when none is set
LIMIT_VARIABLE = "SHIPLINE_MAX_USED_SPACE"
INTERNAL = "internal"
"""The type of the records of runs, which are no cache: they go only where they are chosen."""

KEPT_CONTEXTS = "contexts"
"""Where the contexts of clients on other machines are, each next to a lock that its builds hold."""


class CacheRecord(Struct, frozen=True):
    """A part of the cache. Times are in seconds since the epoch, `size` in bytes on the disk.

    `type` is one of buildx's: regular, source.local, source.git.checkout, exec.cachemount, and
    internal. `in_use` is true where a running build may rely on it.
    """

    id: str
    type: str
    description: str
    path: Path
    witness: Path  # its modification time is the last use
    size: int
    created: float
    last_used: float
    mutable: bool = False
    in_use: bool = False
    shared: bool = False  # with an image of the engine


class PruneLimits(Struct, frozen=True):
    """How much may stay: the fields are those of `docker buildx prune`, in bytes; None is no limit.

    Without any of them everything goes.
    """

    max_used: int | None = None
    min_free: int | None = None
    reserved: int | None = None

    def keep(self, used: int, free: int) -> int:
        """How many bytes of `used` may stay, with `free` bytes free on the disk."""
        if self.max_used is None and self.min_free is None and self.reserved is None:
            return 0
        keep = used
        if self.max_used is not None:
            keep = self.max_used
        elif self.min_free is None:
            keep = 0
        if self.min_free is not None:
            keep = min(keep, used - (self.min_free - free)) if free < self.min_free else keep
        return max(keep, self.reserved or 0)


def scan(state: Path) -> list[CacheRecord]:
    """All records, least recently used first; unpacked files before blobs of the same age."""
    return _records(state, _running_since(state))


def is_cache(record: CacheRecord) -> bool:
    """Whether nothing but time is lost with the record."""
    return record.type != INTERNAL


def prune(
    state: Path, limits: PruneLimits, chosen: Callable[[CacheRecord], bool] = is_cache
) -> Iterator[CacheRecord]:
    """Evict records that are `chosen` and not in use until `limits` are met; yields each of them.

    Raises OSError for a disk that cannot be written.
    """
    recency = Recency(state / USE_LOCK)
    with open_workspace(state) as scratch:
        since = partial(_running_since, state, besides=scratch)
        records = _records(state, since())
        used, disk = total(records), _disk(state)
        keep = limits.keep(used, disk.f_bavail * disk.f_frsize)
        evictable = (record for record in records if not record.in_use and chosen(record))
        for record in evictable:
            if used <= keep:
                break
            if _evict(record, recency, since, scratch):
                used -= record.size
                yield record
    with open_records(state / "cache.db", lambda damaged: None) as known:
        forget_missing(known, LocalStore(state / "content"), partial(_has_files, state))


def keep_once(
    state: Path,
    scratch: Path,
    records: Records,
    files: LayerFiles,
    step: Step,
    *,
    exported: Collection[Digest] = (),
    pulled: Iterable[Layer] = (),
    unused: bool = False,
) -> None:
    """Remove the blobs of layers whose files are here, if these give the same blob at any time, and
    those of `pulled`, base layers that this build has downloaded, if their files are here; those of
    `exported`, those with an index, small ones, and what another running build has used stay; if
    only what is `unused` goes, also what this one has used. Raises no error.

    The files stay, since the next steps need them: a blob is needed again only where a registry
    does not have it. That of a base layer comes from its own registry then.
    """
    if not files.lasting:
        return
    since = partial(_running_since, state, None if unused else scratch)
    recency = Recency(state / USE_LOCK)
    try:
        kept = {*exported, *indexed_blobs(state)}
        for path, diff_id in _stored_twice(state, records, files, pulled, kept).items():
            trash = scratch / f"dropped-{os.urandom(6).hex()}"
            if files.is_synced(diff_id) and recency.evict(path, path, since, trash):
                trash.unlink(missing_ok=True)
    except (OSError, ShiplineError, DamagedRecords) as error:
        step.warn(f"some layers are stored twice: {error}")


def _stored_twice(
    state: Path,
    records: Records,
    files: LayerFiles,
    pulled: Iterable[Layer],
    kept: Collection[Digest],
) -> dict[Path, Digest]:
    """The blobs, but for those that are `kept`, of layers whose files are here; with diff IDs."""
    store = LocalStore(state / "content")
    found = {
        store.path(one.descriptor.digest): one.diff_id
        for one in pulled
        if one.descriptor.size >= _WORTH
        and one.descriptor.digest not in kept
        and files.has(one.diff_id)
    }
    for result in results(records):
        target, diff_id = result.layer.descriptor, result.layer.diff_id
        if result.level is None or target.size < _WORTH or target.digest in kept:
            continue
        if store.path(target.digest).exists() and files.exact(diff_id):
            found[store.path(target.digest)] = diff_id
    return found


def _has_files(state: Path, diff_id: Digest) -> bool:
    return any(state.glob(f"layers*/{diff_id.hex}/{COMPLETE}"))


def limit_of(text: str, state: Path) -> int | None:
    """How many bytes the cache may have: `text` as SHIPLINE_MAX_USED_SPACE says it (`20GB`,
    `unlimited`); where that is empty a tenth of the disk, 5 GB at least and 50 GB at most.

    Raises UsageError.
    """
    if text == "unlimited":
        return None
    if text:
        try:
            return ByteSize.parse(text).bytes
        except ValueError as error:
            hint = "write 20GB, or unlimited"
            raise UsageError(
                f"{LIMIT_VARIABLE}: {error}", code="variable-value", hint=hint
            ) from None
    disk = _disk(state)
    return min(_MOST, max(_LEAST, disk.f_blocks * disk.f_frsize // 10))


@contextmanager
def kept_within(limit: int | None, state: Path, step: Step) -> Iterator[None]:
    """Evict what exceeds `limit` when the block ends, if it added anything to the cache; not after
    a cancellation. Never raises an error of its own.
    """
    started = time.time()
    cancelled = False
    try:
        yield
    except Cancelled:
        cancelled = True
        raise
    finally:
        if limit is not None and not cancelled and grew(state, started):
            _enforce(limit, state, step)


def _enforce(limit: int, state: Path, step: Step) -> None:
    try:
        evicted = list(prune(state, PruneLimits(max_used=limit)))
    except (OSError, ShiplineError, DamagedRecords) as error:
        step.warn(f"the cache could not be kept within its limit: {error}")
        return
    if evicted:
        freed = shown_size(total(evicted))
        text = f"evicted {counted(len(evicted), 'cache record')}, {freed}"
        with step.step(text, kind="internal"):
            pass


def grew(state: Path, since: float) -> bool:
    """Whether anything was added to the cache at or after `since`, without reading all of it."""
    patterns = ("content/blobs/sha256", "layers*", "mounts*/*", "git/*")
    for place in (one for pattern in patterns for one in state.glob(pattern)):
        with suppress(OSError):
            if place.stat().st_mtime >= since:
                return True
    return False


def _records(state: Path, since: float) -> list[CacheRecord]:
    """All records, least recently used first; what was used at or after `since` is in use."""
    found = []
    for pattern, record_of in _PARTS.items():
        for path in sorted(state.glob(pattern), key=str):
            with suppress(OSError):  # evicted meanwhile
                found.append(record_of(path))
    found.sort(key=lambda record: record.last_used)
    shared = _shared_sizes(found)
    return [
        replace(one, size=one.size - size, in_use=one.in_use or one.last_used >= since)
        for one, size in zip(found, shared, strict=True)
    ]


def _shared_sizes(records: Sequence[CacheRecord]) -> list[int]:
    """How many bytes of each are files of another one too, by hard links, that was used later."""
    sizes, seen = [], set[int]()
    for record in reversed(records):
        size = 0
        for name in LINKED if record.path.parent.name.startswith("layers") else ():
            with suppress(OSError):  # another kind of layer
                status = os.lstat(f"{record.path}/{name}")
                if status.st_nlink > 1 and status.st_ino in seen:
                    size += status.st_blocks * 512
                seen.add(status.st_ino)
        sizes.append(size)
    return sizes[::-1]


def _layer(path: Path) -> CacheRecord:
    record = _record("regular", f"files of layer sha256:{path.name}", path, path / COMPLETE)
    # a complete layer never changes, so its size is counted once
    changed = float("inf") if record.witness == path else 0
    return replace(record, size=_tree_size(path, path / _SIZE, changed))


def _file(description: str) -> Callable[[Path], CacheRecord]:
    """The record of a file; `description` may have its `{name}` in it."""
    return lambda path: _record("regular", description.format(name=path.name), path)


def _run(record: Path) -> CacheRecord:
    path = record.parent
    found = _record(INTERNAL, f"record of the run {path.name}", path, record)
    kept = (path / "run.json").exists()  # of `ship`, which keeps so many
    return replace(found, size=_counted_size(path), in_use=kept or _is_held(path / "events"))


def _context(path: Path) -> CacheRecord:
    record = _record("source.local", "fingerprints of a local context", path)
    return replace(record, mutable=True)


def _mount(lock: Path) -> CacheRecord:
    path = lock.with_suffix("")
    name = f"cache mount {path.parent.name[:12]}"
    record = _record("exec.cachemount", name, path, lock)
    size = _tree_size(path, lock.with_suffix(".size"), record.last_used)
    return replace(record, size=size, mutable=True, in_use=_is_locked(lock))


def _kept_context(lock: Path) -> CacheRecord:
    path = lock.with_suffix("")
    record = _record("source.local", f"files of the client {path.name[:12]}", path, lock)
    return replace(record, size=_counted_size(path), mutable=True, in_use=_is_locked(lock))


def _repository(used: Path) -> CacheRecord:
    path = used.parent
    record = _record("source.git.checkout", f"git repository {used.read_text()}", path, used)
    size = _tree_size(path, used.with_name(_SIZE), record.last_used)
    return replace(record, size=size, mutable=True)


def _blob(path: Path) -> CacheRecord:
    return _record("regular", f"blob {path.parent.name}:{path.name}", path)


_PARTS = {
    "layers*/[!.]*": _layer,
    "toc/*": _file("file list of layer sha256:{name}"),
    "blocks/*": _file("index of compressed blocks of a layer"),
    "stat/*": _context,
    "files/*": _file("names of files that a step copied"),
    "runs/*/record.json": _run,
    f"{KEPT_CONTEXTS}/*.lock": _kept_context,
    "git/*/used": _repository,
    "mounts*/*/*.lock": _mount,
    "content/blobs/*/*": _blob,
}
"""What the state directory holds, by glob pattern; unpacked files come before blobs."""


def _record(type: str, description: str, path: Path, witness: Path | None = None) -> CacheRecord:
    status = used = path.lstat()
    if witness is not None and witness.exists():
        used = witness.lstat()
    else:
        witness = path
    name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:25]
    return CacheRecord(
        name,
        type,
        description,
        path,
        witness,
        status.st_blocks * 512,
        created=min(status.st_ctime, status.st_mtime),
        last_used=used.st_mtime,
    )


def _tree_size(place: Path, kept: Path, changed: float) -> int:
    """Bytes on the disk below `place`: those that `kept` says if it was written after the last
    change, else counted and kept there.
    """
    with suppress(OSError, ValueError):
        if kept.stat().st_mtime > changed:
            return int(read_file(kept))
    size = _counted_size(place)
    with suppress(OSError):
        write_file(kept, b"%d" % size)
    return size


def _counted_size(place: Path) -> int:
    """Bytes on the disk below `place`, each hard-linked file counted once."""
    size, seen = 0, set[int]()
    pending = [str(place)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_directory:
                    pending.append(entry.path)
                elif status.st_nlink > 1 and status.st_ino in seen:
                    continue
                seen.add(status.st_ino)
                size += status.st_blocks * 512
    return size


def _running_since(state: Path, besides: Path | None = None) -> float:
    """When the oldest running build started; infinite if none runs."""
    own = besides.with_suffix(".lock") if besides is not None else None
    found = [float("inf")]
    for lock in (state / "tmp").glob("*.lock"):
        if lock != own and _is_held(lock):
            with suppress(FileNotFoundError):
                found.append(lock.stat().st_mtime)
    return min(found)


def _is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file alone. Others that ask, or open the file to go on
    with a run, are not disturbed.
    """
    with suppress(OSError):
        return is_locked(path)
    return False


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file, alone or together with others."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def _evict(
    record: CacheRecord, recency: Recency, since: Callable[[], float], scratch: Path
) -> bool:
    trash = scratch / f"evicted-{os.urandom(6).hex()}"
    if record.witness.suffix == ".lock":
        gone = _evict_locked(record, trash)
    else:
        gone = recency.evict(record.path, record.witness, since, trash)
    if not gone:
        return False
    if trash.is_dir() and not trash.is_symlink():
        remove_tree(trash)
    else:
        trash.unlink(missing_ok=True)
    return True


def _evict_locked(record: CacheRecord, trash: Path) -> bool:
    """Move a cache mount or context away under its lock; False while it is in use."""
    with try_lock(record.witness) as locked:
        if locked:
            with suppress(FileNotFoundError):
                os.rename(record.path, trash)
            record.witness.with_suffix(".size").unlink(missing_ok=True)
        return locked


def _disk(state: Path) -> os.statvfs_result:
    return os.statvfs(next(place for place in (state, *state.parents) if place.exists()))


def total(records: Iterable[CacheRecord]) -> int:
    """Bytes on the disk of all."""
    return sum(record.size for record in records)
