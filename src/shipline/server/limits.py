"""What requests may use up of the node: threads, time, memory, shared out by the address they
really come from.

A client that must send or take bytes and moves fewer than `rate` a second over a window is cut off.
The kernel counts what a connection moves (tcp(7), TCP_INFO), so that buffers on the way count for
nobody.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar

from shipline.net import read_address
from shipline.server.http import CPU, DISK, RESERVED, Step
from shipline.server.problems import Problem


@dataclass(frozen=True, slots=True)
class Network:
    """A block of addresses in CIDR notation, or one address."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        ipaddress.ip_network(text)
        return cls(text)

    def holds(self, address: str) -> bool:
        """False for what is no address; IPv4 in IPv6 form is IPv4."""
        found = read_address(address)
        return found is not None and found in ipaddress.ip_network(self.text)


def origin(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """The address of the client: the peer's, or where that is a trusted proxy the last one in
    X-Forwarded-For that no trusted proxy has written about itself.
    """
    address = peer
    for text in reversed((forwarded or "").split(",")):
        if not any(network.holds(address) for network in trusted):
            return address
        found = read_address(text)
        if found is None:
            return address
        address = str(found)
    return address


def neighbourhood(address: str) -> str:
    """What one client can choose its address from: an IPv6 network of 64 bits."""
    found = read_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address


_log = logging.getLogger(__name__)
_THREADS = {DISK: 16, CPU: 2, RESERVED: 1}
_SHARE = {DISK: 12, CPU: 1, RESERVED: 1}  # threads that requests of one address get at once
_HELD = {"address": 32 << 20, "all": 128 << 20}  # bytes of small bodies in memory
_SMALL = 64 << 10  # bytes that a body may always have
_TCP_INFO_BYTES = 136
_MOVED = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_MOVED_AT = 120
T = TypeVar("T")
near = lru_cache(4096)(neighbourhood)


class ThreadPools:
    """Threads for what the event loop must not do. Requests of one address (a network of IPv6)
    get a share of them, and wait for each other beyond it.
    """

    def __init__(self) -> None:
        self._threads = {
            place: ThreadPoolExecutor(number, thread_name_prefix=place.value)
            for place, number in _THREADS.items()
        }
        self._turns: dict[tuple[Step, str], _Turns] = {}

    async def run(self, place: Step, address: str, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns or raises."""
        loop, threads = asyncio.get_running_loop(), self._threads[place]
        async with self._turn(place, near(address)):
            return await loop.run_in_executor(threads, work, *arguments)

    def close(self) -> None:
        """Wait until all threads have ended."""
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

    @asynccontextmanager
    async def _turn(self, place: Step, address: str) -> AsyncIterator[None]:
        key = (place, address)
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = _Turns(_SHARE[place])
        turns.users += 1
        try:
            async with turns.semaphore:
                yield
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[key]


class _Turns:
    def __init__(self, number: int) -> None:
        self.semaphore = asyncio.Semaphore(number)
        self.users = 0


class MinimumRate:
    """Cuts off clients that are waited for and move too few bytes."""

    def __init__(self, window_s: float, rate: int) -> None:
        self._window_s = window_s
        self._least = rate * window_s
        self._windows: set[RateWindow] = set()

    @contextmanager
    def waiting(self, transport: asyncio.BaseTransport, address: str) -> Iterator[RateWindow]:
        """Inside, the client is waited for while the window is `open`."""
        window = RateWindow(transport, address)
        self._windows.add(window)
        try:
            yield window
        finally:
            self._windows.discard(window)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._window_s / 4)
            for window in tuple(self._windows):
                if window.stalled(time.monotonic(), self._window_s, self._least):
                    _log.warning("cut off a stalled client", extra={"address": window.address})
                    cut(window.transport)


def cut(transport: asyncio.BaseTransport) -> None:
    """End both directions of a connection: who waits for its socket, or a copy of it, is woken."""
    with suppress(OSError):  # the client was faster
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class RateWindow:
    """What one connection moved since a moment."""

    def __init__(self, transport: asyncio.BaseTransport, address: str) -> None:
        self.transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self.address = address
        self.open = False
        self._since = time.monotonic()
        self._before = self._moved()

    def stalled(self, now: float, window_s: float, least: float) -> bool:
        """Whether too little has come through since the window began."""
        moved = self._moved()
        if not self.open or moved - self._before >= least:
            self._since, self._before = now, moved
        return now - self._since >= window_s

    @contextmanager
    def opened(self) -> Iterator[None]:
        self.open = True
        try:
            yield
        finally:
            self.open = False

    def _moved(self) -> int:
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0  # it is closed
        acked, received = _MOVED.unpack_from(info, _MOVED_AT)
        return int(acked + received)


class BufferedBytes:
    """Bytes of one small body that wait for its end."""

    def __init__(self, all_of: defaultdict[str, int], address: str) -> None:
        self._all, self._address, self._size = all_of, address, 0

    def add(self, size: int) -> Problem | None:
        """A problem where the address, or all together, would have too many."""
        for key, most in ((self._address, _HELD["address"]), ("", _HELD["all"])):
            if self._all[key] + size > most and self._size + size > _SMALL:
                headers = (("Retry-After", "1"),)
                return Problem(429, "TOOMANYREQUESTS", "too much at once", headers=headers)
        self._size += size
        self._all[self._address] += size
        self._all[""] += size
        return None

    def release(self) -> None:
        if self._size:
            self._all[""] -= self._size
            self._all[self._address] -= self._size
            if not self._all[self._address]:
                del self._all[self._address]
