"""Addresses: which are loopback, link-local or public; URLs, their parts, and without their logins.

The one rule for requests made on behalf of others, and for trust by address.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from shipline.errors import UsageError

if TYPE_CHECKING:  # 3 ms, for programs without a network
    import socket
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    Address = IPv4Address | IPv6Address
    Network = IPv4Network | IPv6Network

_NOT_PUBLIC = (
    "3fff::/20",  # RFC 9637, documentation
    "192.0.0.0/24",  # RFC 6890, protocols
    "192.88.99.0/24",  # RFC 7526, was 6to4
)

_PASSWORD = re.compile(r"(?<=://)([^/?#\s:@]*):[^/?#\s]*@")
_LOGIN = re.compile(r"(?<!ssh)://[^/?#\s]*@|(?<=ssh)://[^/?#\s:@]*:[^/?#\s]*@")


def without_logins(text: str) -> str:
    """A URL, or a text with URLs, without their logins; users of SSH, which are no secret, stay."""
    return _LOGIN.sub("://", text)


def split_url(text: str) -> SplitResult:
    """The parts of a URL from elsewhere. Raises UsageError for one without parts, and for a port
    that is not a number.
    """
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        shown = without_logins(text)[:200]
        raise UsageError(
            f"{shown!r} is not a URL: {error}",
            code="url-invalid",
            hint="write an IPv6 address as [::1]",
        ) from None
    return parts


def without_passwords(text: str) -> str:
    """A URL, or a text with URLs, with the users of their logins alone."""
    return _PASSWORD.sub(r"\1@", text)


def read_address(text: str) -> Address | None:
    """The address, None if `text` is none; without brackets and zone, IPv4-mapped as IPv4."""
    import ipaddress

    try:
        address = ipaddress.ip_address(text.strip().strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(host: str) -> bool:
    """Whether a host name or address always means this machine."""
    if host.lower() == "localhost":
        return True
    address = read_address(host) if host[:1].isdigit() or ":" in host else None
    return address is not None and address.is_loopback


def is_public(address: Address) -> bool:
    """Whether it is public: not private, loopback, link-local, reserved or multicast."""
    inner = embedded_address(address)
    if inner.version == 6 and inner not in _network("2000::/3"):  # RFC 4291, global unicast
        return False
    reserved = any(inner in _network(text) for text in _NOT_PUBLIC)
    return inner.is_global and not inner.is_multicast and not reserved


def is_link_local(address: Address) -> bool:
    """Whether it is in 169.254.0.0/16 or fe80::/10, where clouds serve credentials."""
    return embedded_address(address).is_link_local


def embedded_address(address: Address) -> Address:
    """The IPv4 address that an IPv6 address embeds, else the address."""
    import ipaddress

    if not isinstance(address, ipaddress.IPv6Address):
        return address
    if address in _network("64:ff9b::/96"):  # RFC 6052, NAT64
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


@cache
def _network(text: str) -> Network:
    import ipaddress

    return ipaddress.ip_network(text)


def connect_unix(path: str, timeout_s: float | None = None) -> socket.socket:
    """A connection to the socket at `path`, whose calls then wait `timeout_s`. Raises OSError."""
    import socket  # 3 ms, for programs without a network

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection
