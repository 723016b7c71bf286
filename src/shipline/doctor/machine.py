"""What builds need of this machine: a container runtime, user IDs, file systems, emulators, a
network, disk space, git.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from shipline import __version__
from shipline.build import disk
from shipline.doctor.diagnosis import Examination, Remark
from shipline.errors import ContentError, SandboxError
from shipline.git import Git
from shipline.oci import Platform, Resources
from shipline.registry import Proxies
from shipline.sandbox import (
    ControlGroups,
    Overlay,
    Tmpfs,
    can_mount_files,
    emulators,
    find_connector,
    in_user_namespace,
    mounted,
    open_workspace,
    private_mounts,
    require_ids,
    search_runtime,
    supported_platforms,
)
from shipline.units import shown_size

AREA = "This machine"
_LEAST_FREE = 5_000_000_000  # bytes: two large images
_NOBODY = 65534


def examine_machine(environ: Mapping[str, str], state: Path) -> Iterator[Examination]:
    """The examinations of this machine, whose builds keep their cache in `state`. An ordinary user
    has entered a user namespace before (`enter_user_namespace`).
    """
    found: dict[str, Callable[[], str | Remark]] = {
        "program": _program,
        "state directory": partial(_disk, environ, state),
        "user": _user,
        "runtime": partial(_runtime, state),
        "file systems": partial(_file_systems, state),
        "platforms": _platforms,
        "network of RUN": partial(_network, state),
        "limits": partial(_limits, state),
        "git": partial(_git, environ),
        "proxies": partial(_proxies, environ),
    }
    for name, examine in found.items():
        yield Examination(AREA, name, examine)


def _program() -> str:
    return f"shipline {__version__}, Python {platform.python_version()} ({sys.executable})"


def _disk(environ: Mapping[str, str], state: Path) -> str | Remark:
    with _workspace(state):
        space = os.statvfs(state)
    used = disk.total(disk.scan(state))
    limit = disk.limit_of(environ.get(disk.LIMIT_VARIABLE, ""), state)
    free = space.f_bavail * space.f_frsize
    at_most = "without a limit" if limit is None else f"of at most {shown_size(limit)}"
    detail = f"{state}: {shown_size(used)} used {at_most}, {shown_size(free)} free on the disk"
    if free < _LEAST_FREE:
        return Remark(
            f"{detail}, which is little", "`shipline prune`, or a SHIPLINE_HOME on another disk"
        )
    return detail


def _user() -> str:
    require_ids(uids=(0, _NOBODY), gids=(0, _NOBODY))
    if in_user_namespace():
        return "root of a user namespace, with the ids that files of images need"
    return "root"


def _runtime(state: Path) -> str | Remark:
    with _workspace(state) as scratch:
        runtime = search_runtime(scratch)
    done = subprocess.run(
        [str(runtime.path), "--version"], capture_output=True, text=True, check=False
    )
    version = (done.stdout.splitlines() or [runtime.name])[0]
    detail = f"{runtime.path} runs containers ({version})"
    if not runtime.filters:
        return Remark(
            f"{detail}, but does not filter their system calls",
            "install crun or runc as the distribution builds them: `apt-get install crun`",
        )
    return detail


def _file_systems(state: Path) -> str:
    with _workspace(state) as scratch:
        lower, target = scratch / "lower", scratch / "target"
        for place in (lower, scratch / "upper", scratch / "work", target):
            place.mkdir()
        overlay = Overlay(target, (lower,), scratch / "upper", scratch / "work")
        private_mounts()
        with mounted(overlay):
            pass
        layers = "mounted from their archive (EROFS)" if can_mount_files(scratch) else "unpacked"
    return f"overlayfs; large layers are {layers}"


def _platforms() -> str | Remark:
    running, installed = supported_platforms(), emulators()
    detail = f"programs of {', '.join(map(str, running))} run"
    if {one.architecture for one in running} != {Platform.local().architecture}:
        return detail
    if installed:
        cure = "as root: `shipline builder bootstrap`"
        return Remark(f"{detail}; emulators are installed, but not registered", cure)
    return Remark(
        f"{detail}, and no others",
        "for RUN on other platforms, as root: `apt-get install qemu-user-static` and"
        " `shipline builder bootstrap`",
    )


def _network(state: Path) -> str | Remark:
    with _workspace(state) as scratch:
        connector, reason = find_connector(scratch)
    if connector is None:
        return Remark(
            f"RUN shares the network of this machine: {reason}", "`apt-get install passt`"
        )
    return f"a network of its own, through {connector.name}"


def _limits(state: Path) -> str | Remark:
    private_mounts()
    with _workspace(state) as scratch, mounted(Tmpfs(scratch)):
        try:
            with ControlGroups(scratch / "cgroups").limited(Resources(memory=1 << 30), "doctor"):
                return "memory and processors of a step can be limited"
        except SandboxError as error:
            return Remark(f"--memory and the like do not work: {error.message}", error.hint)


def _git(environ: Mapping[str, str]) -> str:
    with tempfile.TemporaryDirectory() as place:
        return Git(Path(place), environ).text("--version")


def _proxies(environ: Mapping[str, str]) -> str:
    proxies = Proxies.from_environment(environ)
    parts = {"http": proxies.http, "https": proxies.https}
    shown = [f"{name} through {url.rpartition('@')[2]}" for name, url in parts.items() if url]
    return ", ".join(shown)


@contextmanager
def _workspace(state: Path) -> Iterator[Path]:
    """A scratch directory as builds have it. Raises ContentError if it cannot be written."""
    try:
        with open_workspace(state) as scratch:
            yield scratch
    except OSError as error:
        raise ContentError(
            f"cannot write to {state}: {error.strerror}",
            code="state-directory",
            hint="make it writable, or set SHIPLINE_HOME to a directory that is",
        ) from error
