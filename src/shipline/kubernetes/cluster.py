"""The API of a cluster: objects as JSON, over HTTP.

Source: kubernetes.io, "Kubernetes API Concepts" and "API Overview".
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from shipline import __version__
from shipline.errors import BuilderError
from shipline.kubernetes.access import ClusterAccess, Credential
from shipline.registry import Proxies
from shipline.registry.request import Url
from shipline.tasks import check, on_cancel, sleep

Object = dict[str, Any]

_CONNECT_S = 20.0
_ANSWER_S = 60.0
_LARGEST = 64 << 20  # bytes of an answer
_TRIES = 4
_WAIT_S = 0.5
_BUSY = (429, 503, 504)
_GROUPS = {
    "daemonsets": "/apis/apps/v1",
    "deployments": "/apis/apps/v1",
    "rollouts": "/apis/argoproj.io/v1alpha1",
    "statefulsets": "/apis/apps/v1",
}
"""Where kinds of objects are that are not in /api/v1."""


class KubernetesError(BuilderError):
    """The API server refused a request, with an HTTP status."""

    code = "kubernetes-refused"

    def __init__(self, message: str, status: int, *, code: str = "", hint: str = "") -> None:
        super().__init__(message, code=code, hint=hint, retriable=status in _BUSY)
        self.status = status


class Cluster:
    """A namespace of a cluster, for one user. Safe to use from any thread."""

    def __init__(
        self, access: ClusterAccess, environment: Mapping[str, str], namespace: str = ""
    ) -> None:
        self.access = access
        self.namespace = namespace or access.namespace
        self._proxies = Proxies.from_environment(environment)
        self._lock = threading.Lock()
        self._credential: tuple[Credential, float | None] | None = None

    def get(self, kind: str, name: str) -> Object | None:
        """The object, None if there is none. Raises BuilderError."""
        try:
            return self._shaped(self._object(self._send("GET", self.path(kind, name))))
        except KubernetesError as error:
            if error.status == 404:
                return None
            raise

    def list(self, kind: str, **selectors: str) -> list[Object]:
        """The objects that `labelSelector` and `fieldSelector` choose. Raises BuilderError."""
        items = self._object(self._send("GET", self.path(kind), selectors)).get("items") or []
        if not isinstance(items, list):
            raise self._no_server(repr(items))
        return [self._shaped(item) for item in items]

    def create(self, kind: str, document: Object) -> Object:
        """Raises KubernetesError, with the status 409 if there is one already; BuilderError."""
        return self._object(self._send("POST", self.path(kind), body=document))

    def replace(self, kind: str, document: Object) -> Object:
        """Raises BuilderError."""
        return self._object(
            self._send("PUT", self.path(kind, document["metadata"]["name"]), body=document)
        )

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Merge a change into an object (RFC 7396). Raises BuilderError."""
        merge = "application/merge-patch+json"
        return self._object(
            self._send("PATCH", self.path(kind, name), body=change, content_type=merge)
        )

    def delete(self, kind: str, name: str) -> bool:
        """Delete an object and what it owns; whether there was one. Raises BuilderError."""
        try:
            self._object(
                self._send("DELETE", self.path(kind, name), {"propagationPolicy": "Background"})
            )
        except KubernetesError as error:
            if error.status == 404:
                return False
            raise
        return True

    def log(self, pod: str, *, lines: int) -> str:
        """The last lines of the containers that a pod ran last. Raises BuilderError."""
        query = {"tailLines": str(lines)}
        return self._send("GET", self.path("pods", pod) + "/log", query).decode(errors="replace")

    def path(self, kind: str, name: str = "") -> str:
        """The path of an object, or of all of its kind in the namespace."""
        group = _GROUPS.get(kind, "/api/v1")
        found = f"{group}/namespaces/{quote(self.namespace, safe='')}/{kind}"
        return f"{found}/{quote(name, safe='')}" if name else found

    @contextmanager
    def connected(self) -> Iterator[tuple[http.client.HTTPConnection, str, dict[str, str]]]:
        """A connection to the server inside the block, the path of its API, and the headers of a
        request. Raises BuilderError, also for an OSError that leaves the block.
        """
        credential = self._current()
        parts = urlsplit(self.access.server)
        with self._errors():
            connection = self._connection(credential)
            headers = {"User-Agent": f"shipline/{__version__}"}
            if credential.authorization:
                headers["Authorization"] = credential.authorization
            with closing(connection):
                connection.connect()
                with on_cancel(lambda: _shut(connection)):
                    yield connection, parts.path, headers

    @contextmanager
    def _errors(self) -> Iterator[None]:
        server = self.access.server
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise BuilderError(
                f"the API server {server} cannot be trusted: {error.verify_message}",
                code="kubernetes-certificate",
                hint="correct certificate-authority or tls-server-name in the kubeconfig",
            ) from None
        except OSError as error:
            check()  # an interruption breaks the connection, too
            raise BuilderError(
                f"the API server {server} cannot be reached: {error.strerror or error}",
                code="kubernetes-unreachable",
                hint="see whether `kubectl version` reaches it",
                retriable=True,
            ) from None
        except http.client.HTTPException as error:
            check()
            raise BuilderError(
                f"what answers at {server} is not an API server: {error!r}",
                code="kubernetes-unreachable",
                retriable=True,
            ) from None

    def forget_credential(self) -> bool:
        """Whether another credential may be had than the one that was refused."""
        with self._lock:
            self._credential = None
        return self.access.plugin is not None or bool(self.access.token_file)

    def _current(self) -> Credential:
        with self._lock:
            if self._credential is not None:
                found, until = self._credential
                if until is None or time.time() < until:
                    return found
            self._credential = self.access.fresh_credential()
            return self._credential[0]

    def _connection(self, credential: Credential) -> http.client.HTTPConnection:
        access, parts = self.access, urlsplit(self.access.server)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "http":  # of `kubectl proxy`, on this machine
            return http.client.HTTPConnection(host, port or 80, timeout=_CONNECT_S)
        proxy = urlsplit(access.proxy or self._proxies.of(Url.parse(access.server).origin))
        near, near_port = (proxy.hostname, proxy.port or 80) if proxy.hostname else (host, port)
        if proxy.scheme not in ("", "http"):
            raise BuilderError(
                f"the proxy of the API server is {proxy.scheme}://{near}, and only http:// is"
                " supported",
                code="kubernetes-unreachable",
                hint="correct proxy-url in the kubeconfig, or HTTPS_PROXY",
            )
        found = _NamedConnection(
            near, near_port, context=_tls(access, credential), timeout=_CONNECT_S
        )
        found.server_name = access.server_name
        if proxy.hostname:
            login = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}"
            found.set_tunnel(host, port or 443, _proxy_headers(login))
        return found

    def _object(self, raw: bytes) -> Object:
        """The object in an answer. Raises BuilderError."""
        try:
            found = json.loads(raw)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._no_server(repr(raw))
        return found

    def _shaped(self, found: Object) -> Object:
        """The object, with parts of the kind that every object has. Raises BuilderError."""
        parts = ("metadata", "spec", "status")
        known = isinstance(found, dict) and isinstance(found.get("metadata"), dict)
        if not known or not all(isinstance(found.get(one) or {}, dict) for one in parts):
            raise self._no_server(repr(found))
        return found

    def _no_server(self, said: str) -> BuilderError:
        return BuilderError(
            f"what answers at {self.access.server} is not an API server: {said:.200}",
            code="kubernetes-unreachable",
        )

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of an answer that is not an error; a busy server is asked again."""
        target = f"{path}?{urlencode(query)}" if query else path
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(_TRIES):
            with self.connected() as (connection, base, headers):
                if data is not None:
                    headers["Content-Type"] = content_type
                headers["Accept"] = "application/json"
                connection.request(method, base + target, data, headers)
                response = connection.getresponse()
                raw = response.read(_LARGEST)
            if response.status < 300:
                return raw
            last = attempt == _TRIES - 1
            if response.status == 401 and attempt == 0 and self.forget_credential():
                continue
            if response.status not in _BUSY or last:
                break
            after = response.getheader("Retry-After", "")
            sleep(min(float(after), 10.0) if after.isdecimal() else _WAIT_S * 2**attempt)
        raise self.refusal(f"{method} {path.rpartition('/namespaces/')[2]}", response.status, raw)

    def refusal(self, request: str, status: int, raw: bytes) -> KubernetesError:
        """The error of an answer, with the message of its Status object."""
        try:
            message = str(json.loads(raw)["message"])
        except (ValueError, KeyError, TypeError):
            message = raw[:300].decode(errors="replace").strip()
        hints = {
            401: "log in to the cluster again; see `kubectl auth whoami`",
            403: "see docs/builders.md for the role that this needs, and `kubectl auth can-i`",
        }
        return KubernetesError(
            f"the cluster refuses {request}: {message or f'HTTP status {status}'}",
            status,
            hint=hints.get(status, ""),
        )


class _NamedConnection(http.client.HTTPSConnection):
    """TLS whose certificate may be for another name."""

    server_name = ""

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        tunnel: str | None = self._tunnel_host  # type: ignore[attr-defined]
        name = self.server_name or tunnel or self.host
        context: ssl.SSLContext = self._context  # type: ignore[attr-defined]
        self.sock = context.wrap_socket(self.sock, server_hostname=name)
        self.sock.settimeout(_ANSWER_S)


def _tls(access: ClusterAccess, credential: Credential) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=access.ca.decode("ascii") or None)
        if not access.verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if credential.certificate:
            with _as_file(credential.certificate + b"\n" + credential.key) as path:
                context.load_cert_chain(path, password="")
    except (ssl.SSLError, ValueError) as error:
        raise BuilderError(
            f"the certificates for the API server {access.server} cannot be used: {error}",
            code="kubernetes-certificate",
            hint="correct them in the kubeconfig",
        ) from None
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[Path]:
    """Bytes as a file in memory: a key is never on disk."""
    fd = os.memfd_create("key")
    try:
        os.write(fd, data)
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _proxy_headers(login: str) -> dict[str, str]:
    from base64 import b64encode

    if login == ":":
        return {}
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}


def _shut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError):
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
