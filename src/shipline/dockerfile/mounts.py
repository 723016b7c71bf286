"""The mounts of a RUN instruction: `--mount=type=cache,target=/root/.cache,...`.

Source: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TypeVar

from msgspec import Struct, field

from shipline.dockerfile.text import did_you_mean
from shipline.errors import DockerfileError
from shipline.units import parse_boolean, parse_go_size

_Choice = TypeVar("_Choice", bound=StrEnum)


class InvalidMount(DockerfileError):
    """An option of RUN --mount is unknown, or has a value that it does not take."""

    code = "dockerfile-mount"


class MountOptions(Struct):
    """The options of one mount by key; `order` holds the keys as given.

    Every method raises DockerfileError for an invalid value.
    """

    values: dict[str, str]
    order: list[str] = field(default_factory=list)

    def text(self, key: str, default: str = "") -> str:
        return self.values.get(key, default)

    def choice(self, key: str, kind: type[_Choice], default: _Choice) -> _Choice:
        if key not in self.values:
            return default
        text = self.values[key]
        try:
            return kind(text.lower())
        except ValueError:
            known = [str(item) for item in kind]
            what = "mount type" if key == "type" else f"{key} value"
            raise InvalidMount(
                f'unsupported {what} "{text}"{did_you_mean(text, known)}',
                hint=f"use one of {', '.join(known)}",
            ) from None

    def boolean(self, key: str) -> bool:
        return parse_option(key, self.text(key, "false"))

    def read_only(self, default: bool) -> bool:
        """The last of readonly and readwrite wins."""
        for key in reversed(self.order):
            if key == "readonly":
                return self.boolean(key)
            if key == "readwrite":
                return not self.boolean(key)
        return default

    def number(self, key: str, default: int, *, base: int = 10) -> int:
        if key not in self.values:
            return default
        text = self.values[key]
        digits = "0-7" if base == 8 else "0-9"
        if not re.fullmatch(f"[{digits}]+", text) or int(text, base) >= 1 << 32:
            raise InvalidMount(
                f"invalid value {text} for {key}",
                hint="use an octal number such as 0755" if base == 8 else "use a number",
            )
        return int(text, base)

    def owner(self, mode: int) -> tuple[int, int, int]:
        return self.number("mode", mode, base=8), self.number("uid", 0), self.number("gid", 0)


def parse_option(key: str, text: str) -> bool:
    """A boolean option of a mount or device. Raises DockerfileError."""
    if (value := parse_boolean(text)) is None:
        raise InvalidMount(f"invalid value for {key}: {text}", hint="use true or false")
    return value


def parse_size(text: str) -> int:
    if (size := parse_go_size(text)) is None:
        raise InvalidMount(f"invalid value for size: {text}", hint="use a size such as 64m")
    return size


_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "ro": "readonly",
    "rw": "readwrite",
}
_KEYS = (
    *("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing"),
    *("required", "size", "mode", "uid", "gid", "env"),
)
_FLAGS = frozenset({"readonly", "readwrite", "required"})


class MountType(StrEnum):
    """The type of a mount."""

    BIND = "bind"
    CACHE = "cache"
    TMPFS = "tmpfs"
    SECRET = "secret"
    SSH = "ssh"


class Sharing(StrEnum):
    """Whether concurrent steps may share a cache mount."""

    SHARED = "shared"
    PRIVATE = "private"
    LOCKED = "locked"


class MountFlag(Struct, frozen=True):
    """A `--mount` as written. `origin` is its `from`, which cannot contain variables."""

    options: tuple[tuple[str, str | None], ...]
    origin: str = ""

    @property
    def type(self) -> str:
        """The type as written, in lower case; it may hold a variable."""
        return next((value or "" for key, value in self.options if key == "type"), "bind").lower()


class Mount(Struct, frozen=True):
    """A mount with every option in effect, defaults filled in.

    `target` is as given, possibly relative to the working directory. It is empty for an SSH agent
    at the default path (/run/buildkit/ssh_agent.N) and for a secret that is only an environment
    variable `env`. `origin` is a stage, image or context; if empty, the build context for a bind,
    nothing for a cache. `size` is in bytes, 0 for no limit. `owned` tells whether mode, uid or gid
    was given: that makes a cache a different one.
    """

    type: MountType
    target: str = ""
    source: str = ""
    origin: str = ""
    id: str = ""
    env: str = ""
    read_only: bool = False
    required: bool = False
    sharing: Sharing = Sharing.SHARED
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    owned: bool = False


def parse_mount_flag(text: str) -> MountFlag:
    """The options of `text`, comma separated values, keys in lower case and under one name.

    Only `from` is checked: other values may contain variables, and stages that are not built are
    not checked. Raises DockerfileError for a variable in `from` and for broken quotes.
    """
    options = tuple(map(_option, split_options(text, "mounts")))
    origin = next((value or "" for key, value in reversed(options) if key == "from"), "")
    if re.search(r"\$.", origin):
        raise InvalidMount(
            "'from' doesn't support variable expansion, define alias stage instead",
            hint="write FROM image:$VERSION AS name, then from=name",
        )
    return MountFlag(options, origin)


def split_options(text: str, of: str) -> list[str]:
    """The comma separated values of a flag. Raises DockerfileError for broken quotes."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise InvalidMount(
            f"failed to parse csv {of}: {error}", hint="double a quote inside quotes"
        ) from None
    if not rows or not rows[0]:
        raise InvalidMount(
            f"failed to parse csv {of}: EOF", hint="give it a value, or leave the flag out"
        )
    return rows[0]


def _option(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    key = key.strip().lower()
    return _ALIASES.get(key, key), value if equals else None


def resolve_mount(flag: MountFlag, expand: Callable[[str], str]) -> Mount:
    """The mount of `flag`, with its values expanded by `expand`.

    Raises DockerfileError for an unknown key or type, an invalid value, and a key that the type
    does not have.
    """
    options = MountOptions({})
    for key, value in flag.options:
        if value is None and key not in _FLAGS:
            raise InvalidMount(
                f"invalid field '{key}' must be a key=value pair{did_you_mean(key, _KEYS)}"
            )
        if key not in _KEYS:
            raise InvalidMount(
                f"unexpected key '{key}' in '{key}={value}'{did_you_mean(key, _KEYS)}",
                hint=f"the keys are {', '.join(_KEYS)}",
            )
        options.values[key] = "true" if value is None else expand(value)
        options.order.append(key)
    mount_type = options.choice("type", MountType, MountType.BIND)
    _check_allowed(options, mount_type)
    return _BUILDERS[mount_type](options)


def _check_allowed(options: MountOptions, mount_type: MountType) -> None:
    for key in options.values:
        if key not in _ALLOWED[mount_type]:
            raise InvalidMount(
                f'{key} not allowed for "{mount_type}" type mounts'
                if key in _OWNED
                else f"unexpected key '{key}' for mount type '{mount_type}'",
                hint=f"a {mount_type} mount has {', '.join(sorted(_ALLOWED[mount_type]))}",
            )


def _bind(options: MountOptions) -> Mount:
    return Mount(
        MountType.BIND,
        target=options.text("target"),
        source=options.text("source"),
        origin=options.text("from"),
        read_only=options.read_only(True),
    )


def _cache(options: MountOptions) -> Mount:
    target = options.text("target")
    mode, uid, gid = options.owner(0o755)
    return Mount(
        MountType.CACHE,
        target=target,
        source=options.text("source"),
        origin=options.text("from"),
        id=options.text("id") or posixpath.normpath(target),
        read_only=options.read_only(False),
        sharing=options.choice("sharing", Sharing, Sharing.SHARED),
        mode=mode,
        uid=uid,
        gid=gid,
        owned=not _OWNED.isdisjoint(options.values),
    )


def _tmpfs(options: MountOptions) -> Mount:
    size = parse_size(options.text("size")) if "size" in options.values else 0
    return Mount(
        MountType.TMPFS,
        target=options.text("target"),
        source=options.text("source"),
        read_only=options.read_only(False),
        size=size,
    )


def _last(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _secret(options: MountOptions) -> Mount:
    target, env = options.text("target"), options.text("env")
    if options.text("source") and options.text("id"):
        raise InvalidMount("both source and id can't be set", hint="keep id")
    secret = options.text("id") or options.text("source") or _last(target)
    if not secret:
        raise InvalidMount(
            "invalid secret mount. one of source, target required", hint="add id=name"
        )
    if not target and not env:
        target = f"/run/secrets/{_last(secret)}"
    mode, uid, gid = options.owner(0o400)
    return Mount(
        MountType.SECRET,
        target=target,
        id=secret,
        env=env,
        read_only=True,
        required=options.boolean("required"),
        mode=mode,
        uid=uid,
        gid=gid,
    )


def _ssh(options: MountOptions) -> Mount:
    mode, uid, gid = options.owner(0o600)
    return Mount(
        MountType.SSH,
        target=options.text("target"),
        id=options.text("id") or "default",
        read_only=True,
        required=options.boolean("required"),
        mode=mode,
        uid=uid,
        gid=gid,
    )


_ANY = frozenset({"type", "target", "readonly", "readwrite", "id"})
_OWNED = frozenset({"mode", "uid", "gid"})
_ALLOWED: Mapping[MountType, frozenset[str]] = {
    MountType.BIND: _ANY | {"source", "from"},
    MountType.CACHE: _ANY | _OWNED | {"source", "from", "sharing"},
    MountType.TMPFS: _ANY | {"size", "from", "source"},
    MountType.SECRET: _ANY | _OWNED | {"source", "required", "env"},
    MountType.SSH: _ANY | _OWNED | {"required"},
}
_BUILDERS: Mapping[MountType, Callable[[MountOptions], Mount]] = {
    MountType.BIND: _bind,
    MountType.CACHE: _cache,
    MountType.TMPFS: _tmpfs,
    MountType.SECRET: _secret,
    MountType.SSH: _ssh,
}
