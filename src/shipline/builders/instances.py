"""Builders as buildx keeps them: a file for each, with its nodes, that both programs use.

Source: docker/buildx, store/; docker/cli, cli/config. Which builder is used is decided here alone:
builds run in this process until `shipline builder use` names another, whatever buildx uses.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct, field

from shipline.errors import ConfigError, UsageError
from shipline.files import open_whole, read_bounded
from shipline.home import docker_directory
from shipline.oci import Platform
from shipline.tasks import locked
from shipline.values import replace

NATIVE = "native"
"""The engine of this machine, which needs no file."""

Driver = Literal["docker", "docker-container", "kubernetes", "remote", "ssh"]
FOREIGN = ("docker", "remote", "ssh")
"""Drivers whose daemons others start, so that they take no flags and files."""
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*")
_LARGEST = 16 << 20  # bytes of a file, which may have certificates in it


class Node(Struct, frozen=True):
    """One place of a builder: where it is, the platforms it is to build if they are fixed, the
    options of its driver, and the flags and files of its daemon.
    """

    name: str
    endpoint: str
    platforms: tuple[Platform, ...] = ()
    driver_options: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


class Builder(Struct, frozen=True):
    """Nodes under one name; a `dynamic` one is a context of docker, without a file."""

    name: str
    driver: str
    nodes: tuple[Node, ...]
    dynamic: bool = False


class BuilderStore:
    """The directory of buildx."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> BuilderStore:
        """The one that BUILDX_CONFIG names, or that lies beside docker's configuration."""
        if own := environment.get("BUILDX_CONFIG"):
            return cls(Path(own))
        return cls(docker_directory(environment) / "buildx")

    def stored(self) -> list[Builder]:
        """All builders with a file, by name; files that cannot be read are left out."""
        try:
            names = sorted(os.listdir(self.directory / "instances"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for name in filter(_NAME.fullmatch, names):
            with suppress(UsageError, ConfigError):
                if builder := self.find(name):
                    found.append(builder)
        return found

    def find(self, name: str) -> Builder | None:
        """The builder of that name. Raises UsageError for a damaged file."""
        check_name(name)
        if (raw := self._read(f"instances/{name}")) is None:
            return None
        try:
            return _parse(name, json.loads(raw))
        except KeyError as error:
            reason = f"it has no {error}"
        except ValueError as error:
            reason = str(error)
        except (TypeError, AttributeError, RecursionError):
            reason = "it is not what buildx writes"
        raise UsageError(
            f"the file of the builder {name} is damaged: {reason}",
            code="builder-files",
            hint=f"remove it: shipline builder rm {name}",
        )

    def save(self, builder: Builder) -> None:
        with self.changing(builder.name):
            self.write(builder)

    @contextmanager
    def changing(self, name: str) -> Iterator[Builder | None]:
        """The builder of that name, None if there is none, for a block in which no other process
        changes it; `write` there keeps what became of it.
        """
        check_name(name)
        with self._changing():
            yield self.find(name)

    def write(self, builder: Builder) -> None:
        self._write(f"instances/{builder.name}", _format(builder))

    def touch(self, name: str) -> None:
        """Note that a builder is used now; quiet about a directory that cannot be written."""
        with suppress(OSError):
            (self.directory / "activity").mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(f"activity/{name}", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}")

    def last_activity(self, name: str) -> str:
        """When a builder was used, as RFC 3339 says; empty if it never was."""
        with suppress(ConfigError):
            return (self._read(f"activity/{name}") or b"").decode(errors="replace").strip()
        return ""

    def remove(self, name: str) -> bool:
        """Forget a builder, and whether there was one."""
        check_name(name)
        with self._changing():
            try:
                (self.directory / "instances" / name).unlink()
            except FileNotFoundError:
                return False
            (self.directory / "activity" / name).unlink(missing_ok=True)
            if self.selected() == name:
                self._select(NATIVE)
        return True

    def selected(self) -> str:
        """The builder that is used unless another one is named."""
        raw = self._read("shipline-builder") or b""
        return raw.decode(errors="replace").strip() or NATIVE

    def select(self, name: str) -> None:
        with self._changing():
            self._select(name)

    def _select(self, name: str) -> None:
        if name in (NATIVE, "default"):
            (self.directory / "shipline-builder").unlink(missing_ok=True)
        else:
            self._write("shipline-builder", f"{name}\n")

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with the directory, also among processes of buildx. Raises ConfigError for one that
        cannot be written.
        """
        try:
            (self.directory / "instances").mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(self.directory / ".lock"):
                yield
        except OSError as error:
            raise self._unusable("written", error) from None

    def _read(self, name: str) -> bytes | None:
        """A file, None if it does not exist. Raises ConfigError."""
        try:
            return read_bounded(self.directory / name, _LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._unusable("read", error) from None

    def _unusable(self, verb: str, error: OSError) -> ConfigError:
        place = error.filename or self.directory
        return ConfigError(
            f"the files of builders cannot be {verb}: {place}: {error.strerror}",
            code="builder-files",
            hint="repair the file, or name another directory with BUILDX_CONFIG",
        )

    def _write(self, name: str, text: str) -> None:
        path = self.directory / name
        with open_whole(path) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text.encode())


def other_builder(name: str | None, environment: Mapping[str, str]) -> str:
    """The builder besides the engine of this machine that a command is for: `name`, or else the
    one that was chosen; empty for this machine.
    """
    chosen = name or BuilderStore.of(environment).selected()
    return "" if chosen in (NATIVE, "default") else chosen


def check_name(name: str) -> str:
    """The name of a builder or a node. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a builder",
            code="builder-name",
            hint="a name begins with a letter; letters, digits, `.`, `_` and `-` follow",
        )
    return name


def without_node(builder: Builder, name: str) -> Builder:
    """The builder without a node. Raises UsageError if it has no such node, or only that one."""
    left = tuple(one for one in builder.nodes if one.name != name)
    if len(left) == len(builder.nodes):
        names = ", ".join(one.name for one in builder.nodes)
        raise UsageError(
            f"--node: {builder.name} has no node {name!r}",
            code="builder-node",
            hint=f"its nodes: {names}",
        )
    if not left:
        raise UsageError(
            f"{name} is the only node of {builder.name}",
            code="builder-node",
            hint=f"remove the builder: shipline builder rm {builder.name}",
        )
    return replace(builder, nodes=left)


def parse_driver(name: str) -> str:
    """Raises UsageError for an unknown driver."""
    if name not in get_args(Driver):
        raise UsageError(
            f"--driver: there is no driver {name!r}",
            code="builder-driver",
            hint=f"drivers are {', '.join(get_args(Driver))}",
        )
    return name


def _parse(name: str, document: Any) -> Builder:
    nodes = tuple(
        Node(
            check_name(str(one["Name"])),
            str(one["Endpoint"]),
            tuple(_platform(platform) for platform in one.get("Platforms") or ()),
            {str(key): str(value) for key, value in (one.get("DriverOpts") or {}).items()},
            tuple(map(str, one.get("Flags") or ())),
            {name: base64.b64decode(data) for name, data in (one.get("Files") or {}).items()},
        )
        for one in document["Nodes"] or ()
    )
    return Builder(name, str(document["Driver"]), nodes)


def _platform(document: Mapping[str, str]) -> Platform:
    parts = (document["os"], document["architecture"], document.get("variant", ""))
    return Platform.parse("/".join(part for part in parts if part))


def _format(builder: Builder) -> str:
    nodes = [
        {
            "Name": node.name,
            "Endpoint": node.endpoint,
            "Platforms": [
                {
                    "architecture": platform.architecture,
                    "os": platform.os,
                    **({"variant": platform.variant} if platform.variant else {}),
                }
                for platform in node.platforms
            ]
            or None,
            "DriverOpts": dict(node.driver_options) or None,
            "Flags": list(node.flags) or None,
            "Files": {name: base64.b64encode(data).decode() for name, data in node.files.items()}
            or None,
        }
        for node in builder.nodes
    ]
    document = {"Name": builder.name, "Driver": builder.driver, "Nodes": nodes, "Dynamic": False}
    return json.dumps(document)
