"""The runtime is the first that works here; a bundle says no more than it must."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

from roots import busybox_root
from sandboxes import RUNTIMES, SHELL, in_build, overlay, run_in, runtime_named
from shipline.errors import SandboxError, UsageError
from shipline.sandbox import Sandbox, StepSpec, open_sandbox, open_workspace
from shipline.sandbox.bundle import (
    CAPABILITIES,
    PROFILES,
    Layout,
    config,
    converted,
    environment,
)
from shipline.sandbox.runtime import search_runtime
from shipline.tasks import TaskGroup

LAYOUT = Layout(Path("/root-of-step"), Path("/dev-of-step"), (), ())
PROFILE = {
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "archMap": [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ],
    "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "all"},
        {"names": ["arm_only"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
        {"names": ["root"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["root"], "action": "E", "errnoRet": 1, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
        {"names": ["some"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8}]},
    ],
}


@pytest.mark.parametrize(
    ("machine", "capabilities", "names"),
    [
        ("x86_64", (), ["read", "root", "some"]),
        ("aarch64", (), ["read", "arm_only", "root", "some"]),
        ("x86_64", ("CAP_SYS_ADMIN",), ["read", "root", "some"]),
    ],
)
def test_only_rules_that_apply_reach_the_runtime(
    machine: str, capabilities: tuple[str, ...], names: list[str]
) -> None:
    result = converted(PROFILE, machine, frozenset(capabilities))
    assert [name for rule in result["syscalls"] for name in rule["names"]] == names
    root = next(rule for rule in result["syscalls"] if rule["names"] == ["root"])
    assert root["action"] == ("SCMP_ACT_ALLOW" if capabilities else "E")
    assert result["defaultErrnoRet"] == 38
    expected = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert (result["architectures"] == expected) is (machine == "x86_64")
    for rule in result["syscalls"]:
        assert rule.keys() <= {"names", "action", "errnoRet", "args"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_profile_of_system_calls_is_part_of_the_package(machine: str) -> None:
    assert {path.name for path in PROFILES} == {"seccomp.json"}
    profile = converted(json.loads(PROFILES[-1].read_bytes()), machine, frozenset(CAPABILITIES))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = [one["names"] for one in profile["syscalls"] if one["action"] == "SCMP_ACT_ALLOW"]
    names = {name for names in allowed for name in names}
    assert "execve" in names and names.isdisjoint({"kexec_load", "init_module"})


def test_the_capabilities_are_dockers_fourteen() -> None:
    assert len(set(CAPABILITIES)) == 14
    spec = config(StepSpec(("true",)), LAYOUT)
    assert "ambient" not in spec["process"]["capabilities"]
    assert "inheritable" not in spec["process"]["capabilities"]
    assert "resources" not in spec["linux"] and "rlimits" not in spec["process"]
    assert json.loads(json.dumps(spec)) == spec


def test_the_environment_keeps_the_last_entry() -> None:
    spec = StepSpec(("x",), env=("A=1", "HOME=/h", "A=2=3", "EMPTY="), secret_env=("S=x",))
    entries = environment(spec)
    assert entries[1:] == ["HOME=/h", "A=2=3", "EMPTY=", "S=x"] and entries[0].startswith("PATH=")
    for entry in ("novalue", "=x", "A=\0"):
        with pytest.raises(UsageError):
            environment(StepSpec(("x",), env=(entry,)))


@pytest.mark.root
def test_a_limit_above_ours_is_refused_with_the_most_there_is() -> None:
    program = """
        import resource
        from pathlib import Path
        from shipline.errors import SandboxError
        from shipline.sandbox import StepSpec, Ulimit
        from shipline.sandbox.bundle import Layout, config
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
        spec = StepSpec(("x",), ulimits=(Ulimit("nofile", 2000, 2000),))
        try:
            config(spec, Layout(Path("/"), Path("/"), (), ()))
        except SandboxError as error:
            print(error, error.hint, sep="|")
    """
    without = ("setpriv", "--bounding-set=-sys_resource", sys.executable, "-c")
    done = subprocess.run([*without, textwrap.dedent(program)], stdout=subprocess.PIPE, text=True)
    assert done.stdout == (
        "ulimit nofile=2000:2000 is above 1000, the limit here"
        "|ask for at most nofile=1000:1000, or raise it for this process\n"
    )


@pytest.mark.root
def test_the_first_runtime_that_works_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("setpriv", "unshare", "sh", "mount", "runc"):
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found is not None
        (tools / name).symlink_to(found)
    (tools / "crun").write_text("#!/bin/sh\necho this one is broken >&2\nexit 1\n")
    (tools / "crun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    runtime = in_build(lambda: search_runtime(tmp_path))
    assert (runtime.name, runtime.path, runtime.control_groups) == ("runc", tools / "runc", True)

    (tools / "runc").unlink()
    with pytest.raises(SandboxError) as raised:
        in_build(lambda: search_runtime(tmp_path))
    for words in ("crun: this one is broken", "runc: not on the PATH", "youki: not on the PATH"):
        assert words in raised.value.message
    assert "install crun" in raised.value.hint


@pytest.mark.root
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_steps_of_one_build_run_at_once(tmp_path: Path, runtime: str) -> None:
    def build() -> list[tuple[int, bytes, bytes]]:
        with (
            open_workspace(tmp_path / "state") as scratch,
            open_sandbox(scratch, runtime=runtime_named(runtime)) as sandbox,
            TaskGroup() as group,
        ):
            tasks = [group.start(one, sandbox, number) for number in range(8)]
            return [task.result() for task in tasks]

    def one(sandbox: Sandbox, number: int) -> tuple[int, bytes, bytes]:
        directory = tmp_path / str(number)
        directory.mkdir()
        with overlay(directory, busybox_root()) as root:
            script = f"echo {number} > /mine; cat /mine; echo $$ >&2; exit {number}"
            return run_in(sandbox, root, replace(SHELL, args=("/bin/sh", "-c", script)))

    expected = [(number, f"{number}\n".encode(), b"1\n") for number in range(8)]
    assert in_build(build) == expected
