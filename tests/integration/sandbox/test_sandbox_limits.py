"""Limits of steps are those of the kernel, hold for all that a step starts, and leave nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxes import RUNTIMES, SHELL, in_build, run_step
from shipline.errors import SandboxError
from shipline.oci import Resources
from shipline.sandbox import limits
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
        with limits.limited(wanted, tmp_path, "1"):
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
            limits.limited(Resources(cpuset_cpus="4000"), tmp_path, "1"),
        ):
            pass

    in_build(ask)
    assert groups() == []
