"""Where a request really comes from, when trusted proxies are in between."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Self

from shipline.net import read_address


@dataclass(frozen=True, slots=True)
class Network:
    """A block of addresses in CIDR notation, or one address."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        ipaddress.ip_network(text)
        return cls(text)

    def holds(self, address: str) -> bool:
        """False for what is no address; IPv4 in IPv6 form is IPv4."""
        found = read_address(address)
        return found is not None and found in ipaddress.ip_network(self.text)


def origin(peer: str, forwarded: str | None, trusted: tuple[Network, ...]) -> str:
    """The address of the client: the peer's, or where that is a trusted proxy the last one in
    X-Forwarded-For that no trusted proxy has written about itself.
    """
    address = peer
    for text in reversed((forwarded or "").split(",")):
        if not any(network.holds(address) for network in trusted):
            return address
        found = read_address(text)
        if found is None:
            return address
        address = str(found)
    return address


def neighbourhood(address: str) -> str:
    """What one client can choose its address from: an IPv6 network of 64 bits."""
    found = read_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address
