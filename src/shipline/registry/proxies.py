"""Which proxy a request goes through, as the usual environment variables say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from shipline.net import is_loopback
from shipline.registry.origin import Origin


@dataclass(frozen=True, slots=True)
class Proxies:
    """Proxy URLs per scheme, empty for none; `without` are the hosts that are reached directly."""

    http: str = ""
    https: str = ""
    without: tuple[str, ...] = ()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY; lower case wins.

        HTTP_PROXY in capitals is not read inside CGI, where a client sets it (httpoxy).
        """

        def get(name: str) -> str:
            return environment.get(name.lower()) or environment.get(name) or ""

        every = get("ALL_PROXY")
        in_cgi = "REQUEST_METHOD" in environment
        http = environment.get("http_proxy", "") if in_cgi else get("HTTP_PROXY")
        hosts = (entry.strip().lower() for entry in get("NO_PROXY").split(","))
        return cls(
            http or every,
            get("HTTPS_PROXY") or every,
            tuple(entry for entry in hosts if entry),
        )

    def of(self, origin: Origin) -> str:
        """The URL of the proxy for `origin`, empty for a direct connection; loopback is direct."""
        url = self.https if origin.scheme == "https" else self.http
        if not url or is_loopback(origin.host) or self._excepted(origin):
            return ""
        return url if "://" in url else f"http://{url}"

    def _excepted(self, origin: Origin) -> bool:
        return any(_covers(entry, origin) for entry in self.without)


def _covers(entry: str, origin: Origin) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(origin.host, entry)
    name, colon, port = entry.rpartition(":")
    if colon and port.isdigit() and "]" not in port and name.count(":") == 0:
        if int(port) != origin.port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").lstrip(".")
    return origin.host == entry or origin.host.endswith("." + entry)


def _in_network(host: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
