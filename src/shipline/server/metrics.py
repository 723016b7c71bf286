"""What the node counts, in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable


class Metrics:
    """Counters of requests and bytes; `uploads` tells how many requests bring bytes right now."""

    def __init__(self, uploads: Callable[[], int]) -> None:
        self._lock = threading.Lock()
        self._uploads = uploads
        self._requests: Counter[tuple[str, int]] = Counter()
        self._received = 0
        self._sent = 0

    def count(self, method: str, status: int, *, received: int, sent: int) -> None:
        """One request was answered; sizes of the bodies in bytes."""
        with self._lock:
            self._requests[method, status] += 1
            self._received += received
            self._sent += sent

    def render(self) -> str:
        with self._lock:
            requests = sorted(self._requests.items())
            received, sent = self._received, self._sent
        lines = [
            *_head("shipline_requests_total", "counter", "Requests answered."),
            *(
                f'shipline_requests_total{{method="{method}",status="{status}"}} {number}'
                for (method, status), number in requests
            ),
            *_head("shipline_received_bytes_total", "counter", "Bytes of request bodies read."),
            f"shipline_received_bytes_total {received}",
            *_head("shipline_sent_bytes_total", "counter", "Bytes of answers begun."),
            f"shipline_sent_bytes_total {sent}",
            *_head("shipline_uploads_in_flight", "gauge", "Requests that bring blobs now."),
            f"shipline_uploads_in_flight {self._uploads()}",
        ]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"
