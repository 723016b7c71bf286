"""A loopback HTTP server whose responses come from a function."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from urllib.parse import parse_qs, urlsplit


@dataclass
class ReceivedRequest:
    """One request: `target` as received, `path` and `query` parsed."""

    method: str
    target: str
    headers: dict[str, str]
    stream: BufferedIOBase
    path: str = ""
    query: dict[str, list[str]] = field(default_factory=dict)

    def body(self) -> Iterator[bytes]:
        """The body in chunks, without framing."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while size := int(self.stream.readline(), 16):
                yield _exactly(self.stream, size)
                self.stream.readline()
            self.stream.readline()
        left = int(self.headers.get("content-length", 0))
        while left:
            piece = _exactly(self.stream, min(left, 1 << 16))
            left -= len(piece)
            yield piece

    def all(self) -> bytes:
        return b"".join(self.body())


Reply = tuple[int, dict[str, str], bytes]
Responder = Callable[[ReceivedRequest], Reply]


def json_reply(status: int, document: object) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


class Served:
    """A running server: its address, and the requests it received."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.port: int = server.server_address[1]
        self.scheme = scheme
        self.requests: list[ReceivedRequest] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def to(self, method: str, path: str = "") -> list[ReceivedRequest]:
        return [one for one in self.requests if one.method == method and path in one.path]


@contextmanager
def serving(respond: Responder, context: ssl.SSLContext | None = None) -> Iterator[Served]:
    """Serve until the block ends, with TLS if `context` is given."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = ReceivedRequest(self.command, self.path, headers, self.rfile, parts.path)
            request.query = parse_qs(parts.query, keep_blank_values=True)
            served.requests.append(request)
            try:
                status, more, body = respond(request)
                self.send_response(status)
                if "Content-Length" not in more:
                    more = {**more, "Content-Length": str(len(body))}
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
            except (OSError, EOFError, ValueError):
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    served = Served(server, "https" if context else "http")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _exactly(stream: BufferedIOBase, size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data
