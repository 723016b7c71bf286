"""What somebody wants a robot to be, and whether it can be."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from shipline.errors import UsageError
from shipline.globs import glob
from shipline.server.access.accounts import Permission, check_robot_name

_LONGEST_DAYS = 36500


@dataclass(frozen=True, slots=True)
class Wish:
    """What a robot shall be; see `accounts.Robot`. `duration` in days, -1 for ever."""

    name: str
    project: str = ""
    permissions: tuple[Permission, ...] = ()
    description: str = ""
    disabled: bool = False
    duration: int = -1
    networks: tuple[str, ...] = ()


def check_wish(wish: Wish) -> None:
    """Raises UsageError for a robot that cannot be."""
    check_robot_name(wish.name)
    if wish.duration != -1 and not 0 < wish.duration <= _LONGEST_DAYS:
        raise UsageError(f"a duration is -1 or 1 to {_LONGEST_DAYS} days, not {wish.duration}")
    _check_networks(wish.networks)
    if not wish.permissions:
        raise UsageError("a robot without permissions can do nothing")
    for entry in wish.permissions:
        _check_patterns((*entry.repositories, *entry.tags))
        if wish.project and entry.namespace != wish.project:
            raise UsageError(
                f"a robot of project {wish.project} cannot have rights in {entry.namespace!r}"
            )


def _check_patterns(patterns: Iterable[str]) -> None:
    for text in patterns:
        try:
            glob(text)
        except ValueError as error:
            raise UsageError(str(error)) from None


def _check_networks(networks: Iterable[str]) -> None:
    for text in networks:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise UsageError(f"not a network: {error}", hint="write 192.0.2.0/24") from None
