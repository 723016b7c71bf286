"""The Linux calls that Python has no function for, through ctypes.

Every function raises OSError with the path concerned. Callers turn it into a SandboxError with
`sandbox_error`, which says what failed and what to do. References: mount(2), umount2(2),
unshare(2), setns(2), openat2(2), fsopen(2), fsconfig(2), fsmount(2), move_mount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from pathlib import Path

from shipline.errors import SandboxError
from shipline.files import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2

CLONE_FS, CLONE_NEWNS, CLONE_NEWPID = 0x200, 0x20000, 0x20000000
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWCGROUP = 0x10000000, 0x40000000, 0x2000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOSYMFOLLOW = 0x100  # from Linux 5.10 on; others ignore it
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CAP_CHOWN, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 0, 21, 24

_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432  # on every machine
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_CLOEXEC = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_STRING_LIMIT = 255  # bytes that fsconfig takes in one string


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    libc.mount.argtypes = (
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_char_p,
        ctypes.c_ulong,
        ctypes.c_char_p,
    )
    return libc


def _checked(result: int, about: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), about)
    return result


def _syscall(number: int, *arguments: object, about: str) -> int:
    return _checked(_libc().syscall(ctypes.c_long(number), *arguments), about)


def mount(source: str, target: Path, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    call = _libc().mount(
        os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(options)
    )
    _checked(call, str(target))


def umount(target: Path) -> None:
    """umount2(2), lazily: a busy file system is detached once it is idle."""
    _checked(_libc().umount2(os.fsencode(target), MNT_DETACH), str(target))


def unshare(flags: int) -> None:
    """unshare(2); affects only the calling thread."""
    _checked(_libc().unshare(flags), "unshare")


def setns(descriptor: int, kind: int) -> None:
    """setns(2); affects only the calling thread."""
    _checked(_libc().setns(descriptor, kind), "setns")


def sync_file_system(path: Path) -> None:
    """Return when everything that was written to the file system of `path` is on its disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc().syncfs(fd), str(path))
    finally:
        os.close(fd)


def open_in_root(root: int, path: str, flags: int, *, links: bool = True) -> int:
    """Open `path` as if the directory `root` (a descriptor) were `/`, links and `..` included;
    without `links`, one in the path is an error.
    """
    resolve = RESOLVE_IN_ROOT | (0 if links else RESOLVE_NO_SYMLINKS)
    return openat2(root, path or ".", flags, resolve)


class NewMount:
    """A file system being configured, one option after the other: fsopen(2)."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._context = _syscall(_FSOPEN, kind.encode(), _CLOEXEC, about=kind)

    def string(self, key: str, value: str) -> None:
        self._configure(_SET_STRING, key, os.fsencode(value))

    def path(self, key: str, path: Path) -> None:
        """An option that is a path of any length."""
        text = str(path)
        if len(os.fsencode(text)) <= _STRING_LIMIT and "\\" not in text:
            self.string(key, text)
            return
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            self.string(key, f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)

    def flag(self, key: str) -> None:
        self._configure(_SET_FLAG, key, None)

    def attach(self, target: Path) -> None:
        """Create the file system and put it on `target`."""
        self._configure(_CREATE, None, None)
        tree = _syscall(_FSMOUNT, self._context, _CLOEXEC, 0, about=self._kind)
        try:
            arguments = (tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
            _syscall(_MOVE_MOUNT, *arguments, about=str(target))
        finally:
            os.close(tree)

    def close(self) -> None:
        os.close(self._context)

    def _configure(self, command: int, key: str | None, value: bytes | None) -> None:
        name = key.encode() if key is not None else None
        try:
            _syscall(_FSCONFIG, self._context, command, name, value, 0, about=key or self._kind)
        except OSError as error:
            raise OSError(error.errno, self._explained(error), error.filename) from None

    def _explained(self, error: OSError) -> str:
        """The kernel's message, which it leaves in the descriptor: `e overlay: ...`."""
        words = []
        try:
            while text := os.read(self._context, 1024):
                words.append(text.decode(errors="replace").strip()[2:])
        except OSError:  # ENODATA: no more messages
            pass
        return "; ".join([error.strerror or "", *words])


@cache
def capabilities() -> frozenset[int]:
    """The numbers of the effective capabilities of this process."""
    status = Path("/proc/self/status").read_text()
    mask = int(status.split("CapEff:")[1].split()[0], 16)
    return frozenset(bit for bit in range(64) if mask >> bit & 1)


@cache
def in_user_namespace() -> bool:
    """Whether this process is in a user namespace other than the initial one."""
    try:
        return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]
    except FileNotFoundError:  # a kernel without user namespaces
        return False


@cache
def id_ranges(kind: str) -> tuple[tuple[int, int], ...]:
    """The ids (`kind` is uid or gid) mapped in this user namespace: first and count."""
    try:
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
    except FileNotFoundError:
        return ((0, 2**32 - 1),)
    return tuple((int(line.split()[0]), int(line.split()[2])) for line in lines)


def is_mapped(kind: str, number: int) -> bool:
    """Whether the id is mapped in this user namespace."""
    return any(first <= number < first + count for first, count in id_ranges(kind))


def may_set_groups() -> bool:
    """Whether processes may set supplementary groups: not where only the user itself is mapped."""
    try:
        return Path("/proc/self/setgroups").read_text().strip() == "allow"
    except FileNotFoundError:
        return True


def release() -> tuple[int, int]:
    """The kernel's version, as (6, 12)."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)


_HINTS = {
    errno.EPERM: "run as root or in a user namespace; in a container as another user than root,"
    " which may create namespaces (docs/kubernetes.md)",
    errno.EACCES: "a security module or seccomp filter refused it; allow mounts for this process",
    errno.ENODEV: "the kernel lacks this file system; load its module",
    errno.ENOSYS: "the kernel is too old: 5.6 or newer is needed",
    errno.ENOSPC: "too many mounts or no space: see /proc/sys/fs/mount-max and df",
}


_SWITCHES = (
    ("user/max_user_namespaces", "0", "15000"),
    ("kernel/unprivileged_userns_clone", "0", "1"),  # Debian's
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu's
)


def namespace_hint() -> str:
    """How an ordinary user gets a user namespace on this machine."""
    for name, off, on in _SWITCHES:
        try:
            if Path("/proc/sys", name).read_text().strip() == off:
                return f"run as root, or as root: `sysctl -w {name.replace('/', '.')}={on}`"
        except OSError:
            continue
    return (
        "run as root or in a user namespace; in a container its seccomp profile must allow unshare"
        " and mount (docs/kubernetes.md)"
    )


def sandbox_error(what: str, error: OSError, hint: str = "") -> SandboxError:
    """The error of a sandbox operation, with this hint or a general one; `what` failed."""
    reason = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename and str(error.filename) not in what else ""
    hint = hint or _HINTS.get(error.errno or 0, "")
    if os.geteuid() != 0 and error.errno in (errno.EPERM, errno.EACCES, errno.ENOSPC):
        hint = namespace_hint()
    return SandboxError(f"{what}: {reason}{where}", code="kernel-refused", hint=hint)
