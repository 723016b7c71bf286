"""One POST to a receiver, from a server that must not be led into its own network.

A name is looked up once, every address that it has is judged, and the connection goes to a judged
one; a redirect is a new name. Public addresses are good, others only where they are listed.
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
from shipline.net import embedded, is_public
from shipline.tasks import on_cancel

if TYPE_CHECKING:
    from shipline.net import Address, Network

_HOPS = 3  # redirects
_ANSWER = 64 << 10  # bytes of an answer that are read


class DeliveryFailed(ShiplineError):
    """The receiver could not be reached, or did not accept the event."""

    code = "undelivered"


@dataclass(frozen=True, slots=True)
class DeliveryTarget:
    """Where a request goes; `allow` are the networks that are good though they are not public."""

    secure: bool
    host: str
    port: int
    path: str
    allow: tuple[Network, ...]

    @classmethod
    def parse(cls, url: str, allow: Sequence[str] = ()) -> Self:
        """Raises ConfigError for what is no http(s) URL, or no list of networks."""
        try:
            parts = urlsplit(url)
            networks = tuple(ipaddress.ip_network(text, strict=False) for text in allow)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise ConfigError(f"url: {error}") from None
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ConfigError(f"url: {url!r} does not begin with https:// or http:// and a host")
        if parts.username is not None or not url.isprintable() or " " in url:
            raise ConfigError("url: it must hold neither credentials nor blanks")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.scheme == "https", parts.hostname, port, path, networks)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.path}"


def post(target: DeliveryTarget, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
    """Send until it is accepted (2xx). Raises Undelivered with the reason otherwise."""
    for _ in range(_HOPS + 1):
        status, location = _once(target, body, headers, timeout_s)
        if 200 <= status < 300:
            return
        if status not in (307, 308) or not location:
            raise DeliveryFailed(f"{target.host} answered {status}")
        target = _followed(target, location)
    raise DeliveryFailed(f"{target.host} redirects on and on")


def _followed(target: DeliveryTarget, location: str) -> DeliveryTarget:
    try:
        found = DeliveryTarget.parse(urljoin(target.url, location))
    except ConfigError as error:
        raise DeliveryFailed(f"{target.host} redirects to no good place: {error.message}") from None
    if target.secure and not found.secure:
        raise DeliveryFailed(f"{target.host} redirects from https to http")
    return DeliveryTarget(found.secure, found.host, found.port, found.path, target.allow)


def _once(
    target: DeliveryTarget, body: bytes, headers: Mapping[str, str], timeout_s: float
) -> tuple[int, str]:
    try:
        sock = _connected(target, timeout_s)
    except OSError as error:
        raise _unreachable(target, error) from None
    with sock, sock.dup() as lifeline, on_cancel(partial(_shut, lifeline)):
        try:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
            connection.sock = _secured(target, sock) if target.secure else sock
        except OSError as error:
            raise _unreachable(target, error) from None
        try:
            connection.request("POST", target.path, body, dict(headers))
            answer = connection.getresponse()
            answer.read(_ANSWER)
            return answer.status, answer.getheader("Location") or ""
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryFailed(f"{target.host}:{target.port} broke off: {error!r}") from None
        finally:
            connection.close()


def _connected(target: DeliveryTarget, timeout_s: float) -> socket.socket:
    """A connection to an address that was judged; the name is only used for TLS and Host."""
    address = _judged(target)
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    try:
        sock.settimeout(timeout_s)
        with on_cancel(partial(_shut, sock)):
            sock.connect((str(address), target.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(target: DeliveryTarget, sock: socket.socket) -> socket.socket:
    return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)


def _shut(sock: socket.socket) -> None:
    """Wake whoever waits on it, which closing the descriptor would not do (shutdown(2))."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _unreachable(target: DeliveryTarget, error: OSError) -> DeliveryFailed:
    return DeliveryFailed(f"cannot reach {target.host}:{target.port}: {error}")


def _judged(target: DeliveryTarget) -> Address:
    """The first address of the host. Raises Undelivered if any of them is out of bounds."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        end = embedded(address)
        allowed = (one for one in target.allow if one.version == end.version)
        if not is_public(address) and not any(end in network for network in allowed):
            raise DeliveryFailed(
                f"{target.host} leads to {address}, which is not a public address",
                hint="list its network in `allow` of the webhook if that is meant",
            )
    return addresses[0]
