"""Many slow clients of a registry, kept going by one thread, and how fast others are answered."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from spec_client import MANIFEST

_STEP_S = 1.0
_STEP = 1000  # bytes that a client takes or sends in a step
_SOURCES = 8  # addresses of this machine that the clients come from
_PROMISED = 1 << 30  # bytes that a sender says it will send


def connect(address: str, number: int, buffer: int = 0) -> socket.socket:
    """A connection from one of several addresses."""
    host, _, port = address.rpartition(":")
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.bind((f"127.0.0.{2 + number % _SOURCES}", 0))
    connection.settimeout(30)
    connection.connect((host, int(port)))
    return connection


@contextmanager
def slow_clients(
    address: str, *, readers: int, senders: int, path: str, tls: ssl.SSLContext | None = None
) -> Iterator[None]:
    """Inside, `readers` take a kilobyte a second of what is at `path`, `senders` push as slowly."""

    def wrapped(connection: socket.socket) -> socket.socket:
        return tls.wrap_socket(connection, server_hostname="127.0.0.1") if tls else connection

    taking = [wrapped(connect(address, number, buffer=4096)) for number in range(readers)]
    sending = [wrapped(connect(address, number)) for number in range(senders)]
    for connection in taking:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    for number, connection in enumerate(sending):
        head = f"PUT /v2/slow/{number}/manifests/v1 HTTP/1.1\r\nHost: x\r\n"
        if number % 2:
            digest = f"sha256:{number:064x}"
            head = f"POST /v2/slow/{number}/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: x\r\n"
        length = _PROMISED if number % 2 else 4 << 20
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
    for connection in (*taking, *sending):
        connection.setblocking(False)
    ended = threading.Event()
    thread = threading.Thread(target=_keep_going, args=(taking, sending, ended))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for connection in (*taking, *sending):
            connection.close()


def _keep_going(
    taking: list[socket.socket], sending: list[socket.socket], ended: threading.Event
) -> None:
    while not ended.wait(_STEP_S):
        for connection in taking:
            with suppress(OSError):
                connection.recv(_STEP)
        for connection in sending:
            with suppress(OSError):
                connection.send(b"x" * _STEP)


def latencies(
    address: str,
    path: str,
    seconds: float,
    pause_s: float = 0.002,
    tls: ssl.SSLContext | None = None,
) -> list[float]:
    """Seconds that each of many answers took, one after the other, shortest first."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    if tls is not None:
        connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=tls)
    found: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.perf_counter()
        connection.request("GET", path, headers={"Accept": MANIFEST})
        with connection.getresponse() as answer:
            answer.read()
        found.append(time.perf_counter() - began)
        assert answer.status == 200, answer.status
        time.sleep(pause_s)
    connection.close()
    return sorted(found)


def percentile(found: list[float], part: float) -> float:
    return found[min(len(found) - 1, int(len(found) * part))]
