"""Values with a syntax of their own: Go durations, the ports of EXPOSE, the signals of STOPSIGNAL.

Source: Go package time, ParseDuration and Duration.String; signal(7); Dockerfile reference,
"EXPOSE", "STOPSIGNAL". Of the `ip:host:container` form of EXPOSE, only the container part counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec import Struct

from shipline.dockerfile.text import did_you_mean
from shipline.errors import DockerfileError

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_TOO_LONG_NS = 1 << 63
_PART = r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_WHOLE = rf"[+-]?({_PART})+"


class InvalidValue(DockerfileError):
    """A duration, a port or a signal is malformed."""

    code = "dockerfile-value"


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises ValueError for an invalid duration, and one of more than 64 bits."""
    if text.lstrip("+-") == "0" and len(text) <= 2:
        return 0
    if not re.fullmatch(_WHOLE, text):
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(_scaled(number, _UNITS_NS[unit]) for number, unit in re.findall(_PART, text))
    if total >= _TOO_LONG_NS:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text.startswith("-") else total


def _scaled(number: str, unit: int) -> int:
    whole, _, fraction = number.partition(".")
    below = int(fraction or "0") * unit // int("1" + "0" * len(fraction))
    return int(whole or "0") * unit + below


def format_duration(nanoseconds: int) -> str:
    """The shortest text with the largest units: `1h0m5s`, `1.5s`, `20ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < 1_000_000_000:
        unit = next(unit for unit in ("ms", "µs", "ns") if rest >= _UNITS_NS[unit])
        return f"{sign}{_decimal(rest, _UNITS_NS[unit])}{unit}"
    minutes, below = divmod(rest, _UNITS_NS["m"])
    seconds = f"{_decimal(below, _UNITS_NS['s'])}s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}h{minutes}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _decimal(value: int, unit: int) -> str:
    whole, below = divmod(value, unit)
    fraction = str(below).rjust(len(str(unit)) - 1, "0").rstrip("0") if unit > 1 else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


_PROTOCOLS = ("tcp", "udp", "sctp")
_LAST_PORT = 65535


class PortSpec(Struct, frozen=True):
    """The parts of one word of EXPOSE, as written; `protocol` is empty if not given."""

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
    """Each port as `80/tcp`, with ranges expanded, in order, including duplicates.

    Raises DockerfileError for a port that is not a number up to 65535, a descending range and an
    unknown protocol.
    """
    return tuple(port for word in words for port in _ports(word))


def _ports(text: str) -> list[str]:
    spec = PortSpec.parse(text)
    protocol = spec.protocol.lower() or "tcp"
    if not spec.container:
        raise InvalidValue(f'invalid port: "{text}": no port specified', hint="write 80/tcp")
    if protocol not in _PROTOCOLS:
        raise InvalidValue(
            f'invalid port: "{text}": invalid proto: {spec.protocol}',
            hint=f"use one of {', '.join(_PROTOCOLS)}",
        )
    _check_address(spec.address)
    ports = _range(spec.container, "containerPort")
    if spec.host and len(ports) not in (1, len(_range(spec.host, "hostPort"))):
        raise InvalidValue(
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
        raise InvalidValue(
            f"invalid IP address: {address}", hint="EXPOSE names container ports only"
        ) from None


def _range(text: str, what: str) -> range:
    first, dash, last = text.partition("-")
    bounds = [first, last] if dash else [first, first]
    if not all(re.fullmatch(r"\+?[0-9]+", bound) for bound in bounds):  # strconv.Atoi's
        raise InvalidValue(f"invalid {what}: {text}", hint="write a port or a range 80-90")
    start, end = (int(bound) for bound in bounds)
    if end < start or end > _LAST_PORT:
        raise InvalidValue(f"invalid {what}: {text}", hint=f"ports run from 0 to {_LAST_PORT}")
    return range(start, end + 1)


NAMES = tuple(
    f"SIG{name}"
    for name in (
        *("ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT"),
        *("KILL", "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM"),
        *("TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU"),
        *("XFSZ", "RTMIN", "RTMAX"),
        *(f"RTMIN+{number}" for number in range(1, 16)),
        *(f"RTMAX-{number}" for number in range(1, 15)),
    )
)


_NUMBER = re.compile(r"[-+]?[0-9]{1,40}")


def checked_signal(text: str) -> str:
    """`text` if it is a number of 64 bits other than 0, as BuildKit takes it, or a signal name,
    with or without SIG, in any letter case.

    Raises DockerfileError otherwise.
    """
    name = "SIG" + text.upper().removeprefix("SIG")
    if name in NAMES or (_NUMBER.fullmatch(text) and 0 < abs(int(text)) < 1 << 63):
        return text
    raise InvalidValue(
        f"invalid signal: {text}{did_you_mean(name, NAMES)}", hint="write STOPSIGNAL SIGTERM"
    )
