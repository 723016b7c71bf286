"""An ordinary user as root of a user namespace, which mounts and the owners of files need, and
the mount namespace of a build.

`enter_user_namespace` moves this very process: arguments, open files and the environment stay as
they are, and nothing is executed anew. The user is id 0 in there; the ids from 1 up are those that
/etc/subuid and /etc/subgid give to the user, where newuidmap is installed. Reference:
user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from shipline.errors import SandboxError
from shipline.sandbox import kernel
from shipline.sandbox.kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

Range = tuple[int, int]
"""The first id and how many."""

_MOST_RANGES = 339  # lines of a map that the kernel takes, without that of the user
_KINDS = ("uid", "gid")
_FIRST_FREE, _ENOUGH = 100_000, 65_536  # SUB_UID_MIN and SUB_UID_COUNT of login.defs(5)


def enter_user_namespace() -> None:
    """Make this process root of a user namespace of its own, for good; root stays what it is.

    Call it before any thread starts. Raises SandboxError where that is not allowed; the process is
    then what it was.
    """
    if os.geteuid() == 0:
        return
    if len(os.listdir("/proc/self/task")) > 1:
        raise SandboxError(
            "a process with several threads cannot enter a user namespace",
            hint="enter it first, before threads start",
        )
    try:
        _in_child(_try)
        _enter()
    except OSError as error:
        raise kernel.lacking("cannot enter a user namespace", error) from error
    finally:
        for cached in (kernel.capabilities, kernel.in_user_namespace, kernel.id_ranges):
            cached.cache_clear()


def subordinate_ranges(text: str, *names: str) -> tuple[Range, ...]:
    """What a file like /etc/subuid, `name:first:count` on each line, gives to any of `names`."""
    found = [one for name, one in _ranges(text) if name in names and one[1]]
    return tuple(found)[:_MOST_RANGES]


def free_range(*texts: str) -> Range:
    """Ids that none of the files like /etc/subuid gives to anybody: as many as images use."""
    first = _FIRST_FREE
    for start, count in sorted(one for text in texts for _, one in _ranges(text)):
        if start < first + _ENOUGH and start + count > first:
            first = start + count
    return first, _ENOUGH


def _ranges(text: str) -> Iterator[tuple[str, Range]]:
    for line in text.splitlines():
        name, *numbers = line.strip().split(":")
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            yield name, (int(numbers[0]), int(numbers[1]))


def id_map(own: int, ranges: Sequence[Range]) -> list[int]:
    """The arguments of newuidmap: `own` is 0, then come the ids of `ranges`, without a gap."""
    numbers, inside = [0, own, 1], 1
    for first, count in ranges:
        numbers += [inside, first, count]
        inside += count
    return numbers


def require_ids(*, uids: Sequence[int] = (), gids: Sequence[int] = ()) -> None:
    """Raises SandboxError, with the cure, for an id that this process can neither be nor give."""
    for kind, numbers in zip(_KINDS, (uids, gids), strict=True):
        for number in numbers:
            if not _is_ours(kind, number):
                raise SandboxError(
                    f"files and processes of {kind} {number} are out of reach for this user",
                    hint=_more_ids() if _may_give_away() else kernel.namespace_hint(),
                )


def owners_suffix() -> str:
    """Ends the names of directories whose files' owners have a meaning in this namespace only."""
    if not kernel.in_user_namespace():
        return ""
    maps = [Path(f"/proc/self/{kind}_map").read_bytes().split() for kind in _KINDS]
    return "." + hashlib.sha256(repr(maps).encode()).hexdigest()[:8]


def _is_ours(kind: str, number: int) -> bool:
    if _may_give_away():
        return kernel.is_mapped(kind, number)
    return number == (os.geteuid() if kind == "uid" else os.getegid())


def _may_give_away() -> bool:
    return kernel.CAP_CHOWN in kernel.capabilities()


def _more_ids() -> str:
    outside = int(Path("/proc/self/uid_map").read_text().split()[1])
    install = "" if shutil.which("newuidmap") else "apt-get install uidmap && "
    most = max(first + count for first, count in kernel.id_ranges("uid"))
    first, count = free_range(*(_subordinate_file(kind) for kind in _KINDS))
    ranges = " ".join(f"--add-sub{kind}s {first}-{first + count - 1}" for kind in _KINDS)
    ending = f"ids end at {most - 1}; " if most > 1 else ""
    return f"{ending}as root: `{install}usermod {ranges} {_name(outside)}`"


def _subordinate_file(kind: str) -> str:
    with suppress(OSError):
        return Path(f"/etc/sub{kind}").read_text(errors="replace")
    return ""


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _enter() -> None:
    """The ranges are mapped from outside, by a child that was there before."""
    ids = {"uid": os.geteuid(), "gid": os.getegid()}
    target = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        _exit_with(lambda: _map_ranges(target, ids, reading))
    try:
        os.close(reading)
        kernel.unshare(kernel.CLONE_NEWUSER)
        with suppress(BrokenPipeError):  # a child that died maps nothing
            os.write(writing, b"\n")
    finally:
        os.close(writing)
        os.waitpid(child, 0)
    for kind in _KINDS:
        if not Path(f"/proc/self/{kind}_map").read_text():
            _map_self(kind, ids[kind])


def _map_ranges(target: int, ids: dict[str, int], reading: int) -> int:
    """Wait until `target` is in its namespace, then map what the files give to the user."""
    if not os.read(reading, 1):
        return 0
    for kind in _KINDS:
        program, text = shutil.which(f"new{kind}map"), _subordinate_file(kind)
        ranges = subordinate_ranges(text, _name(ids["uid"]), str(ids["uid"]))
        if program is not None and ranges:
            numbers = map(str, id_map(ids[kind], ranges))
            subprocess.run([program, str(target), *numbers], capture_output=True, check=False)
    return 0


def _map_self(kind: str, own: int) -> None:
    """Map one id, which everybody may."""
    if kind == "gid":
        Path("/proc/self/setgroups").write_text("deny")
    Path(f"/proc/self/{kind}_map").write_text(f"0 {own} 1")


def _try() -> int:
    """What a build does first: a security module may allow the namespace, but nothing in it."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    _map_self("uid", uid)
    _map_self("gid", gid)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
    return 0


def _in_child(function: Callable[[], int]) -> None:
    """Call `function` in a process of its own; raises the OSError that it raises there."""
    child = os.fork()
    if child == 0:
        _exit_with(function)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number:
        raise OSError(number, os.strerror(number))


def _exit_with(function: Callable[[], int]) -> None:
    """End this process with the status that `function` returns, or the number of its OSError."""
    status = 255
    try:
        status = function()
    except OSError as error:
        status = error.errno or status
    finally:
        os._exit(status)


_CGROUPS = Path("/sys/fs/cgroup")


def private_mounts() -> None:
    """Move the calling thread into a mount namespace of its own; raises SandboxError.

    Does nothing for a process that may not mount: what needs a mount fails when it comes to it.

    Private rather than slave propagation: a mount that the host makes meanwhile could cover a
    directory of a running build. Control groups become read-only, so that no runtime leaves
    groups behind when it is killed, and the unified half of a hybrid tree is covered (crun
    refuses hybrid trees).
    """
    if kernel.CAP_SYS_ADMIN not in kernel.capabilities():
        return
    try:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_FS)
        kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
        _quieten_control_groups()
    except OSError as error:
        raise kernel.lacking("cannot make a private mount namespace", error) from error


def _quieten_control_groups() -> None:
    mounts = [line.split() for line in Path("/proc/thread-self/mounts").read_text().splitlines()]
    trees = {Path(target): kind for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")}
    unified = _CGROUPS / "unified"
    if "cgroup" in trees.values() and trees.pop(unified, "") == "cgroup2":
        kernel.mount("none", unified, "tmpfs", MS_RDONLY)  # in a user namespace it cannot go
    for tree in trees:
        try:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
            kernel.mount("none", tree, "", flags)
        except OSError as error:  # hidden under another mount, or locked by an outer container
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOENT):
                raise
