"""Connection failures as RegistryError: the one place that translates foreign exceptions."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from shipline.errors import RegistryError
from shipline.registry.errors import Unreachable, tls_hint
from shipline.registry.request import Origin
from shipline.registry.response import MalformedResponse, NoResponse, ResponseEnded
from shipline.tasks import check

_TUNNEL = "Tunnel connection failed: "  # of http.client
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_UNREACHABLE = (TimeoutError, ConnectionRefusedError)
_ALERT = "\x15\x03"  # how a TLS record of an alert begins (RFC 8446, section 5.1)


class NameNotResolved(OSError):
    """The name of a host has no address; the cause is that of the resolver."""


@contextmanager
def translate_errors(origin: Origin, proxy: str = "") -> Iterator[None]:
    """Raises RegistryError for any failure at `origin`, Cancelled when interrupted.

    `proxy` is the host:port that is connected to instead.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        check()  # an interruption is the cause, if there was one
        if proxy and (problem := _proxy_problem(error)):
            raise _proxy_error(origin, proxy, problem, error) from error
        raise _connection_error(origin, error) from error


def _proxy_problem(error: Exception) -> str:
    """How the proxy itself failed; empty if it did not."""
    if isinstance(error, NameNotResolved):
        return "cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refuses connections"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and str(error).startswith(_TUNNEL):
        return f"refuses the tunnel: {str(error).removeprefix(_TUNNEL)}"
    return ""


def _proxy_error(origin: Origin, proxy: str, problem: str, error: Exception) -> RegistryError:
    host = origin.authority
    hint = f"check HTTP_PROXY and HTTPS_PROXY, or add {origin.host} to NO_PROXY"
    if str(error).startswith(f"{_TUNNEL}407"):
        hint = "add credentials: http://user:password@host:port in HTTP_PROXY and HTTPS_PROXY"
    retriable = not isinstance(error, ConnectionRefusedError | NameNotResolved)
    message = f"{host}: the proxy {proxy} {problem}"
    kind = Unreachable if isinstance(error, _UNREACHABLE) else RegistryError
    return kind(message, host=host, code="proxy", hint=hint, retriable=retriable)


def _connection_error(origin: Origin, error: Exception) -> RegistryError:
    import ssl  # slow to load

    host = origin.authority
    code, retriable = "connection-lost", True
    text, hint = f"connection lost: {error}", "run again, or check the network"
    if isinstance(error, NameNotResolved):
        cause = error.__cause__
        retriable = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN
        code = "host-not-found"
        text, hint = "the host name cannot be resolved", "check the spelling and this machine's DNS"
    elif isinstance(error, ssl.SSLCertVerificationError):
        code, retriable = "certificate-refused", False
        text = f"certificate refused: {error.verify_message}"
        hint = "if the registry has a private CA, name its file with --ca, or put it at "
        hint += f"/etc/docker/certs.d/{host}/ca.crt"
        if error.verify_code in _OTHER_NAME:
            hint = "use a name that the certificate has, or give the registry one for this name"
    elif isinstance(error, ssl.SSLError) and "WRONG_VERSION" in str(error):
        text, code, retriable = "the server does not speak TLS", "tls-missing", False
        hint = f"if plain HTTP is intended, allow it with --insecure {host}"
    elif isinstance(error, TimeoutError):
        code = "connection-timeout"
        text, hint = "timed out", "the server or the network is slow or blocked"
    elif isinstance(error, ConnectionRefusedError):
        code = "connection-refused"
        text, hint = "connection refused", "is the server running, and is the port right?"
    elif isinstance(error, FileNotFoundError | PermissionError) or (
        isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)
    ):
        hint = "check the certificate files; a key must not have a passphrase"
        text, code, retriable = f"TLS: {error}", "client-certificate", False
    elif isinstance(error, MalformedResponse) and str(error).startswith(_ALERT):
        code, retriable = "tls-needed", False
        text, hint = "the server speaks TLS, but the request was plain HTTP", tls_hint(host)
    elif isinstance(error, ResponseEnded):
        text = "the connection was closed unexpectedly"
        if origin.scheme == "http" and isinstance(error, NoResponse):
            hint += f"; if it speaks TLS, {tls_hint(host)}"
    elif isinstance(error, ValueError) and not isinstance(error, OSError):
        text, hint, code, retriable = f"invalid request: {error}", "", "url-invalid", False
    elif isinstance(error, OSError):
        text = f"connection lost: {error.strerror or error}"
    kind = Unreachable if isinstance(error, _UNREACHABLE) else RegistryError
    return kind(f"{host}: {text}", host=host, code=code, hint=hint, retriable=retriable)
