"""Commands in pods: their standard streams, as channels of a WebSocket.

A server before Kubernetes 1.30 has version 4 of the protocol, without an end of the input alone.
Source: kubernetes/kubernetes, KEP-4006; k8s.io/apimachinery, util/remotecommand.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

from shipline.errors import BuilderError
from shipline.kubernetes.cluster import Cluster
from shipline.kubernetes.websocket import WebSocket, accepted_key, new_key

_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_PIECE = 32 << 10  # bytes of a message, as kubectl's
_KEPT = 4 << 10  # bytes of standard error
_LARGEST = 64 << 10  # bytes of an answer


class ExecPipe:
    """The standard input and output of a command; what it says besides is the error at its end."""

    def __init__(
        self, connection: socket.socket, web: WebSocket, *, closes: bool, shown: str
    ) -> None:
        self._shown = shown
        self._connection = connection
        self._web = web
        self._messages = web.messages()
        self._closes = closes
        self._data: deque[bytes] = deque()
        self._said = bytearray()
        self._lock = threading.Lock()
        self._closed = False

    def read(self, size: int) -> bytes:
        """Some output; none once the command has ended well or the pipe was closed. Raises
        OSError, with what the command has said.
        """
        while not self._data:
            message = next(self._messages, None)
            if message is None or (message and not self._take(message[0], message[1:])):
                return b""
        data = self._data.popleft()
        if len(data) > size:
            self._data.appendleft(data[size:])
        return data[:size]

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        pieces = range(0, len(data), _PIECE)
        self._web.send(*(b"\0" + data[start : start + _PIECE] for start in pieces))

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with suppress(OSError):
            if self._closes:
                self._web.send(bytes((_CLOSE, _STDIN)))
            self._web.close()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def _take(self, channel: int, data: bytes) -> bool:
        """Whether more may follow."""
        if channel == _STDOUT and data:
            self._data.append(data)
        elif channel == _STDERR:
            self._said = (self._said + data)[-_KEPT:]
        elif channel == _STATUS:
            self._check(data)
            return False
        return True

    def _check(self, raw: bytes) -> None:
        try:
            status: dict[str, Any] = json.loads(raw)
            if status.get("status") == "Success":
                return
            message = str(status.get("message") or status.get("reason"))
        except (ValueError, AttributeError):
            message = raw[:300].decode(errors="replace")
        said = self._said.decode(errors="replace").strip()
        raise ConnectionError(f"the command in the pod {self._shown} ended: {said or message}")


@contextmanager
def open_exec(
    cluster: Cluster, pod: str, container: str, command: Sequence[str]
) -> Iterator[ExecPipe]:
    """A command in a container, inside the block. Raises BuilderError."""
    query = [("command", word) for word in command]
    query += [("container", container), *((name, "true") for name in ("stdin", "stdout", "stderr"))]
    target = f"{cluster.path('pods', pod)}/exec?{urlencode(query)}"
    for attempt in (1, 2):
        with cluster.connected() as (connection, base, headers):
            key = new_key()
            headers |= {
                "Connection": "Upgrade",
                "Upgrade": "websocket",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": key,
                "Sec-WebSocket-Protocol": ", ".join(_PROTOCOLS),
            }
            connection.request("GET", base + target, headers=headers)
            response = connection.getresponse()
            if response.status == 401 and attempt == 1 and cluster.forget_credential():
                continue
            if response.status != 101:
                raw = response.read(_LARGEST)
                raise cluster.refusal(f"exec in the pod {pod}", response.status, raw)
            protocol = response.headers.get("Sec-WebSocket-Protocol", "")
            if (
                response.headers.get("Sec-WebSocket-Accept") != accepted_key(key)
                or protocol not in _PROTOCOLS
            ):
                raise BuilderError(
                    f"the cluster does not run commands over WebSockets: it chose {protocol!r}",
                    code="kubernetes-unreachable",
                    hint="a proxy in between may not pass them on",
                )
            sock = connection.sock
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            web = WebSocket(response.fp.read1, sock.sendall)  # its buffer has what came at once
            shown = f"{cluster.namespace}/{pod}"
            pipe = ExecPipe(sock, web, closes=protocol == _PROTOCOLS[0], shown=shown)
            try:
                yield pipe
            finally:
                pipe.close()
            return
