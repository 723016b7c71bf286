"""Devices of this machine by name, for steps: the Container Device Interface (CDI).

Administrators and drivers describe devices in /etc/cdi and /var/run/cdi; what later directories say
replaces what earlier ones do. Reference: cncf-tags/container-device-interface, SPEC.md 1.0.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from shipline.errors import SandboxError, UsageError
from shipline.sandbox.bundle import BindMount, DeviceNode, StepMount
from shipline.units import parse_boolean

DIRECTORIES = tuple(map(Path, ("/etc/cdi", "/etc/buildkit/cdi", "/var/run/cdi")))
_LARGEST = 10 << 20  # bytes of a file
_KIND = re.compile(
    r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
)
_CLASS = "org.mobyproject.buildkit.device.class"  # annotations of BuildKit, docs/cdi.md
_ALLOWED = "org.mobyproject.buildkit.device.autoallow"


class Device(Struct, frozen=True):
    """A device as a file describes it: `name` is VENDOR/CLASS=NAME, `edits` what a step needs."""

    name: str
    file: Path
    annotations: Mapping[str, str]
    edits: tuple[Mapping[str, Any], ...]

    @property
    def kind(self) -> str:
        return self.name.partition("=")[0]

    @property
    def allowed(self) -> bool:
        """Whether it needs no entitlement."""
        return parse_boolean(self.annotations.get(_ALLOWED, "")) or False


class DeviceEdits(Struct, frozen=True):
    """What a step with devices has besides."""

    env: tuple[str, ...] = ()
    mounts: tuple[StepMount, ...] = ()
    groups: tuple[int, ...] = ()


class Devices:
    """The devices that the files in `directories` describe, sorted by name."""

    def __init__(self, directories: Sequence[Path] = DIRECTORIES) -> None:
        self._broken: list[str] = []
        found = {one.name: one for one in self._read(directories)}
        self._devices = {name: found[name] for name in sorted(found)}

    def find(self, wanted: str, *, required: bool = True) -> tuple[str, ...]:
        """The names of the devices that `wanted` means: VENDOR/CLASS=NAME, all for the name `*`,
        the first without a name, or those of a class of BuildKit's.

        Raises UsageError for what is not the name of a device, and for a missing required one.
        """
        kind, _, name = wanted.partition("=")
        if not _KIND.fullmatch(kind):
            raise UsageError(
                f'invalid device "{wanted}"', code="device", hint="it is VENDOR/CLASS=NAME"
            )
        of_kind = [one for one in self._devices.values() if one.kind == kind]
        if name == "*":
            found = of_kind
        elif not name:
            found = of_kind[:1]
        else:
            found = [one for one in of_kind if one.name == wanted]
            found = found or [one for one in of_kind if one.annotations.get(_CLASS) == name]
        if required and not found:
            places = " and ".join(str(one) for one in DIRECTORIES)
            raise UsageError(
                f'required device "{wanted}" is not registered',
                code="device",
                hint="; ".join([f"devices are described in {places}", *self._broken]),
            )
        return tuple(one.name for one in found)

    def guarded(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that need an entitlement."""
        return [name for name in names if not self._devices[name].allowed]

    def edits(self, names: Iterable[str]) -> DeviceEdits:
        """What steps with these devices have besides. Raises SandboxError for a device that is not
        there any more or needs what is not done here: hooks above all.
        """
        env: list[str] = []
        mounts: list[StepMount] = []
        groups: list[int] = []
        done: list[Mapping[str, Any]] = []
        for name in names:
            device = self._devices.get(name)
            if device is None:
                raise SandboxError(f"device {name} is no longer registered", code="device")
            for edit in device.edits:
                if edit not in done:  # that of the file is for all of its devices
                    done.append(edit)
                    _check(device, edit)
                    env += [str(one) for one in edit.get("env") or ()]
                    mounts += [_node(device, one) for one in edit.get("deviceNodes") or ()]
                    mounts += [_mount(device, one) for one in edit.get("mounts") or ()]
                    groups += [int(one) for one in edit.get("additionalGids") or ()]
        return DeviceEdits(tuple(env), tuple(mounts), tuple(groups))

    def _read(self, directories: Sequence[Path]) -> Iterator[Device]:
        for directory in directories:
            try:
                files = sorted(directory.iterdir())
            except OSError:
                continue
            for file in files:
                if file.suffix in (".json", ".yaml", ".yml"):
                    yield from self._of_file(file)

    def _of_file(self, file: Path) -> list[Device]:
        """The devices of a file; none of one that is broken, which is said where one is missing."""
        try:
            document = _load(file)
            kind, annotations = document["kind"], document.get("annotations") or {}
            common = document.get("containerEdits") or {}
            return [
                Device(
                    f"{kind}={one['name']}",
                    file,
                    {**annotations, **(one.get("annotations") or {})},
                    (common, one.get("containerEdits") or {}),
                )
                for one in document["devices"]
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._broken.append(f"{file} cannot be read: {error or type(error).__name__}")
            return []


def _load(file: Path) -> Any:
    with file.open("rb") as opened:
        content = opened.read(_LARGEST)
    if file.suffix == ".json":
        return json.loads(content)
    from ruamel.yaml import YAML  # slow to import
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(content)
    except YAMLError as error:
        raise ValueError(f"not valid YAML: {str(error).splitlines()[0]}") from None


_DONE = {"env", "deviceNodes", "mounts", "additionalGids"}


def _check(device: Device, edit: Mapping[str, Any]) -> None:
    more = sorted(key for key, value in edit.items() if key not in _DONE and value)
    if more:
        raise SandboxError(
            f"device {device.name} needs {', '.join(more)}, which is not supported",
            code="device",
            hint=f"instead of {device.file}, describe the device without it in a file of your own",
        )


def _node(device: Device, node: Mapping[str, Any]) -> DeviceNode:
    target = _path(device, node.get("path"))
    source = Path(_path(device, node.get("hostPath") or target))
    try:
        status = source.stat()
    except OSError as error:
        raise SandboxError(
            f"device {device.name}: {source}: {error.strerror}", code="device"
        ) from None
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise SandboxError(f"device {device.name}: {source} is not a device", code="device")
    numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
    wanted = tuple(
        node.get(key, here) for key, here in zip(("major", "minor"), numbers, strict=True)
    )
    if wanted != numbers and wanted != (0, 0):
        raise SandboxError(
            f"device {device.name}: {source} is {numbers}, not {wanted}", code="device"
        )
    return DeviceNode(source, target, node.get("fileMode"), node.get("uid"), node.get("gid"))


def _mount(device: Device, mount: Mapping[str, Any]) -> BindMount:
    source, target = _path(device, mount.get("hostPath")), _path(device, mount.get("containerPath"))
    return BindMount(Path(source), target, read_only="rw" not in (mount.get("options") or ()))


def _path(device: Device, text: object) -> str:
    if isinstance(text, str) and text.startswith("/") and os.path.normpath(text) == text != "/":
        return text
    raise SandboxError(
        f"device {device.name}: {text!r} is not an absolute, plain path",
        code="device",
        hint=f"see {device.file}",
    )
