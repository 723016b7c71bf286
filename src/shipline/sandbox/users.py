"""The users and groups of an image: what `USER`, `RUN --user` and `--chown` mean inside a root.

Reference: passwd(5), group(5); the rules are those of Docker. Names are looked up in the image's
files, numbers are taken as they are. A listed user brings its group, home and, unless a group was
written too, its supplementary groups. The first supplementary group is the group itself: else a
process could drop it and read what is closed to that group alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from shipline.errors import UsageError
from shipline.sandbox.rooted import read_in_root

_MOST = 2**32 - 2  # the largest id; the next one means "unchanged" to chown(2)


class ProcessUser(Struct, frozen=True):
    """Numeric ids of a process: user, group, supplementary groups; and the home directory."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


ROOT = ProcessUser(groups=(0,), home="/root")


def find_user(root: Path, text: str) -> ProcessUser:
    """What `text` (`name`, `uid`, `name:group`, `uid:gid`; empty for root) is inside `root`.

    Raises UsageError for a name that the image does not know.
    """
    return user_of(text, _text(root, "/etc/passwd"), _text(root, "/etc/group"))


OnUnknown = Callable[[UsageError, str], None]
"""Is called for a name that the image does not have, with what is used instead."""


def find_owner(root: Path, text: str, on_unknown: OnUnknown) -> tuple[int, int]:
    """The uid and gid that `--chown=text` means inside `root`; see `owner_of`."""
    return owner_of(text, _text(root, "/etc/passwd"), _text(root, "/etc/group"), on_unknown)


def needs_files(text: str) -> bool:
    """Whether `text` has names to look up; root is known everywhere."""
    return any(_known_id(part) is None for part in text.split(":", 1))


class _Account(Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


def user_of(text: str, passwd: str, group: str) -> ProcessUser:
    """`find_user` on the content of the two files."""
    name, separator, group_name = text.partition(":")
    account = _account(name or "0", passwd)
    if separator and group_name:
        gid = _gid(group_name, group)
        return ProcessUser(account.uid, gid, (gid,), account.home)
    others = [gid for _, gid, members in _groups(group) if account.name in members - {""}]
    groups = tuple(dict.fromkeys((account.gid, *others)))
    return ProcessUser(account.uid, account.gid, groups, account.home)


def owner_of(text: str, passwd: str, group: str, on_unknown: OnUnknown) -> tuple[int, int]:
    """`find_owner` on the content of the two files.

    As in BuildKit, an unknown user is root. The group is the user's own unless a known one is
    given; a number without an account is its own group, and an empty group is root's. Raises
    UsageError for a number that is too large.
    """
    name, separator, group_name = text.partition(":")
    uid, gid = _known_id(name), _known_id(group_name)
    own_group = uid or 0
    try:
        if uid is None:
            account = _account(name, passwd)
            uid, own_group = account.uid, account.gid
    except UsageError as error:
        on_unknown(error, "root")
    try:
        if gid is None:
            gid = _gid(group_name, group)
    except UsageError as error:
        on_unknown(error, "the user's own group")
        gid = own_group
    return uid or 0, gid if separator else own_group


def _account(name: str, passwd: str) -> _Account:
    number = _number(name)
    for account in _accounts(passwd):
        if account.name == name or (number is not None and account.uid == number):
            return account
    if number is None:
        raise UsageError(
            f"no user {name!r} in the image's /etc/passwd",
            code="user-unknown",
            hint="create it in an earlier RUN step, or write the numeric id",
        )
    return _Account("", number, 0, "/")


def _gid(name: str, group: str) -> int:
    number = _number(name)
    if number is not None:
        return number
    for listed, gid, _ in _groups(group):
        if listed == name:
            return gid
    raise UsageError(
        f"no group {name!r} in the image's /etc/group",
        code="user-unknown",
        hint="create it in an earlier RUN step, or write the numeric id",
    )


def _known_id(text: str) -> int | None:
    """The id that needs no file: a number, or root by name or by omission."""
    return 0 if text in ("", "root") else _number(text)


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if not _is_id(text):
        raise UsageError(
            f"{text} is not a user or group id: the highest is {_MOST}",
            code="user-unknown",
            hint="write a lower number: the kernel takes the next one for no id at all",
        )
    return int(text)


def _is_id(text: str) -> bool:
    digits = text.lstrip("0")
    return text.isascii() and text.isdigit() and len(digits) <= 10 and int(digits or 0) <= _MOST


def _accounts(passwd: str) -> Iterator[_Account]:
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and _is_id(fields[2]) and _is_id(fields[3]):
            yield _Account(fields[0], int(fields[2]), int(fields[3]), fields[5] or "/")


def _groups(group: str) -> Iterator[tuple[str, int, frozenset[str]]]:
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and _is_id(fields[2]):
            members = fields[3].split(",") if len(fields) > 3 else []
            yield fields[0], int(fields[2]), frozenset(members)


def _text(root: Path, path: str) -> str:
    return read_in_root(root, path).decode(errors="surrogateescape")
