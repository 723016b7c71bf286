"""Limits of steps are those of the kernel, hold for all that a step starts, and leave nothing."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from sandboxes import RUNTIMES, SHELL, in_build, run_step
from shipline.errors import SandboxError
from shipline.oci import Resources
from shipline.sandbox import kernel
from shipline.sandbox.limits import ControlGroups, _enable
from shipline.values import replace

pytestmark = pytest.mark.root
both_runtimes = pytest.mark.parametrize("runtime", RUNTIMES)
PARENT = f"shipline-test-{os.getpid()}"
# as text of `head -c` in a shell variable, memory is used by the shell itself
HUNGRY = "x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo ${#x}"


def groups() -> list[str]:
    return [
        name
        for name, _, _ in os.walk("/sys/fs/cgroup")
        if f"shipline-{os.getpid()}-" in name or PARENT in name
    ]


@both_runtimes
def test_a_step_that_takes_too_much_memory_is_killed(tmp_path: Path, runtime: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    modest = replace(SHELL, resources=Resources(memory=32 << 20))
    outcome = run_step(tmp_path / "a", runtime, modest, script=HUNGRY)
    assert outcome.status != 0 and "100000000" not in outcome.out
    roomy = replace(SHELL, resources=Resources(memory=2 << 30))
    assert run_step(tmp_path / "b", runtime, roomy, script=HUNGRY).out == "100000000\n"
    assert groups() == []


@both_runtimes
def test_processors_are_limited(tmp_path: Path, runtime: str) -> None:
    script = "grep Cpus_allowed_list /proc/self/status"
    limited = Resources(
        cpu_quota=50_000, cpu_period=100_000, cpu_shares=128, cpuset_cpus="0", cpuset_mems="0"
    )
    outcome = run_step(tmp_path, runtime, replace(SHELL, resources=limited), script=script)
    assert outcome.out.split() == ["Cpus_allowed_list:", "0"], outcome.err
    assert groups() == []


def test_groups_hold_what_was_asked_for(tmp_path: Path) -> None:
    wanted = Resources(64 << 20, 0, 512, 50_000, 25_000, "0", "0", f"/{PARENT}/below")
    seen: dict[str, str] = {}

    def look() -> None:
        with ControlGroups(tmp_path).limited(wanted, "1"):
            for path in tmp_path.glob(f"*/{PARENT}/below/shipline-*/*"):
                if path.name.startswith(("memory.", "cpu", "cpuset.")):
                    try:
                        seen[path.name] = path.read_text().strip()
                    except OSError:
                        continue

    in_build(look)
    if "memory.max" in seen:
        assert (seen["memory.max"], seen["cpu.max"]) == (str(64 << 20), "25000 50000")
    else:
        assert seen["memory.limit_in_bytes"] == str(64 << 20)
        assert (seen["cpu.cfs_quota_us"], seen["cpu.cfs_period_us"]) == ("25000", "50000")
        assert seen["cpu.shares"] == "512"
    assert seen["cpuset.cpus"] == "0"
    assert groups() == []


def test_what_cannot_be_limited_is_said(tmp_path: Path) -> None:
    def ask() -> None:
        with (
            pytest.raises(SandboxError, match=r"cannot limit a step: cpuset\.cpus = 4000"),
            ControlGroups(tmp_path).limited(Resources(cpuset_cpus="4000"), "1"),
        ):
            pass

    in_build(ask)
    assert groups() == []


def test_a_process_that_wants_more_is_held_back(tmp_path: Path) -> None:
    """Judged by the kernel's count of held back periods, which no load of the machine changes."""
    held_back: list[int] = []

    def compute() -> None:
        quota = Resources(cpu_quota=5_000, cpu_period=50_000)
        with (
            ControlGroups(tmp_path).limited(quota, "1") as limits,
            subprocess.Popen(["sh", "-c", "read go; while :; do :; done"], stdin=-1) as process,
        ):
            limits.join(process.pid)
            assert process.stdin is not None
            process.stdin.write(b"go\n")
            process.stdin.flush()
            for _ in range(600):
                time.sleep(0.02)
                text = (limits.groups[0] / "cpu.stat").read_text()
                held_back.append(int(text.split("nr_throttled ")[1].split()[0]))
                if held_back[-1] > 2:
                    break
            process.kill()

    in_build(compute)
    assert held_back[-1] > 2
    assert groups() == []


def test_the_kernel_says_who_ran_out_of_memory(tmp_path: Path) -> None:
    said: list[bool] = []

    def look() -> None:
        with ControlGroups(tmp_path).limited(Resources(memory=16 << 20), "1") as limits:
            for script in ("exit 137", HUNGRY):
                command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f"read go; {script}"]
                with subprocess.Popen(command, stdin=-1, stdout=subprocess.DEVNULL) as process:
                    limits.join(process.pid)
                    process.communicate(b"go\n")
                said.append(limits.out_of_memory())

    in_build(look)
    assert said == [False, True]
    assert groups() == []


def test_processes_of_a_group_make_room_for_groups_with_limits(tmp_path: Path) -> None:
    """As in a container or a delegated scope, where the group of this process is not the root."""
    mount = tmp_path / "unified"
    mount.mkdir()

    def make_room() -> None:
        kernel.mount("cgroup2", mount, "cgroup2", 0)
        controller, *_ = (mount / "cgroup.controllers").read_text().split()
        control, before = mount / "cgroup.subtree_control", (mount / "cgroup.subtree_control")
        known = before.read_text().split()
        group = mount / PARENT
        group.mkdir()
        try:
            control.write_text(f"+{controller}")
            with subprocess.Popen(["sleep", "1000"]) as process:
                (group / "cgroup.procs").write_text(str(process.pid))
                with pytest.raises(OSError):
                    (group / "cgroup.subtree_control").write_text(f"+{controller}")
                _enable(group, [controller])
                assert controller in (group / "cgroup.subtree_control").read_text()
                assert (group / "shipline/cgroup.procs").read_text().split() == [str(process.pid)]
                process.kill()
            (group / "shipline").rmdir()
        finally:
            group.rmdir()
            if controller not in known:
                control.write_text(f"-{controller}")

    in_build(make_room)
