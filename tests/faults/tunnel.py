"""A proxy that understands CONNECT and leads every tunnel to one port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Tunnelled:
    target: str
    headers: dict[str, str]


@dataclass
class Tunnel:
    url: str
    requests: list[Tunnelled] = field(default_factory=list)


@contextmanager
def tunnel(port: int) -> Iterator[Tunnel]:
    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            found.requests.append(Tunnelled(self.path, headers))
            with socket.create_connection(("127.0.0.1", port)) as server:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=_relay, args=(server, self.connection))
                back.start()
                _relay(self.connection, server)
                back.join()
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Tunnel(f"http://bob:hunter2@127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
