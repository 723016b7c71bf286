"""A build's own mount namespace: what it mounts is seen by nobody else and dies with it.

Namespaces belong to threads: those started from the calling thread, and their processes, inherit
it; the main thread stays where it was. So a build runs on one fresh thread that comes here first.
"""

from __future__ import annotations

import errno
from pathlib import Path

from shipline.sandbox import kernel
from shipline.sandbox.kernel import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT

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
