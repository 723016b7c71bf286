"""A line between two network namespaces: carries packets, and holds each for a delay.

python line.py NAME PID PID SECONDS    between a new TUN device in each process's namespace
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # sched.h
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET = 65_536  # bytes


def carry(left: int, right: int, delay_s: float) -> None:
    """Carry packets between two devices for ever, each after `delay_s`."""
    peers = {left: right, right: left}
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, to, packet = waiting.popleft()
            with suppress(OSError):  # lost: the device is not up yet
                os.write(to, packet)
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for device in select.select(peers, (), (), pause)[0]:
            due = time.monotonic() + delay_s
            for packet in _packets(device):
                waiting.append((due, peers[device], packet))


def _packets(device: int) -> Iterator[bytes]:
    for _ in range(64):
        try:
            yield os.read(device, _PACKET)
        except BlockingIOError:
            return


def _tun(pid: str, name: str) -> int:
    """A new TUN device in the namespace of a process, which this thread enters."""
    with Path(f"/proc/{pid}/ns/net").open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return device


if __name__ == "__main__":
    _name, *_pids, _delay = sys.argv[1:]
    carry(*(_tun(pid, _name) for pid in _pids), float(_delay))
