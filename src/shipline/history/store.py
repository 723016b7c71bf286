"""The runs of a state directory."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shipline.errors import ContentError, NotFound, UsageError
from shipline.events import Event
from shipline.files import replace_file
from shipline.history.recorder import DOCUMENTS, EVENTS, RECORD, plain, read_events
from shipline.history.records import LATEST, RunState, RunSummary, decode_summary, encode_summary
from shipline.tasks import directory_lock, is_locked
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.history.documents import ImageDocument
    from shipline.history.views import RunDetail

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\Z")
_SET_ASIDE = re.compile(r"\.[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\.[0-9a-f]+\Z")
_SHIPPED, _SHIPPING = "run.json", "lock"
_FILES = (RECORD, EVENTS, DOCUMENTS)
_DIGITS = 9
_SECOND = len("20261126-112100")
_DAMAGE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
"""What goes wrong with the records of others, MsgspecError being a ValueError."""
_LIST_HINT = "`shipline history ls` lists them"


class RunHistory:
    """All runs that are kept in `runs/` of a state directory; ids begin with the time in UTC, so
    that their order is that of the runs.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        self.root = state / "runs"
        self.clock = clock

    def new_id(self) -> str:
        return new_run_id(self.clock())

    def ids(self) -> list[str]:
        """The newest first; those of runs with and without a record. Raises NotFound if the
        directory cannot be read.
        """
        try:
            names = filter(is_run_id, os.listdir(self.root))
            return sorted(names, reverse=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise NotFound(f"the runs cannot be read: {error}", code="run-unreadable") from None

    def directory(self, run: str) -> Path:
        """The directory of a run. Raises UsageError for an invalid identifier."""
        return run_directory(self.root, run, _LIST_HINT)

    def ls(self) -> Iterator[RunSummary]:
        """The summaries of all runs with a readable record, the newest first; each is read when it
        is asked for.
        """
        for run in self.ids():
            with suppress(NotFound, UsageError):
                yield self.summary(run)

    def summary(self, run: str) -> RunSummary:
        """What a list shows of a run; `interrupted` if its process died. Raises UsageError if there
        is none, NotFound if it cannot be read.
        """
        path = self.directory(run) / RECORD
        try:
            found = decode_summary(path.read_bytes())
        except FileNotFoundError:
            raise _unknown(run) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise NotFound(
                f"{run}: the record is damaged: {error}",
                code="run-unreadable",
                hint=f"shipline history rm {run}",
            ) from None
        if found.state is RunState.RUNNING and not self.alive(run):
            return replace(found, state=RunState.INTERRUPTED)
        return found

    def read(self, run: str) -> RunDetail:
        """A run with its steps. Raises UsageError, NotFound."""
        from shipline.history.views import detail_of

        summary, events = self.summary(run), self.events(run)
        with _reading(run):
            return detail_of(summary, events)

    def events(self, run: str) -> list[Event]:
        """All events of a run, so far. Raises UsageError if there is none, NotFound if they are
        damaged.
        """
        path = self.directory(run) / EVENTS
        with _reading(run):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                if path.parent.exists():
                    raise
                raise _unknown(run) from None
            found, _ = read_events(plain(data))
            if not all(0 <= event.at < LATEST for event in found):
                raise ValueError("one is at no time")
            return found

    def alive(self, run: str) -> bool:
        """Whether a process is recording the run, as far as this user may know."""
        directory = self.directory(run)
        with suppress(OSError):
            return is_locked(directory / EVENTS) or is_locked(directory / _SHIPPING)
        return False

    def resolve(self, text: str = "") -> str:
        """The run that `text` means: its id, or the beginning or end of it; the reference of its
        build; `^2` for the second before the newest; by default, or for `latest`, the newest.
        Raises UsageError if there is none, or several.
        """
        if text in ("", "latest") or text.startswith("^"):
            return self._at(text)
        matching = [one for one in self.ids() if one.startswith(text) or one.endswith(text)]
        if not matching:
            name = text.rpartition("/")[2]
            matching = [one.id for one in self.ls() if one.ref.rpartition("/")[2] == name]
        if len(matching) > 1:
            raise UsageError(
                f"{text!r} matches {len(matching)} runs",
                code="run-ambiguous",
                hint=", ".join(matching[:5]),
            )
        if not matching:
            raise UsageError(f"there is no run {text!r}", code="run-unknown", hint=_LIST_HINT)
        return matching[0]

    def _at(self, text: str) -> str:
        digits = text[1:] if text.startswith("^") else "0"
        if not digits.isdecimal() or len(digits) > _DIGITS:
            raise UsageError(
                f"{text!r} is not a run",
                code="run-unknown",
                hint="write ^1 for the run before the last",
            )
        for run in islice(self.ls(), int(digits), None):
            return run.id
        raise UsageError(
            f"there is no run {text}" if text else "there are no runs yet",
            code="run-unknown",
            hint="`shipline build`, `bake` and `ship` record theirs",
        )

    def documents(self, run: str) -> list[ImageDocument]:
        """Documents of the images that a run made, as far as they were kept."""
        from shipline.history.documents import read_documents

        found = read_documents(self.directory(run))
        platforms = self.summary(run).platforms
        if len(platforms) != 1:
            return found
        return [replace(one, platform=one.platform or platforms[0]) for one in found]

    def previous(self, run: RunSummary) -> RunSummary | None:
        """The run of the same thing before this one."""
        earlier = (one for one in self.ls() if one.id < run.id)
        return next((one for one in earlier if one.is_same_thing(run)), None)

    def files(self, run: str) -> list[Path]:
        """The files of the record of a run: what `add` takes."""
        directory = self.directory(run)
        return [path for name in _FILES if (path := directory / name).is_file()]

    def add(self, files: Mapping[str, bytes]) -> str:
        """Add a run from elsewhere, whose files are given by name; its id here, a new one if there
        is such a run. Raises ContentError for what is none.
        """
        try:
            found = decode_summary(files[RECORD])
        except (KeyError, msgspec.MsgspecError) as error:
            raise ContentError(
                f"this is not a record of a run: {error}", code="run-unreadable"
            ) from None
        run = found.id
        if not is_run_id(run) or self.directory(run).exists():
            second = run if is_run_id(run) else self.new_id()
            run = f"{second[:_SECOND]}-{os.urandom(3).hex()}"
        directory = self.directory(run)
        directory.mkdir(mode=0o700, parents=True)
        for name in _FILES:
            if name in files and name != RECORD:
                replace_file(directory / name, files[name])
        replace_file(directory / RECORD, encode_summary(replace(found, id=run)))
        return run

    def keep_within(self, runs: int, size: int, latest: str) -> None:
        """Remove the oldest runs that are more than `runs`, or whose files have more than `size`
        bytes with those of the newer ones. Those of `ship` stay, which are kept by its own setting,
        and so does what is running. `latest` is the run that just ended: the sizes are added up
        where it is worth it. Raises no OSError.
        """
        worth = _size(self.root / latest) >= size // runs
        try:
            found = self.ids()
        except NotFound:
            return
        if len(found) <= runs and not worth:
            return
        kept = [one for one in found if not os.path.exists(f"{self.root}/{one}/{_SHIPPED}")]
        within = runs
        if worth:
            totals = accumulate(_size(self.root / one) for one in kept[:runs])
            within = sum(total <= size for total in totals)
        for run in kept[within:]:
            if run != latest:
                with suppress(UsageError, OSError):
                    self.remove(run)

    def remove(self, run: str) -> None:
        """Delete a run. Raises UsageError while it is running, and if it is another user's."""
        directory = self.directory(run)
        try:
            with directory_lock(self.root):  # none begins meanwhile
                if self.alive(run):
                    raise UsageError(
                        f"{run} is running",
                        code="run-in-use",
                        hint="interrupt it, or wait until it ends",
                    )
                set_aside(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise UsageError(
                f"{run} cannot be removed: {error.strerror}",
                code="run-in-use",
                hint="it may belong to another user",
            ) from None
        delete_set_aside(self.root)


def set_aside(directory: Path) -> None:
    """Take away the directory of a run at once, so that no other process reads part of it. Raises
    OSError.
    """
    directory.rename(directory.with_name(f".{directory.name}.{os.urandom(4).hex()}"))


def delete_set_aside(root: Path) -> None:
    """Delete what was set aside in `root`, also by processes that died before they did."""
    with suppress(OSError):
        for name in filter(_SET_ASIDE.match, os.listdir(root)):
            shutil.rmtree(root / name, ignore_errors=True)


def _unknown(run: str) -> UsageError:
    return UsageError(f"there is no run {run}", code="run-unknown", hint=_LIST_HINT)


@contextmanager
def _reading(run: str) -> Iterator[None]:
    """What is wrong with the events of a run, that others may have made, becomes NotFound."""
    try:
        yield
    except _DAMAGE as error:
        raise NotFound(
            f"{run}: its events cannot be read: {error}",
            code="run-unreadable",
            hint=f"shipline history rm {run}",
        ) from None


def is_run_id(name: str) -> bool:
    """Whether a name in `runs/` is that of a run."""
    return _ID.match(name) is not None


def run_directory(root: Path, run: str, hint: str) -> Path:
    """The directory of a run in `root`. Raises UsageError for an invalid identifier."""
    if not is_run_id(run):
        raise UsageError(f"{run!r} is not a run", code="run-unknown", hint=hint)
    return root / run


def new_run_id(at: float) -> str:
    """An identifier: the second in UTC, three digits of what follows, and three at random."""
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(at))
    return f"{moment}-{int(at % 1 * 4096):03x}{os.urandom(2).hex()[:3]}"


def _size(directory: Path) -> int:
    """The bytes of the files in a directory."""
    with suppress(OSError), os.scandir(directory) as found:
        return sum(one.stat(follow_symlinks=False).st_size for one in found)
    return 0
