"""Blobs on their way down, continued with Range after a broken connection, mirrors first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.oci import Descriptor
from shipline.registry.channel import Channel
from shipline.registry.http import pause

if TYPE_CHECKING:
    from shipline.registry.transport import Response

_SKIP = 1 << 20  # bytes


class Download:
    """Unverified bytes of one blob, in order, from as many connections as it takes.

    Give it to a VerifiedReader: the digest is over the whole, whoever sent the parts. The next
    of `channels` is used when one has failed.
    """

    def __init__(self, channels: Sequence[Channel], target: Descriptor) -> None:
        self._channels = list(channels)
        self._target = target
        self._position = 0
        self._failures = 0
        self._mirrors: list[ShiplineError] = []
        self._ranges = True
        self._answer: Response | None = None

    @property
    def channel(self) -> Channel:
        """Who is sending."""
        return self._channels[0]

    def open(self) -> None:
        """Send the request. Raises NotFound if nobody has the blob."""
        while self._answer is None:
            try:
                self._answer = self._request()
            except (RegistryError, AuthError, NotFound) as error:
                if len(self._channels) == 1:
                    with blaming_mirrors(self._mirrors):
                        raise
                self._next(error)

    def read(self, size: int = -1, /) -> bytes:
        while True:
            self.open()
            assert self._answer is not None
            try:
                data = self._answer.read(size)
            except RegistryError as error:
                self._broken(error)
                continue
            if data or not size or self._position >= self._target.size:
                self._position += len(data)
                self._failures = 0 if data else self._failures
                return data
            if self._failures:  # twice short at the same place: that is all there is
                return b""
            self._failures += 1
            self._drop()

    def close(self) -> None:
        self._drop()

    def _request(self) -> Response:
        """The answer, standing at the position."""
        start = self._position if self._ranges else 0
        answer = self.channel.call(
            "GET",
            self.channel.blob(self._target.digest),
            expect={200, 206, 404, 416} if start else {200, 404},
            doing=f"fetching {self._target.digest}",
            headers={"Range": f"bytes={start}-"} if start else None,
            lane="read",
        )
        try:
            return self._placed(answer, start)
        except BaseException:
            answer.close()
            raise

    def _placed(self, answer: Response, start: int) -> Response:
        if answer.status == 404:
            raise _missing(self.channel, self._target)
        if answer.status == 206 and _first(answer.header("Content-Range")) == start:
            return answer
        if answer.status != 200:  # an answer to another question: ask for all of it instead
            self._ranges = False
            answer.close()
            return self._request()
        left = self._position
        while left and (data := answer.read(min(_SKIP, left))):
            left -= len(data)
        return answer

    def _broken(self, error: RegistryError) -> None:
        self._drop()
        self._failures += 1
        if error.retriable and self._failures < self.channel.gate.tries:
            pause(self._failures, error)
        elif len(self._channels) > 1:
            self._next(error)
        else:
            with blaming_mirrors(self._mirrors):
                raise error

    def _next(self, error: ShiplineError) -> None:
        self._mirrors.append(error)
        self._drop()
        self._channels.pop(0)
        self._failures = 0
        self._ranges = True

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


@contextmanager
def blaming_mirrors(failures: Sequence[ShiplineError]) -> Iterator[None]:
    """Adds what the mirrors said before to the error with which the registry ends the block."""
    try:
        yield
    except ShiplineError as error:
        for failure in failures:
            error.add_note(f"a mirror before: {failure.message}")
        absent = failures and all(isinstance(one, NotFound) for one in failures)
        if absent and isinstance(error, RegistryError) and not error.status:
            error.hint = f"no mirror has it: check the name, and the way to {error.host}"
        raise


def _missing(channel: Channel, target: Descriptor) -> NotFound:
    hint = ""
    if target.urls:
        hint = "its bytes are kept elsewhere (urls of the descriptor), where nobody looks for them"
    return NotFound(f"{target.digest} is not in {channel.host}/{channel.repository}", hint=hint)


def _first(content_range: str) -> int:
    found = re.match(r"bytes ([0-9]{1,18})-", content_range)
    return int(found[1]) if found else -1
