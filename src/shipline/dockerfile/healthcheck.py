"""HEALTHCHECK.

Source: Dockerfile reference, "HEALTHCHECK"; OCI image configuration, "Healthcheck".
"""

from __future__ import annotations

import re

from shipline.dockerfile.durations import format_duration, parse_duration
from shipline.dockerfile.fields import common, read_command
from shipline.dockerfile.flags import Flags, read_flags
from shipline.dockerfile.instructions import HealthCheck
from shipline.dockerfile.parser import Node
from shipline.errors import DockerfileError

_MINIMUM_INTERVAL_NS = 1_000_000


def read_health_check(node: Node, escape: str) -> HealthCheck:
    kind, *tail = node.rest.split(None, 1) or [""]
    rest = tail[0] if tail else ""
    if not kind:
        raise DockerfileError("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest:
            raise DockerfileError("HEALTHCHECK NONE takes no arguments")
        return HealthCheck(test=("NONE",), **common(node))
    if kind.upper() != "CMD":
        raise DockerfileError(f'Unknown type "{kind.upper()}" in HEALTHCHECK (try CMD)')
    command = read_command(rest)
    if not command.words:
        raise DockerfileError("Missing command after HEALTHCHECK CMD")
    times = ("interval", "timeout", "start-period", "start-interval")
    flags = read_flags(node.flags, text=(*times, "retries"))
    interval, timeout, start_period, start_interval = (_interval(flags, name) for name in times)
    return HealthCheck(
        test=("CMD-SHELL" if command.shell_form else "CMD", *command.words),
        interval_ns=interval,
        timeout_ns=timeout,
        start_period_ns=start_period,
        start_interval_ns=start_interval,
        retries=_retries(flags.text("retries")),
        **common(node),
    )


def _interval(flags: Flags, name: str) -> int:
    text = flags.text(name)
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except ValueError as error:
        raise DockerfileError(str(error), hint=f"write --{name}=30s") from None
    if value != 0 and value < _MINIMUM_INTERVAL_NS:
        least = format_duration(_MINIMUM_INTERVAL_NS)
        raise DockerfileError(f'Interval "{name}" cannot be less than {least}')
    return value


def _retries(text: str) -> int:
    if not re.fullmatch(r"[+-]?\d*", text):
        raise DockerfileError(f'invalid number of retries: "{text}"', hint="write --retries=3")
    value = int(text or "0")
    if value < 0:
        raise DockerfileError(f"--retries cannot be negative ({value})")
    return value
