"""Results of earlier builds: from the key of some work to the layer that it made.

A key covers everything that the work depends on, so a hit is as good as doing it again. A hit whose
content no longer exists is a miss, and so is a damaged record.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from shipline.content import Exister, seal, unseal
from shipline.errors import ConfigError
from shipline.layer import Layer
from shipline.metadata import DamagedRecords, Records, SqliteRecords, walk
from shipline.oci import Descriptor, Digest
from shipline.tasks import Once, locked

_KIND, _REMOTE, _WORK = b"layer-result-1\n", b"remote-1\n", b"known-work-1\n"
_FILES, _KNOWN, _OUTLINES = "remote file", "known work", "outlines"


class LayerResult(Struct, frozen=True):
    """The layer that a step made, which may be empty, and when (RFC 3339).

    `level` is the level of its compression, None if it is not known.
    """

    layer: Layer
    created: str
    level: int | None = None


class RemoteFile(Struct, frozen=True):
    """A file that was fetched over HTTP; `etag` and `modified` are its headers, empty without."""

    content: Descriptor
    etag: str = ""
    modified: str = ""


@contextmanager
def open_records(path: Path, on_damage: Callable[[Path], object]) -> Iterator[Records]:
    """The records of the cache; a damaged file is removed when it is noticed."""
    try:
        records = SqliteRecords(path)
    except (DamagedRecords, ConfigError):  # or of another version
        SqliteRecords.remove_unusable(path)
        on_damage(path)
        records = SqliteRecords(path)
    with closing(records):
        try:
            yield records
        except OSError as error:
            if error.errno == errno.EIO and error.filename == str(path):  # or it cannot be read
                records.remove()
                on_damage(path)
            raise


def forget_missing(records: Records, content: Exister, has_files: Callable[[Digest], bool]) -> None:
    """Delete the records of layers and files that are no longer in `content`; `has_files` says
    whether the files of a layer are here, from which its blob is made again.
    """
    for key, value in walk(records, ()):
        if key[0] == _OUTLINES:
            continue
        if key[0] == _KNOWN:
            steps = _steps(value)
            if not steps or any(records.get((space, one)) is None for space, one, _ in steps):
                records.write({key: None}, durable=False)
            continue
        sealed = unseal(_REMOTE if key[0] == _FILES else _KIND, value)
        record = {} if sealed is None else json.loads(bytes(sealed))
        target = record.get("layer") or record.get("content")
        if target is not None and content.exists(Descriptor.from_json(target)):
            continue
        if "diff_id" not in record or not has_files(Digest.parse(record["diff_id"])):
            records.write({key: None}, durable=False)


def results(records: Records) -> Iterator[LayerResult]:
    """The results of all builds, also those whose layer no longer exists."""
    for key, value in walk(records, ()):
        sealed = unseal(_KIND, value) if key[0] not in (_FILES, _KNOWN, _OUTLINES) else None
        if sealed is not None:
            yield _result(json.loads(bytes(sealed)))


def _steps(value: bytes) -> list[tuple[str, str, str]]:
    """The steps of known work: space and key of the result of each, and its diff ID."""
    sealed = unseal(_WORK, value)
    return [] if sealed is None else [(*one,) for one in json.loads(bytes(sealed))]


def _result(record: dict[str, Any]) -> LayerResult:
    layer = Layer(Descriptor.from_json(record["layer"]), Digest.parse(record["diff_id"]))
    return LayerResult(layer, record["created"], record.get("level"))


class Running:
    """What is being made, and was: layers, and outlines of their keys."""

    def __init__(self) -> None:
        self.layers: Once[tuple[LayerResult, bool]] = Once()
        self.outlines: Once[None] = Once()


class Cache:
    """Results by key, durable and shared by all builds with the state directory `state`.

    `variant` separates builds that make different layers from the same work. `on_result` is called
    with a result before `content` is asked whether its layer exists. `running` is shared by the
    builds of one run, so that equal work is done once, also where earlier results do not count.
    `remote` is asked for results that are missing here; they are stored once their bytes were
    verified (`keep_verified`). `used` are the results by key that a build made or found.
    """

    def __init__(
        self,
        records: Records,
        content: Exister,
        state: Path,
        variant: str = "",
        on_result: Callable[[LayerResult], object] = lambda result: None,
        running: Running | None = None,
    ) -> None:
        self._records = records
        self._content = content
        self._on_result = on_result
        self._state = state
        self._space = f"layers {variant}".rstrip()
        self._running = running or Running()
        self.remote: Callable[[str], LayerResult | None] | None = None
        self.used: dict[str, LayerResult] = {}
        self._claimed: dict[str, LayerResult] = {}

    def exclusive(self, key: str) -> AbstractContextManager[None]:
        """Hold a lock for the work of `key`, against other threads and processes; a process that
        dies releases it. Waiting is interruptible.

        There is no deadlock as long as a holder locks only work that is part of its own.
        """
        one_byte = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, int(key[:15], 16), 1, 0)

        def acquire(fd: int) -> None:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, one_byte)  # fcntl_locking(2)

        return locked(self._state / "work.lock", acquire)

    def once(
        self, key: str, make: Callable[[], LayerResult], *, fresh: bool
    ) -> tuple[LayerResult, bool]:
        """The result for `key`: of an earlier build, of a step or build that is making it now, or
        of `make`; and whether it was found. `fresh` ignores earlier builds.
        """

        def find_or_make() -> tuple[LayerResult, bool]:
            if fresh:
                return kept(make()), False
            if found := self.get(key):
                return found, True
            with self.exclusive(key):
                if found := self.get(key):  # another process made it meanwhile
                    return found, True
                return kept(make()), False

        def kept(result: LayerResult) -> LayerResult:
            self.put(key, result)
            return result

        result, found_it = self._running.layers.get((self._space, key, fresh), find_or_make)
        self.used[key] = result
        return result, found_it

    def make_first(
        self, outline: str, make: Callable[[], tuple[str, LayerResult]], *, fresh: bool
    ) -> LayerResult | None:
        """What `make` returns with its key, if no layer with this outline was made before; None if
        there may be one, and if another step of this build just made one. `fresh` ignores earlier
        builds.

        The outline is what can be known of a key without reading files. `remote` may have a layer
        with any.
        """
        if self.remote is not None:
            return None
        mine: list[LayerResult] = []

        def find_or_make() -> None:
            with self.exclusive(outline):
                if not fresh and self._records.get((_OUTLINES, self._space, outline)) is not None:
                    return
                key, result = make()
                self.add_outline(outline)
                self.put(key, result)
            self._running.layers.get((self._space, key, fresh), lambda: (result, False))
            mine.append(result)

        self._running.outlines.get((self._space, outline, fresh), find_or_make)
        return mine[0] if mine else None

    def add_outline(self, outline: str) -> None:
        """Remember that a layer with this outline was made."""
        self._records.write({(_OUTLINES, self._space, outline): b""}, durable=False)

    def get(self, key: str) -> LayerResult | None:
        found = self._kept(key)
        if found is not None:
            self.used[key] = found
        elif self.remote is not None and (found := self.remote(key)) is not None:
            self.used[key] = self._claimed[key] = found
        return found

    def keep_verified(self, is_verified: Callable[[Layer], bool]) -> None:
        """Keep those results of `remote` whose layers are what they are said to be."""
        for key, result in self._claimed.items():
            if is_verified(result.layer):
                self.put(key, result)

    def know(self, identities: Iterable[str], results: Sequence[LayerResult]) -> None:
        """Remember which of the results in `used` some work had, one for each step, under names
        that it has outside of this machine. Does nothing where one is not in `used`.
        """
        keys = {result.layer.descriptor: key for key, result in self.used.items()}
        steps = [
            (self._space, keys.get(one.layer.descriptor, ""), str(one.layer.diff_id))
            for one in results
        ]
        if all(key for _, key, _ in steps):
            value = seal(_WORK, json.dumps(steps).encode())
            self._records.write({(_KNOWN, one): value for one in identities}, durable=False)

    def known(self, identity: str) -> tuple[LayerResult, ...]:
        """The results that `know` recorded, if all of them still exist; else none."""
        value = self._records.get((_KNOWN, identity))
        steps = [] if value is None else _steps(value)
        found = []
        for space, key, diff_id in steps:
            result = self._kept(key) if space == self._space else None
            if result is None or str(result.layer.diff_id) != diff_id:
                return ()
            found.append((key, result))
        self.used.update(found)
        return tuple(result for _, result in found)

    def _kept(self, key: str) -> LayerResult | None:
        record = self._read(_KIND, self._space, key)
        if record is None:
            return None
        result = _result(record)
        self._on_result(result)
        return result if self._content.exists(result.layer.descriptor) else None

    def put(self, key: str, result: LayerResult) -> None:
        self.used[key] = result
        record = {
            "created": result.created,
            "layer": result.layer.descriptor.to_json(),
            "diff_id": str(result.layer.diff_id),
            "level": result.level,
        }
        value = seal(_KIND, json.dumps(record).encode())
        self._records.write({(self._space, key): value})

    def remote_file(self, url: str) -> RemoteFile | None:
        """What `url` returned when it was last fetched, if the content is still here."""
        record = self._read(_REMOTE, _FILES, url)
        if record is None:
            return None
        file = RemoteFile(
            Descriptor.from_json(record["content"]), record["etag"], record["modified"]
        )
        return file if self._content.exists(file.content) else None

    def put_remote_file(self, url: str, file: RemoteFile) -> None:
        """Remember what `url` returned."""
        record = {"content": file.content.to_json(), "etag": file.etag, "modified": file.modified}
        value = seal(_REMOTE, json.dumps(record).encode())
        self._records.write({(_FILES, url): value}, durable=False)

    def _read(self, kind: bytes, space: str, key: str) -> dict[str, Any] | None:
        """A record, None if it is missing or damaged."""
        found = self._records.get((space, key))
        content = None if found is None else unseal(kind, found)
        return None if content is None else json.loads(bytes(content))
