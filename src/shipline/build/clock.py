"""The time that a build writes into images: the wall clock, or SOURCE_DATE_EPOCH."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.request import BuildRequest
from shipline.errors import FlagConflict, UsageError
from shipline.oci import Platform
from shipline.values import replace

EPOCH = "SOURCE_DATE_EPOCH"
EPOCH_HINT = f"give seconds since 1970: {EPOCH}=$(git log -1 --format=%ct)"
_YEAR_9999 = 253370764800  # seconds since 1970
_SECOND = 1_000_000_000  # nanoseconds


class Clock(Struct, frozen=True):
    """`epoch` is Unix time in seconds, None for the wall clock; `clamp` limits file times to it.

    See reproducible-builds.org/specs/source-date-epoch.
    """

    epoch: int | None = None
    clamp: bool = False

    def now_ns(self) -> int:
        return time.time_ns() if self.epoch is None else self.epoch * _SECOND

    def copied_ns(self) -> int:
        """The time of what COPY and ADD create: as in BuildKit, the epoch only dates it where file
        times are limited.
        """
        return self.now_ns() if self.clamp else time.time_ns()

    def now(self) -> str:
        """RFC 3339 with nanoseconds, in UTC."""
        return rfc3339_ns(self.now_ns())

    @property
    def variant(self) -> str:
        """Separates layers with limited file times in the cache; empty without a limit."""
        return f"until {self.epoch}" if self.clamp and self.epoch is not None else ""

    def clamp_ns(self, time_ns: int) -> int:
        """The time of a file: at most the epoch if `clamp` is set."""
        if not self.clamp or self.epoch is None:
            return time_ns
        return min(time_ns, self.epoch * _SECOND)


def rfc3339_ns(time_ns: int) -> str:
    seconds, fraction = divmod(time_ns, _SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def epoch_of(request: BuildRequest, dockerfile: df.Dockerfile) -> str:
    """SOURCE_DATE_EPOCH from a build argument, or else from an ARG before the first FROM; empty if
    not set. Raises DockerfileError for a global ARG whose default cannot be expanded.
    """
    if EPOCH in request.build_args:
        return request.build_args[EPOCH]
    arguments = df.PlatformArgs(str(request.target_platforms[0]), str(Platform.local()))
    return df.open_scope(dockerfile, arguments, build_args=request.build_args).variables.get(
        EPOCH, ""
    )


def clock_of(request: BuildRequest, dockerfile: df.Dockerfile) -> Clock:
    """The clock of a build, after `with_seconds`. The epoch of an output comes first, and an empty
    one limits no file times. Raises UsageError for outputs that differ in it.
    """
    own = {output.epoch for output in request.outputs if output.epoch is not None}
    if len(own) > 1:
        raise FlagConflict("--output: the outputs of a build share one source-date-epoch")
    written = epoch_of(request, dockerfile)
    text = next(iter(own), written)
    if not (text or written):
        return Clock()
    clamp = bool(text) and any(output.rewrite_timestamp for output in request.outputs)
    return Clock(int(text or written), clamp)


def with_seconds(
    request: BuildRequest,
    dockerfile: df.Dockerfile,
    time_of: Callable[[str, df.Stage], int],
    time_of_context: Callable[[str], int | None] = lambda name: None,
) -> tuple[BuildRequest, df.Dockerfile]:
    """Request and Dockerfile with a SOURCE_DATE_EPOCH in seconds, or an empty one, instead of
    `context` or the name of a stage or context, whose times `time_of` and `time_of_context` return.
    Raises UsageError, DockerfileError for other text.
    """
    written = epoch_of(request, dockerfile)
    stage = dockerfile.find(written) if written else None
    if stage is not None and not written.isdecimal() and written not in request.build_contexts:
        seconds = str(time_of(written, stage))
    else:
        seconds = _seconds(written, request, time_of_context)
    if seconds == written:
        return request, dockerfile
    if EPOCH in request.build_args:
        return replace(request, build_args={**request.build_args, EPOCH: seconds}), dockerfile
    lines = tuple(_with_default(line, seconds) for line in dockerfile.global_args)
    return request, replace(dockerfile, global_args=lines)


def _with_default(line: df.Arg, seconds: str) -> df.Arg:
    args = (replace(one, default=seconds) if one.name == EPOCH else one for one in line.args)
    return replace(line, args=tuple(args))


def _seconds(text: str, request: BuildRequest, time_of_context: Callable[[str], int | None]) -> str:
    if not text:
        return text
    if re.fullmatch(r"-?[0-9]+", text):
        if abs(int(text)) >= _YEAR_9999:
            raise UsageError(
                f"{EPOCH} is out of range: {text}", code="source-date-epoch", hint=EPOCH_HINT
            )
        return text
    if text == "context":
        return "" if request.context.newest is None else str(request.context.newest)
    if text in request.build_contexts:
        found = time_of_context(text)  # a directory or an image has no time of its own
        return "" if found is None else str(found)
    raise UsageError(
        f"invalid {EPOCH}: {text}: neither a number nor a context or stage",
        code="source-date-epoch",
        hint=EPOCH_HINT,
    )
