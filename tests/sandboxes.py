"""Steps run for tests: a build thread, a workspace and an overlay over a busybox root."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from roots import busybox_root
from shipline.sandbox import (
    Overlay,
    Runtime,
    Sandbox,
    StepSpec,
    mounted,
    open_sandbox,
    open_workspace,
    private_mounts,
)
from shipline.tasks import TaskGroup
from shipline.values import replace

T = TypeVar("T")
RUNTIMES = ("crun", "runc")


def in_build(function: Callable[[], T]) -> T:
    """Call `function` on a fresh thread in a mount namespace of its own."""

    def build() -> T:
        private_mounts()
        return function()

    with TaskGroup() as group:
        task = group.start(build)
    return task.result()


def runtime_named(name: str) -> Runtime:
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert path is not None, f"the package {name} is not installed"
    return Runtime(name, Path(path))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step did; `upper` holds what it wrote."""

    status: int
    out: str
    err: str
    upper: Path

    @property
    def written(self) -> set[str]:
        return {str(path.relative_to(self.upper)) for path in self.upper.rglob("*")}


@contextmanager
def overlay(directory: Path, lower: Path) -> Iterator[Path]:
    """A writable view of `lower`; what is written is in `directory`/upper, which must be new."""
    for name in ("merged", "upper", "work"):
        (directory / name).mkdir(parents=True)
    upper, work = directory / "upper", directory / "work"
    with mounted(Overlay(directory / "merged", (lower,), upper, work)):
        yield directory / "merged"


def run_in(sandbox: Sandbox, root: Path, spec: StepSpec) -> tuple[int, bytes, bytes]:
    written = {1: b"", 2: b""}

    def collect(data: bytes, stream: int) -> None:
        written[stream] += data

    return sandbox.run(spec, root, collect).status, written[1], written[2]


def run_step(
    directory: Path, runtime: str, spec: StepSpec, *, script: str = "", lower: Path | None = None
) -> Outcome:
    """Run one step, or `script` by the root's shell, over `lower` (the busybox root)."""
    if script:
        spec = replace(spec, args=("/bin/sh", "-c", script))

    def build() -> tuple[int, bytes, bytes]:
        with (
            open_workspace(directory / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            overlay(directory, lower or busybox_root()) as root,
        ):
            return run_in(sandbox, root, spec)

    directory = Path(tempfile.mkdtemp(dir=directory))
    status, out, err = in_build(build)
    return Outcome(status, out.decode(), err.decode(), directory / "upper")


def run_in_build(
    directory: Path, spec: StepSpec, *, inside: bool = False
) -> tuple[Outcome, list[str]]:
    """Run one step by the runtime of this machine, in the calling thread if `inside`; and what was
    told of the default network.
    """
    told: list[str] = []
    directory = Path(tempfile.mkdtemp(dir=directory))

    def build() -> tuple[int, bytes, bytes]:
        with (
            open_workspace(directory / "state") as scratch,
            open_sandbox(scratch, on_network=told.append) as sandbox,
            overlay(directory, busybox_root()) as root,
        ):
            return run_in(sandbox, root, spec)

    status, out, err = build() if inside else in_build(build)
    return Outcome(status, out.decode(), err.decode(), directory / "upper"), told


SHELL = StepSpec(("/bin/sh",))
