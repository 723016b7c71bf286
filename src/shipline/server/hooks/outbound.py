"""One POST to a webhook receiver, protected against SSRF.

A host name is resolved once, all of its addresses are checked, and the connection goes to a checked
one; a redirect is checked again. Public addresses are allowed, others only if listed.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

from shipline.errors import ConfigError, ShiplineError
from shipline.net import embedded_address, is_public
from shipline.tasks import on_cancel

if TYPE_CHECKING:
    from shipline.net import Address, Network

_MAX_REDIRECTS = 3  # redirects
_MAX_RESPONSE = 64 << 10  # bytes of a response to read


class DeliveryFailed(ShiplineError):
    """The receiver could not be reached, or did not accept the event."""

    code = "undelivered"


@dataclass(frozen=True, slots=True)
class DeliveryTarget:
    """Where to send a request; `allow` are the permitted non-public networks."""

    tls: bool
    host: str
    port: int
    path: str
    allow: tuple[Network, ...]

    @classmethod
    def parse(cls, url: str, allow: Sequence[str] = ()) -> Self:
        """Raises ConfigError for anything but an http(s) URL and networks."""
        try:
            parts = urlsplit(url)
            networks = tuple(ipaddress.ip_network(text, strict=False) for text in allow)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ConfigError(f"url: {error}") from None
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ConfigError(f"url: {url!r} does not begin with https:// or http:// and a host")
        if parts.username is not None or not url.isprintable() or " " in url:
            raise ConfigError("url: must contain neither credentials nor spaces")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme == "https", parts.hostname, port, path, networks)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.path}"


def post(target: DeliveryTarget, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Send a request, following redirects. Raises DeliveryFailed unless it is answered with 2xx."""
    for _ in range(_MAX_REDIRECTS + 1):
        status, location = _attempt(target, body, headers, timeout_s)
        if 200 <= status < 300:
            return
        if status not in (307, 308) or not location:
            raise DeliveryFailed(f"{target.host} answered {status}")
        target = _redirected(target, location)
    raise DeliveryFailed(f"{target.host}: too many redirects")


def _redirected(target: DeliveryTarget, location: str) -> DeliveryTarget:
    try:
        redirected = DeliveryTarget.parse(urljoin(target.url, location))
    except ConfigError as error:
        raise DeliveryFailed(f"{target.host}: invalid redirect: {error.message}") from None
    if target.tls and not redirected.tls:
        raise DeliveryFailed(f"{target.host} redirects from https to http")
    return DeliveryTarget(
        redirected.tls, redirected.host, redirected.port, redirected.path, target.allow
    )


def _attempt(
    target: DeliveryTarget, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, str]:
    try:
        sock = _connect(target, timeout_s)
    except OSError as error:
        raise _unreachable(target, error) from None
    with sock, sock.dup() as duplicate, on_cancel(partial(_shut_down, duplicate)):
        try:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
            connection.sock = _wrap_tls(target, sock) if target.tls else sock
        except OSError as error:
            raise _unreachable(target, error) from None
        try:
            connection.request("POST", target.path, body, dict(headers))
            response = connection.getresponse()
            response.read(_MAX_RESPONSE)
            return response.status, response.getheader("Location") or ""
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryFailed(f"{target.host}:{target.port} failed: {error!r}") from None
        finally:
            connection.close()


def _connect(target: DeliveryTarget, timeout_s: float) -> socket.socket:
    """Connect to a checked address; the name is used only for TLS and Host."""
    address = _allowed_address(target)
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    try:
        sock.settimeout(timeout_s)
        with on_cancel(partial(_shut_down, sock)):
            sock.connect((str(address), target.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _wrap_tls(target: DeliveryTarget, sock: socket.socket) -> socket.socket:
    return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)


def _shut_down(sock: socket.socket) -> None:
    """Wake threads that wait on the socket, which close(2) would not (shutdown(2))."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _unreachable(target: DeliveryTarget, error: OSError) -> DeliveryFailed:
    return DeliveryFailed(f"cannot reach {target.host}:{target.port}: {error}")


def _allowed_address(target: DeliveryTarget) -> Address:
    """The first address of the host. Raises DeliveryFailed if any of them is not allowed."""
    resolved = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in resolved]
    for address in addresses:
        end = embedded_address(address)
        allowed = (network for network in target.allow if network.version == end.version)
        if not is_public(address) and not any(end in network for network in allowed):
            raise DeliveryFailed(
                f"{target.host} resolves to {address}, which is not a public address",
                hint="if intended, add its network to `allow` of the webhook",
            )
    return addresses[0]
