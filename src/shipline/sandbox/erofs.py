"""Tar files mounted as they are: an EROFS index speaks of bytes that stay in the tar.

Reference: mkfs.erofs(1), `--tar=i`; Documentation/filesystems/erofs.rst. Mounting plain files
without a loop device needs a kernel since 6.12.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path

from shipline.errors import SandboxError
from shipline.sandbox import kernel
from shipline.sandbox.mounts import Erofs, mounted
from shipline.tasks import TaskGroup


def make_erofs_index(tar: Path, index: Path) -> None:
    """Write the index of an uncompressed tar to `index`; `Erofs(index, target, device=tar)`.

    Whiteouts of an image layer (`.wh.`) become those of overlayfs. Raises SandboxError.
    """
    program = shutil.which("mkfs.erofs")
    if program is None:
        raise SandboxError("no mkfs.erofs on the PATH", hint="install the package erofs-utils")
    command = [program, "--quiet", "--tar=i", "--aufs", str(index), str(tar)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, errors="replace"
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise SandboxError(f"cannot index {tar}: {words[-1] if words else done.returncode}")


@cache
def can_mount_files() -> bool:
    """Whether this machine mounts a tar by its index; found out once, by doing it."""
    if kernel.CAP_SYS_ADMIN not in kernel.capabilities() or shutil.which("mkfs.erofs") is None:
        return False
    try:
        with TaskGroup() as group:
            return group.start(_try).result()
    except SandboxError:
        return False


def _try() -> bool:
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_FS)
    kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
    with tempfile.TemporaryDirectory() as name:
        tar, index, target = (Path(name, part) for part in ("tar", "index", "target"))
        with tarfile.open(tar, "w") as file:
            entry = tarfile.TarInfo("file")
            entry.size = 4
            file.addfile(entry, io.BytesIO(b"here"))
        target.mkdir()
        make_erofs_index(tar, index)
        with mounted(Erofs(index, target, device=tar)):
            return (target / "file").read_bytes() == b"here"
