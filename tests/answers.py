"""A server with fixed answers in JSON, for APIs that are only read."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answers:
    """The documents of a server at `url`, by path; `seen` has the headers of the requests."""

    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    seen: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def answers() -> Iterator[Answers]:
    """A running server, which answers 404 for other paths."""
    made = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.seen.append({key.lower(): value for key, value in self.headers.items()})
            path = self.path.partition("?")[0]
            raw = json.dumps(made.documents.get(path, {})).encode()
            self.send_response(200 if path in made.documents else 404)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        made.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield made
        finally:
            listening.shutdown()
            thread.join()
