"""The listening socket of a node, and the connections that came in through it."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

from shipline.errors import UsageError

BACKLOG = 1024  # connections that wait to be taken
_DEAD_AFTER_S = 120  # a peer that is silent and answers no probe
Address = tuple[Any, ...]
_HINTS = {
    errno.EADDRINUSE: "another program holds the port; port 0 takes a free one",
    errno.EADDRNOTAVAIL: "this machine does not have the address; 0.0.0.0 stands for all it has",
    errno.EACCES: "ports below 1024 are for root and for CAP_NET_BIND_SERVICE; take a higher one",
}


def parse_address(listen: str) -> Address:
    """The socket address of `host:port`. Raises UsageError for what is none."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise UsageError(
            f"not an address to listen on: {listen!r}", hint="write host:port, like 127.0.0.1:5000"
        )
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot listen on {listen}: {error}") from None
    address: Address = found[0][4]
    return address


def open_listener(address: Address) -> socket.socket:
    """A socket that takes connections. Raises UsageError for an address that is taken."""
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_dead_peers(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
            hint=_HINTS.get(error.errno or 0, "choose another address"),
        ) from None
    return listener


def url_of(listener: socket.socket, *, tls: bool) -> str:
    """How this machine reaches the listener."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def connections(port: int) -> Iterator[socket.socket]:
    """This process's connections on a local port, each good until the next is asked for.

    The server in front hands out no sockets, so they are found by their descriptors. Only sockets
    are copied: closing a copy of a database's file would end the locks that SQLite holds on it
    (fcntl(2), "Record locking").
    """
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            fd = os.dup(int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            connection = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        with connection:
            if _is_connected(connection, port):
                yield connection


def _is_connected(connection: socket.socket, port: int) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        connection.getpeername()
        return bool(connection.getsockname()[1] == port)
    except OSError:
        return False


def _notice_dead_peers(listener: socket.socket) -> None:
    """Connections inherit this: one whose peer vanished, or takes nothing, ends by itself."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, _DEAD_AFTER_S // 2),
        (socket.TCP_KEEPINTVL, _DEAD_AFTER_S // 8),
        (socket.TCP_KEEPCNT, 4),
        (socket.TCP_USER_TIMEOUT, _DEAD_AFTER_S * 1000),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
