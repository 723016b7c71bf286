"""Resource limits per client address: threads, time, memory.

A client that must send or receive and transfers less than `rate` bytes/s over a window is
disconnected. The kernel's counters are used (tcp(7), TCP_INFO), so that intermediate buffers do not
count.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import struct
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar

from shipline.net import read_address
from shipline.server.http import CPU, DISK, RESERVED, Pool
from shipline.server.problems import Problem


@dataclass(frozen=True, slots=True)
class Network:
    """A CIDR block, or one address."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        ipaddress.ip_network(text)
        return cls(text)

    def contains(self, address: str) -> bool:
        """Whether an address is in the block; IPv4-mapped IPv6 counts as IPv4, anything else is
        False.
        """
        parsed = read_address(address)
        return parsed is not None and parsed in ipaddress.ip_network(self.text)


def client_address(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """The client's address: the peer's or, behind trusted proxies, the last address in
    X-Forwarded-For that is not a trusted proxy's.
    """
    address = peer
    for text in reversed((forwarded or "").split(",")):
        if not any(network.contains(address) for network in trusted):
            return address
        parsed = read_address(text)
        if parsed is None:
            return address
        address = str(parsed)
    return address


@lru_cache(4096)
def client_network(address: str) -> str:
    """The addresses that one client can choose from: an IPv6 /64, else the address itself."""
    parsed = read_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address


_log = logging.getLogger(__name__)
_THREADS = {DISK: 16, CPU: 2, RESERVED: 1}
_SHARE = {DISK: 12, CPU: 1, RESERVED: 1}  # threads that one network may use at once
_BUFFER_LIMITS = {"address": 32 << 20, "all": 128 << 20}  # bytes of buffered bodies
_ALWAYS_ALLOWED = 64 << 10  # bytes, whatever else is buffered
_TCP_INFO_BYTES = 136
_COUNTERS = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_COUNTERS_OFFSET = 120
T = TypeVar("T")


class ThreadPools:
    """Threads for work that must not run in the event loop. Each client network gets a share;
    further requests of it wait.
    """

    def __init__(self) -> None:
        self._threads = {
            pool: ThreadPoolExecutor(number, thread_name_prefix=pool.value)
            for pool, number in _THREADS.items()
        }
        self._slots: dict[tuple[Pool, str], _Slots] = {}

    @property
    def threads(self) -> Mapping[tuple[str, ...], int]:
        """The number of threads by pool."""
        return {(pool.value,): number for pool, number in _THREADS.items()}

    def users(self) -> Mapping[tuple[str, ...], int]:
        """How many run or wait, by pool. Safe to use from any thread."""
        found = dict.fromkeys(self.threads, 0)
        for (pool, _), slots in [*self._slots.items()]:
            found[pool.value,] += slots.users
        return found

    async def run(self, pool: Pool, address: str, work: Callable[..., T], *arguments: Any) -> T:
        """Run `work` on a thread; returns or raises what it does."""
        loop, threads = asyncio.get_running_loop(), self._threads[pool]
        async with self._slot(pool, client_network(address)):
            return await loop.run_in_executor(threads, work, *arguments)

    def close(self) -> None:
        """Cancel queued work and wait for the threads."""
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

    @asynccontextmanager
    async def _slot(self, pool: Pool, address: str) -> AsyncIterator[None]:
        key = (pool, address)
        slots = self._slots.get(key)
        if slots is None:
            slots = self._slots[key] = _Slots(_SHARE[pool])
        slots.users += 1
        try:
            async with slots.semaphore:
                yield
        finally:
            slots.users -= 1
            if not slots.users:
                del self._slots[key]


class _Slots:
    def __init__(self, number: int) -> None:
        self.semaphore = asyncio.Semaphore(number)
        self.users = 0


class MinimumRate:
    """Disconnects clients that are too slow."""

    def __init__(self, window_s: float, rate: int) -> None:
        self._window_s = window_s
        self._minimum = rate * window_s
        self._windows: set[RateWindow] = set()

    @contextmanager
    def watch(self, transport: asyncio.BaseTransport, address: str) -> Iterator[RateWindow]:
        """Watch a connection inside the block; it only counts while the window is `active`."""
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
                if window.stalled(time.monotonic(), self._window_s, self._minimum):
                    _log.warning("disconnected a stalled client", extra={"address": window.address})
                    shut_down(window.transport)


def shut_down(transport: asyncio.BaseTransport) -> None:
    """Shut both directions down, which wakes threads that wait on a duplicate of the socket."""
    with suppress(OSError):  # already disconnected
        transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class RateWindow:
    """The bytes that a connection has transferred since the window began."""

    def __init__(self, transport: asyncio.BaseTransport, address: str) -> None:
        self.transport = transport
        self._socket: socket.socket = transport.get_extra_info("socket")
        self.address = address
        self.counting = False
        self._started = time.monotonic()
        self._transferred_before = self._transferred()

    def stalled(self, now: float, window_s: float, minimum: float) -> bool:
        """Whether too little was transferred for `window_s`."""
        transferred = self._transferred()
        if not self.counting or transferred - self._transferred_before >= minimum:
            self._started, self._transferred_before = now, transferred
        return now - self._started >= window_s

    @contextmanager
    def active(self) -> Iterator[None]:
        """Judge the client inside the block, in which the node waits for it."""
        self.counting = True
        try:
            yield
        finally:
            self.counting = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not judge the client inside the block, in which it waits for the node."""
        self.counting = False
        try:
            yield
        finally:
            self.counting = True

    def _transferred(self) -> int:
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return 0  # closed
        acked, received = _COUNTERS.unpack_from(info, _COUNTERS_OFFSET)
        return int(acked + received)


class BufferedBytes:
    """Accounts for the buffered bytes of one request body."""

    def __init__(self, totals: defaultdict[str, int], address: str) -> None:
        self._totals, self._address, self._size = totals, address, 0

    def add(self, size: int) -> Problem | None:
        """Returns a Problem 429 if the network, or all together, would exceed the limit."""
        for key, limit in ((self._address, _BUFFER_LIMITS["address"]), ("", _BUFFER_LIMITS["all"])):
            if self._totals[key] + size > limit and self._size + size > _ALWAYS_ALLOWED:
                headers = (("Retry-After", "1"),)
                return Problem(
                    429, "TOOMANYREQUESTS", "too many request bodies at once", headers=headers
                )
        self._size += size
        self._totals[self._address] += size
        self._totals[""] += size
        return None

    def release(self) -> None:
        """The body is no longer in memory."""
        if self._size:
            self._totals[""] -= self._size
            self._totals[self._address] -= self._size
            if not self._totals[self._address]:
                del self._totals[self._address]
