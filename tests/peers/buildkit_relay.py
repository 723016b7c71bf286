"""The BuildKit of an engine as buildkitd offers it: HTTP/2 from the first byte, on a port or on the
standard input and output of a program.

    python buildkit_relay.py SOCKET     as `buildctl dial-stdio`
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def connect(path: str) -> socket.socket:
    """A connection to the engine at a socket, upgraded."""
    engine = socket.socket(socket.AF_UNIX)
    engine.connect(path)
    engine.sendall(_UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += engine.recv(1)
    assert b" 101 " in head, head
    return engine


def copy(read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
    with suppress(OSError, ValueError):
        while data := read(1 << 16):
            write(data)


@contextmanager
def relay(path: str, tls: tuple[Path, Path, Path] | None = None) -> Iterator[int]:
    """The port on loopback where the engine answers as buildkitd; with certificate, key and the
    authority of clients, over TLS. At the end of the block, its connections break.
    """
    clients: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (listener, path, _context(tls), clients)
        thread = threading.Thread(target=_serve, args=arguments)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            for one in (listener, *clients):
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            thread.join()


def _context(tls: tuple[Path, Path, Path] | None) -> ssl.SSLContext | None:
    if tls is None:
        return None
    certificate, key, authority = tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


def _serve(
    listener: socket.socket, path: str, context: ssl.SSLContext | None, clients: list[socket.socket]
) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        same = client.dup()
        clients.append(same)
        threading.Thread(target=_answer, args=(client, same, path, context), daemon=True).start()


def _answer(
    client: socket.socket, same: socket.socket, path: str, context: ssl.SSLContext | None
) -> None:
    try:
        secured = context.wrap_socket(client, server_side=True) if context else client
    except OSError:
        with suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)
        return
    with secured, connect(path) as engine:

        def answer() -> None:
            copy(engine.recv, secured.sendall)
            with suppress(OSError):  # a daemon that dies closes its connections
                same.shutdown(socket.SHUT_RDWR)

        there = threading.Thread(target=answer, daemon=True)
        there.start()
        copy(secured.recv, engine.sendall)
        with suppress(OSError):
            engine.shutdown(socket.SHUT_RDWR)
        there.join(5)


def main() -> None:
    with connect(sys.argv[1]) as engine:
        out = threading.Thread(
            target=copy, args=(engine.recv, lambda data: os.write(1, data)), daemon=True
        )
        out.start()
        copy(lambda size: os.read(0, size), engine.sendall)


if __name__ == "__main__":
    main()
