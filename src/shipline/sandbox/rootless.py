"""The user namespace in which an ordinary user is root, for mounts and owners of files; and the
mount namespace of a build.

`enter_user_namespace` moves the running process: arguments, open files and the environment stay,
and no program is executed. The user becomes id 0; the ids from 1 on are those that /etc/subuid and
/etc/subgid assign to the user, where newuidmap is installed. Reference:
user_namespaces(7), newuidmap(1), subuid(5).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
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
    """Make this process root of its own user namespace, permanently; does nothing for root.

    Call it before any thread starts. Raises SandboxError where that is not allowed; the process is
    then unchanged.
    """
    if os.geteuid() == 0:
        return
    if len(os.listdir("/proc/self/task")) > 1:
        raise SandboxError(
            "a process with several threads cannot enter a user namespace",
            code="user-namespace-threads",
            hint="call it first, before threads start",
        )
    try:
        _in_child(_try)
        _enter()
    except OSError as error:
        raise kernel.sandbox_error("cannot enter a user namespace", error) from error
    finally:
        for cached in (kernel.capabilities, kernel.in_user_namespace, kernel.id_ranges):
            cached.cache_clear()


def subordinate_ranges(text: str, *names: str) -> tuple[Range, ...]:
    """The ranges that a file like /etc/subuid (`name:first:count` lines) assigns to `names`."""
    found = [one for name, one in _ranges(text) if name in names and one[1]]
    return tuple(found)[:_MOST_RANGES]


def free_range(*texts: str) -> Range:
    """A range that no file like /etc/subuid assigns yet, as large as images need."""
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
    """The arguments of newuidmap: `own` becomes 0, the ids of `ranges` follow without gaps."""
    numbers, inside = [0, own, 1], 1
    for first, count in ranges:
        numbers += [inside, first, count]
        inside += count
    return numbers


def require_ids(*, uids: Sequence[int] = (), gids: Sequence[int] = ()) -> None:
    """Raises SandboxError, with a remedy, for an id that this process cannot use for files."""
    for kind, numbers in zip(_KINDS, (uids, gids), strict=True):
        for number in numbers:
            if not _is_ours(kind, number):
                what = f"this user cannot use {kind} {number} for files and processes"
                if not _may_give_away():
                    what += ": it is outside of a user namespace, and could not enter one"
                raise SandboxError(
                    what,
                    code="user-namespace",
                    hint=_more_ids() if _may_give_away() else kernel.namespace_hint(),
                )


def owners_suffix() -> str:
    """The suffix for directories whose owners have a meaning in this user namespace only."""
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
    if _gains_no_privileges():
        return _NO_NEW_PRIVILEGES
    outside = int(Path("/proc/self/uid_map").read_text().split()[1])
    own = (_name(outside), str(outside))
    most = max(first + count for first, count in kernel.id_ranges("uid"))
    assigned = subordinate_ranges(_subordinate_file("uid"), *own)
    if most == 1 and assigned and shutil.which("newuidmap"):
        return _UNMAPPED
    install = "" if shutil.which("newuidmap") else "apt-get install uidmap && "
    first, count = free_range(*(_subordinate_file(kind) for kind in _KINDS))
    ranges = " ".join(f"--add-sub{kind}s {first}-{first + count - 1}" for kind in _KINDS)
    ending = f"the highest id is {most - 1}; " if most > 1 else ""
    return f"{ending}as root: `{install}usermod {ranges} {_name(outside)}`"


def _gains_no_privileges() -> bool:
    """Whether programs that this process starts gain no privileges, as newuidmap must (prctl(2),
    PR_SET_NO_NEW_PRIVS).
    """
    return b"\nNoNewPrivs:\t1\n" in Path("/proc/self/status").read_bytes()


_NO_NEW_PRIVILEGES = (
    "newuidmap cannot map more ids, since this process has no_new_privs: run it as root, or without"
    " docker's --security-opt=no-new-privileges, in Kubernetes with allowPrivilegeEscalation: true,"
    " in systemd with NoNewPrivileges=no"
)
_UNMAPPED = (
    "newuidmap may not map the ids of /etc/subuid: in a"
    " container give it file capabilities instead of setuid: `chmod u-s /usr/bin/new?idmap &&"
    " setcap cap_setuid=ep /usr/bin/newuidmap && setcap cap_setgid=ep /usr/bin/newgidmap`"
)


def _subordinate_file(kind: str) -> str:
    with suppress(OSError):
        return Path(f"/etc/sub{kind}").read_text(errors="replace")
    return ""


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _enter() -> None:
    """A child that was forked before maps the ranges, from outside of the namespace."""
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
    """Wait until `target` is in its namespace, then map the ranges assigned to the user."""
    import subprocess  # slow to import

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
    """Map one id, which needs no privilege."""
    if kind == "gid":
        Path("/proc/self/setgroups").write_text("deny")
    Path(f"/proc/self/{kind}_map").write_text(f"0 {own} 1")


def _try() -> int:
    """The first calls of a build: a security module may allow the namespace, but no mount in it."""
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    _map_self("uid", uid)
    _map_self("gid", gid)
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
    return 0


def _in_child(function: Callable[[], int]) -> None:
    """Call `function` in a child process; raises the OSError that it raises there."""
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
_IN_CHROOT = (
    "the root directory is not a mount point, as in a chroot:"
    " run `mount --bind DIR DIR` before `chroot DIR`"
)


def private_mounts() -> None:
    """Move the calling thread into its own mount namespace. Raises SandboxError.

    Does nothing for a process that may not mount: what needs a mount fails later.

    Propagation is private, not slave: a new mount of the host could cover a directory of a running
    build. Control groups become read-only, so that a killed runtime leaves no groups behind, and
    the unified part of a hybrid hierarchy is covered (crun refuses hybrid hierarchies).
    """
    if kernel.CAP_SYS_ADMIN not in kernel.capabilities():
        return
    try:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_FS)
        kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
        _protect_control_groups()
    except OSError as error:
        hint = _IN_CHROOT if error.errno == errno.EINVAL else ""
        raise kernel.sandbox_error(
            "cannot create a private mount namespace", error, hint
        ) from error


def _protect_control_groups() -> None:
    mounts = [line.split() for line in Path("/proc/thread-self/mounts").read_text().splitlines()]
    trees = {Path(target): kind for _, target, kind, *_ in mounts if kind in ("cgroup", "cgroup2")}
    unified = _CGROUPS / "unified"
    if "cgroup" in trees.values() and trees.pop(unified, "") == "cgroup2":
        kernel.mount("none", unified, "tmpfs", MS_RDONLY)  # cannot be unmounted in a user namespace
    for tree in trees:
        try:
            flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
            kernel.mount("none", tree, "", flags)
        except OSError as error:  # hidden under another mount, or locked by an outer container
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.ENOENT):
                raise
