"""What commands may use: the network of the host, privileges, devices; as BuildKit allows it.

Reference: BuildKit, util/entitlements; its messages are those of BuildKit.
"""

from __future__ import annotations

from typing import cast

from shipline import dockerfile as df
from shipline import sandbox
from shipline.build.attributes import split_csv
from shipline.build.request import Network, RunOptions
from shipline.errors import DockerfileError, located


def network_of(run: df.Run, settings: RunOptions) -> Network:
    """The network of a command; --network=host of the build allows it to the commands, too. Raises
    DockerfileError for one that is not allowed.
    """
    if run.network == "host" and settings.network != "host":
        _require(run, settings, "network.host")
    return settings.network if run.network == "default" else cast(Network, run.network)


def is_insecure(run: df.Run, settings: RunOptions) -> bool:
    """Whether a command runs with all privileges. Raises DockerfileError if that is not allowed."""
    if run.security == "insecure":
        _require(run, settings, "security.insecure")
    return run.security == "insecure"


def _require(run: df.Run, settings: RunOptions, entitlement: str) -> None:
    if entitlement not in settings.entitlements and not settings.planned_only:
        raise DockerfileError(
            f"{entitlement} is not allowed",
            code="entitlement-denied",
            span=run.span,
            hint=f"allow it with --allow {entitlement}",
        )


def devices_of(run: df.Run, settings: RunOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the devices of a command, and the optional ones that do not exist. Raises
    DockerfileError for devices that are not allowed, and for required ones that do not exist.
    """
    if not run.devices or settings.planned_only:
        return (), ()
    words = [one for one in settings.entitlements if one.partition("=")[0] == "device"]
    grants = [split_csv(word.removeprefix("device=")) for word in words if "=" in word]
    aliases = {alias.removeprefix("alias="): name for name, *more in grants for alias in more}
    devices = sandbox.Devices()
    found: dict[str, None] = {}
    absent = []
    with located(run.span):
        granted = {name for one, *_ in grants for name in devices.find(one)}
        for flag in run.devices:
            names = devices.find(aliases.get(flag.name, flag.name), required=flag.required)
            found |= dict.fromkeys(names)
            absent += [] if names else [flag.name]
    if "device" not in words:
        _refuse(run, [name for name in devices.guarded(found) if name not in granted])
    return tuple(found), tuple(absent)


def _refuse(run: df.Run, names: list[str]) -> None:
    if names:
        some = f"device {names[0]} is" if len(names) == 1 else f"devices {', '.join(names)} are"
        raise DockerfileError(
            f"{some} requested by the build but not allowed",
            code="entitlement-denied",
            span=run.span,
            hint=f"allow it with --allow device={names[0]}, or all with --allow device",
        )
