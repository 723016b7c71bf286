"""The ports of EXPOSE.

Source: Dockerfile reference, "EXPOSE"; the `ip:host:container` form is read for compatibility and
only its container part counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from shipline.errors import DockerfileError

_PROTOCOLS = ("tcp", "udp", "sctp")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class PortSpec:
    """One word of EXPOSE taken apart, as written; `protocol` is empty where it is not given."""

    address: str
    host: str
    container: str
    protocol: str

    @classmethod
    def parse(cls, text: str) -> PortSpec:
        left, _, container = text.rpartition(":")
        address, _, host = left.rpartition(":")
        port, _, protocol = container.partition("/")
        return cls(address, host, port, protocol)


def exposed_ports(words: Iterable[str]) -> tuple[str, ...]:
    """Each port as `80/tcp`, ranges written out, in the order given, repeats kept.

    Raises DockerfileError for a port that is not a number up to 65535, a range that runs
    backwards, an unknown protocol.
    """
    return tuple(port for word in words for port in _ports(word))


def _ports(text: str) -> list[str]:
    spec = PortSpec.parse(text)
    protocol = spec.protocol.lower() or "tcp"
    if not spec.container:
        raise DockerfileError(f'invalid port: "{text}": no port specified', hint="write 80/tcp")
    if protocol not in _PROTOCOLS:
        raise DockerfileError(
            f'invalid port: "{text}": invalid proto: {spec.protocol}',
            hint=f"use one of {', '.join(_PROTOCOLS)}",
        )
    _check_address(spec.address)
    ports = _range(spec.container, "containerPort")
    if spec.host and len(ports) not in (1, len(_range(spec.host, "hostPort"))):
        raise DockerfileError(
            f"invalid ranges specified for container and host Ports: {spec.container} and "
            f"{spec.host}",
            hint="EXPOSE names container ports only; drop the host part",
        )
    return [f"{port}/{protocol}" for port in ports]


def _check_address(address: str) -> None:
    if not address:
        return
    import ipaddress  # rare, and slow to load

    try:
        ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise DockerfileError(
            f"invalid IP address: {address}", hint="EXPOSE names container ports only"
        ) from None


def _range(text: str, what: str) -> range:
    first, dash, last = text.partition("-")
    bounds = [first, last] if dash else [first, first]
    if not all(bound.isascii() and bound.isdigit() for bound in bounds):
        raise DockerfileError(f"invalid {what}: {text}", hint="write a port or a range 80-90")
    start, end = (int(bound) for bound in bounds)
    if end < start or end > _LAST_PORT:
        raise DockerfileError(f"invalid {what}: {text}", hint=f"ports run from 0 to {_LAST_PORT}")
    return range(start, end + 1)
