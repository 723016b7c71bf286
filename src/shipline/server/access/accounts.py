"""Accounts as values: users, robots, projects and their members, and the records that store
them.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

from shipline.errors import UsageError
from shipline.globs import glob
from shipline.server.http import Action

Role = Literal["limited-guest", "guest", "developer", "maintainer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,254}")
_PROJECT = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_ROBOT = re.compile(r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*")

_PULL: frozenset[Action] = frozenset({"pull"})
_PUSH: frozenset[Action] = frozenset({"pull", "push", "update"})
ROLE_ACTIONS: Mapping[Role, frozenset[Action]] = {
    "limited-guest": _PULL,
    "guest": _PULL,
    "developer": _PUSH,
    "maintainer": _PUSH | {"delete"},
    "admin": _PUSH | {"delete"},
}
_GRANTS: Mapping[tuple[str, str], frozenset[Action]] = {
    ("repository", "pull"): _PULL,
    ("repository", "push"): frozenset({"push", "update"}),
    ("repository", "create"): frozenset({"push"}),
    ("repository", "update"): frozenset({"update"}),
    ("repository", "delete"): frozenset({"delete"}),
    ("repository", "replicate"): frozenset({"pull", "replicate"}),
    ("artifact", "delete"): frozenset({"delete"}),
    ("tag", "delete"): frozenset({"delete"}),
    ("repository", "*"): _PUSH | {"delete"},
    ("*", "*"): _PUSH | {"delete"},
}


@dataclass(frozen=True, slots=True)
class User:
    """A person. `password` is its hash; an administrator may do everything."""

    name: str
    password: str
    admin: bool = False
    disabled: bool = False
    id: int = 0
    created: float = 0.0

    @property
    def login(self) -> str:
        return self.name

    @property
    def stamp(self) -> str:
        """Changes with the password and reveals nothing about it."""
        return _stamp(self.password)


@dataclass(frozen=True, slots=True)
class RobotAccess:
    """An entry of a robot's permission in Harbor's terms, like repository:push."""

    resource: str
    action: str


@dataclass(frozen=True, slots=True)
class Permission:
    """What a robot may do in one project, or in all (`namespace` is `*`).

    `repositories` and `tags` are patterns (`globs.glob`), any of which must match; none means all.
    Repository patterns match the full name, project included.
    """

    namespace: str
    access: tuple[RobotAccess, ...]
    kind: str = "project"
    repositories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def actions(self) -> frozenset[Action]:
        """The actions that its entries grant on images."""
        actions: frozenset[Action] = frozenset()
        for entry in self.access:
            actions |= _GRANTS.get((entry.resource, entry.action), frozenset())
        return actions


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """The SHA-256 of one valid secret; `expires` is 0 if it is valid until replaced."""

    digest: str
    created: float
    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class Robot:
    """An account for a program. `project` is empty for a system robot; `expires` is 0 for none;
    `networks` are the CIDR blocks it may connect from, none for any.
    """

    id: int
    name: str
    login: str
    project: str
    permissions: tuple[Permission, ...]
    secrets: tuple[StoredSecret, ...]
    description: str = ""
    disabled: bool = False
    duration: int = -1
    expires: float = 0.0
    networks: tuple[str, ...] = ()
    creator: str = ""
    created: float = 0.0
    updated: float = 0.0

    @property
    def stamp(self) -> str:
        """Changes with the secrets and reveals nothing about them."""
        return _stamp(*(secret.digest for secret in self.secrets))

    def usable(self, now: float) -> bool:
        """Whether it is enabled and has not expired at `now`, in Unix time."""
        return not self.disabled and (not self.expires or now < self.expires)


@dataclass(frozen=True, slots=True)
class Project:
    """The repositories below a prefix. `members` are user names with their role."""

    name: str
    public: bool = False
    members: Mapping[str, Role] = field(default_factory=dict)
    id: int = 0
    created: float = 0.0
    owner: str = ""
    removed: bool = False  # its repositories are left to administrators


Account = User | Robot


def pack_account(value: User | Robot | Project) -> bytes:
    """The record of an account."""
    return json.dumps(asdict(value), separators=(",", ":")).encode()


def read_user(record: bytes) -> User:
    """The user in a record."""
    return User(**json.loads(record))


def read_project(record: bytes) -> Project:
    return Project(**json.loads(record))


def read_robot(record: bytes) -> Robot:
    fields: dict[str, Any] = json.loads(record)
    fields["permissions"] = tuple(_permission(entry) for entry in fields["permissions"])
    fields["secrets"] = tuple(StoredSecret(**entry) for entry in fields["secrets"])
    fields["networks"] = tuple(fields["networks"])
    return Robot(**fields)


def _permission(entry: dict[str, Any]) -> Permission:
    access = tuple(RobotAccess(**item) for item in entry.pop("access"))
    repositories, tags = (tuple(entry.pop(key)) for key in ("repositories", "tags"))
    return Permission(access=access, repositories=repositories, tags=tags, **entry)


def is_user_name(name: str) -> bool:
    """Whether this is a valid user name; robots' names never are, because of their prefix."""
    return _NAME.fullmatch(name) is not None


def check_user_name(name: str) -> str:
    """Raises UsageError for an invalid user name."""
    return _checked(_NAME, name, "user", "lower-case letters, digits, and ._- in between")


def check_project_name(name: str) -> str:
    """Raises UsageError for an invalid prefix of repository names."""
    return _checked(
        _PROJECT, name, "project", "use the leading path components of repository names"
    )


def check_robot_name(name: str) -> str:
    """The name. Raises UsageError for an invalid one."""
    return _checked(_ROBOT, name, "robot", "lower-case letters, digits, and single ._- in between")


def _stamp(*kept: str) -> str:
    return hashlib.sha256("\0".join(kept).encode()).hexdigest()


def _checked(pattern: re.Pattern[str], name: str, what: str, hint: str) -> str:
    if len(name) > 255 or pattern.fullmatch(name) is None:
        raise UsageError(f"invalid {what} name: {name!r}", code="account-invalid", hint=hint)
    return name


def matches_any(patterns: tuple[str, ...], name: str) -> bool:
    """Whether any pattern matches, or there is none."""
    return not patterns or any(glob(text).fullmatch(name) for text in patterns)


@dataclass(frozen=True, slots=True)
class RobotPrefix:
    """The prefix of robots' login names, as in Harbor: `robot$project+name`."""

    text: str = "robot$"

    def login(self, project: str, name: str) -> str:
        """The login name of a robot; `project` is empty for a system robot."""
        return f"{self.text}{project}+{name}" if project else f"{self.text}{name}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError unless it ends with $ or + and has valid characters."""
        if not re.fullmatch(r"[a-z0-9._$+-]{1,32}", text) or text[-1] not in "$+":
            raise UsageError(
                f"invalid robot prefix: {text!r}", code="account-invalid", hint="end it with $ or +"
            )
        return cls(text)

    def __str__(self) -> str:
        return self.text


_LONGEST_DAYS = 36500


@dataclass(frozen=True, slots=True)
class RobotOptions:
    """The settings of a robot; see `Robot`. `duration` in days, -1 for no expiry."""

    name: str
    project: str = ""
    permissions: tuple[Permission, ...] = ()
    description: str = ""
    disabled: bool = False
    duration: int = -1
    networks: tuple[str, ...] = ()


def check_robot_options(options: RobotOptions) -> None:
    """Raises UsageError for invalid settings."""
    check_robot_name(options.name)
    if options.duration != -1 and not 0 < options.duration <= _LONGEST_DAYS:
        raise UsageError(
            f"the duration must be -1 or 1 to {_LONGEST_DAYS} days, not {options.duration}",
            code="account-invalid",
        )
    _check_networks(options.networks)
    if not options.permissions:
        raise UsageError("a robot needs at least one permission", code="account-invalid")
    for entry in options.permissions:
        _check_patterns((*entry.repositories, *entry.tags))
        if options.project and entry.namespace != options.project:
            raise UsageError(
                f"a robot of {options.project} cannot have permissions in {entry.namespace!r}",
                code="account-invalid",
            )


def _check_patterns(patterns: Iterable[str]) -> None:
    for text in patterns:
        try:
            glob(text)
        except ValueError as error:
            raise UsageError(str(error), code="account-invalid") from None


def _check_networks(networks: Iterable[str]) -> None:
    for text in networks:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise UsageError(
                f"not a network: {error}", code="account-invalid", hint="write 192.0.2.0/24"
            ) from None
