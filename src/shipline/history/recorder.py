"""The sink that keeps a run."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import msgspec

from shipline.events import Event, Finished, Logged, Progress, Started, Warned
from shipline.files import replace_file
from shipline.history.records import LiveSummary, RunSummary, encode_summary
from shipline.oci import Descriptor
from shipline.tasks import directory_lock
from shipline.values import replace

EVENTS, RECORD, DOCUMENTS = "events", "record.json", "documents"
_ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_LENGTH = 4  # bytes
_WORTH = 1 << 16  # bytes
_RECORD_S = 1.0
_PROGRESS_S = 0.5
_OUTPUT_LIMIT = 64 << 20  # bytes of output of all commands
_UNPACKED_LIMIT = 512 << 20  # bytes; several times what the output above needs
_CUT = "the output is longer than 64 MB: the rest is not kept"


class RunRecorder:
    """A sink that writes the events and the record of `run` to `directory`, which it makes.

    Raises OSError if that cannot be written; later errors are in `failure`, and end the recording.
    A run that is resumed goes on with the events that are there.
    """

    def __init__(
        self, directory: Path, run: RunSummary, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failure: OSError | None = None
        self._directory = directory
        self._summary = LiveSummary(run)
        self._clock = clock
        self._encoder = msgspec.msgpack.Encoder()
        self._recorded = clock()
        self._output = 0
        self._shown: dict[int, float] = {}  # when the progress of a span was last written
        self._held: dict[int, Progress] = {}  # progress that came too soon after that
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with directory_lock(directory.parent, fcntl.LOCK_SH):  # not removed before it is locked
            directory.mkdir(mode=0o700, exist_ok=True)
            self._file, self._offset = _opened(directory)
            self._write_record()

    @property
    def run(self) -> RunSummary:
        """The record as it is now."""
        return self._summary.run

    def __call__(self, event: Event) -> None:
        if self.failure is not None:
            return
        try:
            self._take(self._moved(event))
        except OSError as error:
            self.failure = error

    def close(self) -> None:
        """Compress the events, and write the record for the last time."""
        if self.failure is not None:
            self._file.close()
            return
        try:
            self._write_record()
            with self._file:
                self._file.flush()
                _compress(self._directory)
        except OSError as error:
            self.failure = error

    def keep(self, documents: Mapping[Descriptor, bytes]) -> None:
        """Keep documents of the images that the run made. Raises nothing."""
        if documents and self.failure is None:
            from shipline.history.documents import write_documents

            try:
                write_documents(self._directory, documents)
            except OSError as error:
                self.failure = error

    def _moved(self, event: Event) -> Event:
        """The event with a span that no earlier process of the run has used."""
        if not (offset := self._offset):
            return event
        if isinstance(event, Started) and event.parent:
            event = replace(event, parent=event.parent + offset)
        return replace(event, span=event.span + offset)

    def _take(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress(event)
            return
        if isinstance(event, Logged):
            self._logged(event)
            return
        if isinstance(event, Finished) and (held := self._held.pop(event.span, None)):
            self._write(held)
        self._write(event)
        self._summary.take(event)
        now = self._clock()
        if now - self._recorded > _RECORD_S:
            self._recorded = now
            self._write_record()

    def _progress(self, event: Progress) -> None:
        now = self._clock()
        if now - self._shown.get(event.span, 0.0) < _PROGRESS_S:
            self._held[event.span] = event
            return
        self._shown[event.span] = now
        self._held.pop(event.span, None)
        self._write(event)

    def _logged(self, event: Logged) -> None:
        before, self._output = self._output, self._output + len(event.data)
        if self._output > _OUTPUT_LIMIT:
            if before <= _OUTPUT_LIMIT:
                self._write(Warned(event.span, event.at, _CUT))
            return
        self._write(event)

    def _write(self, event: Event) -> None:
        self._file.write(framed(self._encoder.encode(event)))
        self._file.flush()  # 1 us, for those who follow the run: no later event is certain

    def _write_record(self) -> None:
        replace_file(self._directory / RECORD, encode_summary(self._summary.run))


def _opened(directory: Path) -> tuple[BinaryIO, int]:
    """The file for events, locked, with those of before if they can be read; their highest span.
    Raises BlockingIOError if another process has it.
    """
    path = directory / EVENTS
    before, last = b"", 0
    if path.exists():
        with path.open("rb") as other:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
            with suppress(ValueError, msgspec.MsgspecError):
                data = plain(other.read())
                events, end = read_events(data)
                before, last = data[:end], max((one.span for one in events), default=0)
    part = path.with_name(f".{EVENTS}")
    file = part.open("wb", buffering=1 << 16)
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(before)
    file.flush()
    part.replace(path)
    return file, last


def _compress(directory: Path) -> None:
    path = directory / EVENTS
    if path.stat().st_size >= _WORTH:
        replace_file(path, packed(path.read_bytes()))


def packed(data: bytes) -> bytes:
    """Compressed data, or the same where it is not worth loading the compressor."""
    if len(data) < _WORTH:
        return data
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=3).compress(data)


def plain(data: bytes) -> bytes:
    """What `packed` was given. Raises ValueError for what is damaged."""
    if not data.startswith(_ZSTD):
        return data
    from zstandard import ZstdDecompressor, ZstdError

    try:
        with ZstdDecompressor().stream_reader(data) as reader:
            found = reader.read(_UNPACKED_LIMIT + 1)
    except ZstdError as error:
        raise ValueError(str(error)) from None
    if len(found) > _UNPACKED_LIMIT:
        raise ValueError(f"more than {_UNPACKED_LIMIT >> 20} MB")
    return found


_LOGGED = b"\xa4type\xa6Logged"  # after the size of the map


def framed(event: bytes) -> bytes:
    """An encoded event as files have it: after its length."""
    return len(event).to_bytes(_LENGTH, "little") + event


def read_events(data: bytes, *, output: bool = True) -> tuple[list[Event], int]:
    """The whole events at the beginning of `data`, without those of output if that is not wanted,
    and where the rest begins. Raises MsgspecError for what is damaged.
    """
    decode = msgspec.msgpack.Decoder(Event).decode
    found: list[Event] = []
    place, view = 0, memoryview(data)
    while place + _LENGTH <= len(data):
        end = place + _LENGTH + int.from_bytes(view[place : place + _LENGTH], "little")
        if end > len(data):
            break
        event = view[place + _LENGTH : end]
        if output or event[1 : 1 + len(_LOGGED)] != _LOGGED:
            found.append(decode(event))
        place = end
    return found, place
