"""However a build ends, nothing of its steps lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, in_build, overlay, runtime_named
from shipline.errors import Cancelled
from shipline.sandbox import open_sandbox, open_workspace, private_mounts, remove_stale
from shipline.tasks import TaskGroup, on_cancel, sleep
from shipline.values import replace

pytestmark = pytest.mark.root
both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
_TESTS = Path(__file__).parents[2]


def processes_with(mark: str) -> list[int]:
    """The processes on this machine whose command line holds `mark`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:  # it ended
            continue
    return found


def come_up(mark: str, count: int) -> None:
    """Wait until `count` such processes are seen; one that becomes another program shows none.

    However long that takes: what ends the wait otherwise is the end of whatever starts them.
    """
    while len(processes_with(mark)) < count:
        sleep(0.01)


def control_groups_with(mark: str) -> list[str]:
    return [name for name, _, _ in os.walk("/sys/fs/cgroup") if mark in name]


def mounts_with(mark: str) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mark in line]


def wait_until_gone(mark: str) -> list[int]:
    deadline = time.monotonic() + 60
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


@both_runtimes
def test_cancellation_kills_everything_before_it_is_raised(tmp_path: Path, runtime: str) -> None:
    mark = f"60.{os.getpid()}{RUNTIMES.index(runtime)}1"
    script = f"(trap '' TERM INT HUP; setsid sleep {mark} & exec sleep {mark}) & echo up; wait"
    up = threading.Event()
    checked: list[str] = []

    def build() -> None:
        private_mounts()
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            overlay(tmp_path / "o", busybox_root()) as root,
        ):
            step = replace(SHELL, args=("/bin/sh", "-c", script))
            try:
                sandbox.run(step, root, lambda data, stream: up.set())
            finally:
                assert processes_with(mark) == []
                checked.append("after")

    with pytest.raises(Cancelled), TaskGroup() as group:
        task = group.start(build)
        with on_cancel(up.set):  # the build has failed
            up.wait()
        come_up(mark, 2)
        group.scope.cancel()
        task.result()
    assert checked == ["after"]


@both_runtimes
def test_kill_9_leaves_nothing(tmp_path: Path, runtime: str) -> None:
    mark = f"60.{os.getpid()}{RUNTIMES.index(runtime)}2"
    program = f"""
        import sys
        sys.path.insert(0, {str(_TESTS)!r})
        from shipline.values import replace
        from pathlib import Path
        from sandboxes import *
        def build():
            with (
                open_workspace(Path({str(tmp_path / "state")!r})) as scratch,
                open_sandbox(scratch, runtime=runtime_named({runtime!r})) as sandbox,
                overlay(Path({str(tmp_path / "o")!r}), busybox_root()) as root,
            ):
                script = "setsid sleep {mark} & echo up; exec sleep {mark}"
                step = replace(SHELL, args=("/bin/sh", "-c", script))
                sandbox.run(step, root, lambda data, _: print(data.decode(), end="", flush=True))
        in_build(build)
    """
    busybox_root()
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE
    ) as victim:
        try:
            assert victim.stdout is not None and victim.stdout.readline() == b"up\n"
            scratch = next(path for path in (tmp_path / "state/tmp").iterdir() if path.is_dir())
            come_up(mark, 3)  # itself and two of the step
            assert not mounts_with(str(tmp_path))
            remove_stale(tmp_path / "state")
            assert scratch.exists()
        finally:
            victim.kill()
    assert wait_until_gone(mark) == []
    assert processes_with(str(scratch)) == []
    assert not mounts_with(str(tmp_path))
    assert control_groups_with(f"shipline-{victim.pid}") == []
    for state in ("/run/crun", "/run/runc"):
        assert not any(str(victim.pid) in path.name for path in Path(state).glob("*"))

    def next_build() -> list[str]:
        with open_workspace(tmp_path / "state"):
            return sorted(path.name for path in (tmp_path / "state/tmp").iterdir())

    left = in_build(next_build)
    assert not any(name.startswith(f"{victim.pid}-") for name in left)
    assert list((tmp_path / "state/tmp").iterdir()) == []


@both_runtimes
def test_ctrl_c_does_not_reach_the_step(tmp_path: Path, runtime: str) -> None:
    """The terminal sends SIGINT to the process group; the step is in another one."""
    groups: list[int] = []

    def build() -> None:
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            overlay(tmp_path / "o", busybox_root()) as root,
        ):
            mark = f"60.{os.getpid()}{RUNTIMES.index(runtime)}3"
            step = replace(SHELL, args=("/bin/sh", "-c", f"echo up; exec sleep {mark}"))

            def look(data: bytes, _: int) -> None:
                while not (found := processes_with(mark)):
                    time.sleep(0.01)
                groups.extend(os.getsid(process) for process in found)
                for process in found:
                    os.kill(process, signal.SIGKILL)

            sandbox.run(step, root, look)

    in_build(build)
    assert groups and os.getsid(0) not in groups
