"""Foreign exceptions of a connection as errors of ours: the one place where they end."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import urllib3.exceptions as foreign

from shipline.errors import RegistryError
from shipline.registry.failures import tls_hint
from shipline.registry.origin import Origin
from shipline.tasks import check

_TUNNEL = "Tunnel connection failed: "  # of http.client
_ALERT = "\x15\x03"  # how a TLS record of an alert begins (RFC 8446, section 5.1)


@contextmanager
def translated(origin: Origin, proxy: str = "") -> Iterator[None]:
    """Raises RegistryError for what goes wrong at `origin`, Cancelled when interrupted.

    `proxy` is the host:port that is connected to in its place.
    """
    try:
        yield
    except (OSError, http.client.HTTPException, foreign.HTTPError, ValueError) as error:
        check()  # when the work was interrupted, that is the reason
        if proxy and (problem := _proxy_problem(error)):
            raise _proxy_error(origin, proxy, problem, error) from error
        raise _error(origin, error) from error


def _proxy_problem(error: Exception) -> str:
    """What the proxy itself did wrong; empty where it is not to blame."""
    if isinstance(error, foreign.NameResolutionError):
        return "is not known by name"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, TimeoutError | foreign.TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError) and str(error).startswith(_TUNNEL):
        return f"opens no way: {str(error).removeprefix(_TUNNEL)}"
    return ""


def _proxy_error(origin: Origin, proxy: str, problem: str, error: Exception) -> RegistryError:
    host = origin.authority
    hint = f"check HTTP_PROXY and HTTPS_PROXY, or add {origin.host} to NO_PROXY"
    if str(error).startswith(f"{_TUNNEL}407"):
        hint = "give it a login: http://user:password@host:port in HTTP_PROXY and HTTPS_PROXY"
    retriable = not isinstance(error, ConnectionRefusedError | foreign.NameResolutionError)
    message = f"{host}: the proxy {proxy} {problem}"
    return RegistryError(message, host=host, hint=hint, retriable=retriable)


def _error(origin: Origin, error: Exception) -> RegistryError:
    host = origin.authority
    text, hint, retriable = f"connection lost: {error}", "run again, or look at the network", True
    if isinstance(error, foreign.NameResolutionError):
        cause = error.__cause__
        retriable = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        text, hint = "the host name is not known", "check the spelling, and the DNS of this machine"
    elif isinstance(error, ssl.SSLCertVerificationError):
        text, retriable = f"certificate refused: {error.verify_message}", False
        hint = "if the registry has its own authority, name its file with --ca, or put it at "
        hint += f"/etc/docker/certs.d/{host}/ca.crt"
    elif isinstance(error, ssl.SSLError) and "WRONG_VERSION" in str(error):
        text, retriable = "the server does not speak TLS", False
        hint = f"if plain http is really meant, allow it with --insecure {host}"
    elif isinstance(error, TimeoutError | foreign.TimeoutError):
        text, hint = "no answer in time", "the registry or the network is slow or blocked"
    elif isinstance(error, ConnectionRefusedError):
        text, hint = "connection refused", "is the registry running, and is the port right?"
    elif isinstance(error, FileNotFoundError | PermissionError) or (
        isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
    ):
        text, hint, retriable = f"TLS: {error}", "check the certificate files", False
    elif isinstance(error, foreign.ProxyError):
        text, hint = f"the proxy failed: {error}", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
    elif isinstance(error, http.client.BadStatusLine) and str(error.args[0]).startswith(_ALERT):
        text, hint, retriable = "it speaks TLS, and was asked in plain http", tls_hint(host), False
    elif isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead):
        text = "the connection was closed in the middle"
        if origin.scheme == "http" and isinstance(error, http.client.RemoteDisconnected):
            hint += f"; if it speaks TLS, {tls_hint(host)}"
    elif isinstance(error, ValueError) and not isinstance(error, OSError):
        text, hint, retriable = f"cannot make the request: {error}", "", False
    elif isinstance(error, OSError):
        text = f"connection lost: {error.strerror or error}"
    return RegistryError(f"{host}: {text}", host=host, hint=hint, retriable=retriable)
