"""Mounts as values, which are attached in order and undone in reverse; EROFS images of layers.

    with mounted(Overlay(merged, (top, bottom), upper, work), Tmpfs(merged / "tmp")):
        ...

Reference: Documentation/filesystems/overlayfs.rst, Documentation/filesystems/erofs.rst.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.sandbox import kernel
from shipline.sandbox.kernel import MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT
from shipline.tasks import TaskGroup, sleep

_AGAIN_S, _PATIENCE = 0.02, 100
_LIMIT = 500  # layers: the kernel's own limit for lower directories
_PLAIN = {
    "index": "off",
    "metacopy": "off",
    "redirect_dir": "nofollow",
}  # `upper` stays a plain tree


class Overlay(Struct, frozen=True):
    """Directories merged into one: `lowers[0]` is the top one; read-only without an `upper`.

    `upper` and `work` are empty directories of one file system. Writes are not synced to disk
    (`volatile`), so `sync` in a step costs nothing; sync `upper` before it is kept.
    """

    target: Path
    lowers: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None

    def __str__(self) -> str:
        kind = "overlay" if self.upper else "read-only overlay"
        return f"{kind} of {len(self.lowers)} directories on {self.target}"

    def attach(self) -> None:
        if len(self.lowers) > _LIMIT:
            raise OSError(errno.E2BIG, f"more than {_LIMIT} layers", str(self.target))
        if self.upper is None and len(self.lowers) == 1:
            Bind(self.lowers[0], self.target, read_only=True).attach()
        elif kernel.release() >= (6, 5):
            _overlay_by_option(self)
        else:
            _overlay_by_links(self)


class Bind(Struct, frozen=True):
    """`source`, visible at `target` as well. Without `links`, no path goes through one there."""

    source: Path
    target: Path
    read_only: bool = False
    devices: bool = True
    links: bool = True

    def __str__(self) -> str:
        return f"{self.source} on {self.target}"

    def attach(self) -> None:
        kernel.mount(str(self.source), self.target, "", MS_BIND)
        flags = (MS_RDONLY if self.read_only else 0) | (0 if self.devices else MS_NODEV)
        flags |= 0 if self.links else kernel.MS_NOSYMFOLLOW
        if not flags:
            return
        try:
            flags |= _kept(self.target)
            kernel.mount("none", self.target, "", MS_REMOUNT | MS_BIND | flags)
        except OSError:
            kernel.umount(self.target)
            raise


class Tmpfs(Struct, frozen=True):
    """An empty directory in memory: `size` in bytes, 0 for the kernel's default."""

    target: Path
    size: int = 0
    mode: int = 0o755
    devices: bool = False

    def __str__(self) -> str:
        return f"tmpfs on {self.target}"

    def attach(self) -> None:
        options = f"mode={self.mode:o}" + (f",size={self.size}" if self.size else "")
        flags = MS_NOSUID | (0 if self.devices else MS_NODEV)
        kernel.mount("tmpfs", self.target, "tmpfs", flags, options)


class Erofs(Struct, frozen=True):
    """A file system image, read-only; `device` is the tar that the index refers to."""

    image: Path
    target: Path
    device: Path | None = None

    def __str__(self) -> str:
        return f"erofs {self.image} on {self.target}"

    def attach(self) -> None:
        with ExitStack() as opened:  # by descriptor: no character of a path needs escaping
            source = opened.enter_context(_opened(self.image))
            options = ""
            if self.device is not None:
                options = f"device={opened.enter_context(_opened(self.device))}"
            kernel.mount(source, self.target, "erofs", MS_RDONLY, options)


Mount = Overlay | Bind | Tmpfs | Erofs


def attach(mount: Mount) -> None:
    """Attach one mount. Raises SandboxError."""
    try:
        mount.attach()
    except OSError as error:
        raise kernel.sandbox_error(f"cannot mount {mount}", error) from error


def unmount(target: Path) -> None:
    """Unmount the top mount at `target`, at once or when it is idle. Raises SandboxError."""
    try:
        kernel.umount(target)
    except OSError as error:
        raise kernel.sandbox_error(f"cannot unmount {target}", error) from error


def freeze(target: Path) -> None:
    """Make the file system at `target` read-only for whoever has it open, by whatever mount. Raises
    SandboxError for a file that stays open for writing; does nothing where remounts are refused.
    """
    for last in (*[False] * _PATIENCE, True):  # what a dead process had open is closed soon after
        try:
            kernel.mount("none", target, "", MS_REMOUNT | MS_RDONLY)
        except OSError as error:
            if error.errno != errno.EBUSY:
                return
            if last:
                raise SandboxError(
                    "a process outside of the step has a file of its root open for writing",
                    code="step-files-open",
                    hint="another step that shares a cache with it, or a program of this machine",
                ) from error
            sleep(_AGAIN_S)
        else:
            return


@contextmanager
def mounted(*mounts: Mount) -> Iterator[None]:
    """Attach `mounts` in order; they are unmounted in reverse order when the block ends."""
    with ExitStack() as undo:
        for mount in mounts:
            attach(mount)
            undo.callback(unmount, mount.target)
        yield


@contextmanager
def bound(source: Path, place: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A directory or file, at the new path `place` as well until the block ends."""
    if source.is_dir():
        place.mkdir()
    else:
        place.touch()
    with mounted(Bind(source, place, read_only=read_only)):
        yield place


@contextmanager
def _opened(path: Path) -> Iterator[str]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _kept(target: Path) -> int:
    """The flags that a remount must repeat: in a user namespace they are locked."""
    present = os.statvfs(target).f_flag
    return sum(
        flag
        for seen, flag in (
            (os.ST_RDONLY, MS_RDONLY),
            (os.ST_NOSUID, MS_NOSUID),
            (os.ST_NODEV, MS_NODEV),
            (os.ST_NOEXEC, kernel.MS_NOEXEC),
        )
        if present & seen
    )


def _overlay_by_option(overlay: Overlay) -> None:
    """One option per lower directory, for kernels since 6.5."""
    new = kernel.NewMount("overlay")
    try:
        new.string("source", "overlay")
        for key, value in _PLAIN.items():
            new.string(key, value)
        if kernel.in_user_namespace():
            new.flag("userxattr")
        for lower in overlay.lowers:
            new.path("lowerdir+", lower)
        if overlay.upper is not None and overlay.work is not None:
            new.path("upperdir", overlay.upper)
            new.path("workdir", overlay.work)
            new.flag("volatile")
        new.attach(overlay.target)
    finally:
        new.close()


def _overlay_by_links(overlay: Overlay) -> None:
    """Lower directories as short links, relative to the directory that holds them: the kernel
    takes one page of options.

    On a new thread, because threads share the current directory until one unshares it.
    """
    links = Path(tempfile.mkdtemp(dir=overlay.target.parent))
    try:
        names = [_base36(number) for number in range(len(overlay.lowers))]
        for name, lower in zip(names, overlay.lowers, strict=True):
            (links / name).symlink_to(lower.absolute())
        options = [f"lowerdir={':'.join(names)}", *(f"{k}={v}" for k, v in _PLAIN.items())]
        if kernel.in_user_namespace():
            options.append("userxattr")
        if overlay.upper is not None and overlay.work is not None:
            (links / "up").symlink_to(overlay.upper.absolute())
            (links / "work").symlink_to(overlay.work.absolute())
            options += ["upperdir=up", "workdir=work", "volatile"]
        target = overlay.target.absolute()

        def from_links() -> None:
            kernel.unshare(kernel.CLONE_FS)
            os.chdir(links)
            kernel.mount("overlay", target, "overlay", 0, ",".join(options))

        with TaskGroup() as group:
            group.start(from_links)
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(links)


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (_base36(number // 36) if number >= 36 else "") + digits[number % 36]


def make_erofs_index(tar: Path, index: Path) -> None:
    """Write the index of an uncompressed tar to `index`; `Erofs(index, target, device=tar)`.

    Whiteouts of an image layer (`.wh.`) become those of overlayfs. Raises SandboxError.
    """
    program = shutil.which("mkfs.erofs")
    if program is None:
        raise SandboxError(
            "no mkfs.erofs on the PATH",
            code="program-missing",
            hint="install the package erofs-utils",
        )
    command = [program, "--quiet", "--tar=i", "--aufs", str(index), str(tar)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False, errors="replace"
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise SandboxError(
            f"cannot index {tar}: {words[-1] if words else done.returncode}", code="layer-index"
        )


@cache
def can_mount_files(place: Path) -> bool:
    """Whether a tar in the directory can be mounted through an EROFS index; tested once, by
    mounting one. The kernel does so on disks, and not on tmpfs or overlayfs.
    """
    if kernel.CAP_SYS_ADMIN not in kernel.capabilities() or shutil.which("mkfs.erofs") is None:
        return False
    try:
        with TaskGroup() as group:
            return group.start(_try, place).result()
    except SandboxError:
        return False


def _try(place: Path) -> bool:
    import tarfile  # slow to import, and machines without mkfs.erofs do not come here

    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_FS)
    kernel.mount("none", Path("/"), "", kernel.MS_REC | kernel.MS_PRIVATE)
    with tempfile.TemporaryDirectory(dir=place) as name:
        tar, index, target = (Path(name, part) for part in ("tar", "index", "target"))
        with tarfile.open(tar, "w") as file:
            entry = tarfile.TarInfo("file")
            entry.size = 4
            file.addfile(entry, io.BytesIO(b"here"))
        target.mkdir()
        make_erofs_index(tar, index)
        with mounted(Erofs(index, target, device=tar)):
            return (target / "file").read_bytes() == b"here"
