"""Connection failures as RegistryError: the one place that translates foreign exceptions."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from shipline.errors import RegistryError
from shipline.registry.errors import Unreachable, clean, tls_hint
from shipline.registry.request import Origin
from shipline.registry.response import MalformedResponse, NoResponse, ResponseEnded
from shipline.tasks import check

_TUNNEL = "Tunnel connection failed: "  # of http.client
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_UNREACHABLE = (TimeoutError, ConnectionRefusedError)
_ALERT = "\x15\x03"  # how a TLS record of an alert begins (RFC 8446, section 5.1)


class _Diagnosis(NamedTuple):
    """What is wrong with a connection, and what to do."""

    text: str
    code: str
    hint: str
    retriable: bool = True


_SPELLING = "check the spelling and this machine's DNS"
_HUB = (
    "this is Docker Hub, where names without a host belong: check this machine's network;"
    " --registry-mirror names a mirror that it can reach"
)
_CAPITALS = (
    "a name that begins with capital letters, as Team/app, names a registry: those at Docker Hub"
    " are lower case"
)


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
    host = origin.authority
    text, code, hint, retriable = _diagnose(origin, error)
    kind = Unreachable if isinstance(error, _UNREACHABLE) else RegistryError
    return kind(f"{host}: {text}", host=host, code=code, hint=hint, retriable=retriable)


def _diagnose(origin: Origin, error: Exception) -> _Diagnosis:
    import ssl  # slow to load

    host, again = origin.authority, "run again, or check the network"
    match error:
        case NameNotResolved(__cause__=cause):
            return _Diagnosis(
                "the host name cannot be resolved",
                code="host-not-found",
                hint=_unresolved_hint(host),
                retriable=isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN,
            )
        case ssl.SSLCertVerificationError(verify_message=reason, verify_code=number):
            hint = (
                "if the registry has a private CA, name its file with --ca, or put it at"
                f" /etc/docker/certs.d/{host}/ca.crt"
            )
            if number in _OTHER_NAME:
                hint = "use a name that the certificate has, or give the registry one for this name"
            text = f"certificate refused: {reason}"
            return _Diagnosis(text, code="certificate-refused", hint=hint, retriable=False)
        case ssl.SSLError() if "WRONG_VERSION" in str(error):
            text = "the server does not speak TLS"
            hint = f"if plain HTTP is intended, allow it with --insecure {host}"
            return _Diagnosis(text, code="tls-missing", hint=hint, retriable=False)
        case TimeoutError():
            hint = "the server or the network is slow or blocked"
            return _Diagnosis("timed out", code="connection-timeout", hint=hint)
        case ConnectionRefusedError():
            hint = "is the server running, and is the port right?"
            return _Diagnosis("connection refused", code="connection-refused", hint=hint)
        case ssl.SSLEOFError(strerror=reason):
            text = f"connection lost: {clean(reason or str(error))}"
            return _Diagnosis(text, code="connection-lost", hint=again)
        case FileNotFoundError() | PermissionError() | ssl.SSLError():
            hint = "check the certificate files; a key must not have a passphrase"
            return _Diagnosis(
                f"TLS: {error}", code="client-certificate", hint=hint, retriable=False
            )
        case MalformedResponse() if str(error).startswith(_ALERT):
            text = "the server speaks TLS, but the request was plain HTTP"
            return _Diagnosis(text, code="tls-needed", hint=tls_hint(host), retriable=False)
        case ResponseEnded():
            if origin.scheme == "http" and isinstance(error, NoResponse):
                again += f"; if it speaks TLS, {tls_hint(host)}"
            text = "the connection was closed unexpectedly"
            return _Diagnosis(text, code="connection-lost", hint=again)
        case OSError(strerror=reason):
            text = f"connection lost: {clean(reason or str(error))}"
            return _Diagnosis(text, code="connection-lost", hint=again)
    return _Diagnosis(f"invalid request: {error}", code="url-invalid", hint="", retriable=False)


def _unresolved_hint(host: str) -> str:
    """What to do about a name without an address. Nobody writes the one of Docker Hub."""
    if host == "registry-1.docker.io":
        return _HUB
    return _SPELLING if "." in host or ":" in host else f"{_CAPITALS}; else {_SPELLING}"
