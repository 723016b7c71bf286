"""The runtime is the first that works here; a bundle says no more than it must."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shipline.errors import UsageError
from shipline.sandbox import StepSpec, bundle
from shipline.sandbox.bundle import (
    CAPABILITIES,
    PROFILES,
    BundlePaths,
    config,
    converted,
    environment,
)

LAYOUT = BundlePaths(Path("/root-of-step"), Path("/dev-of-step"), (), ())


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
    found = [name for rule in result["syscalls"] for name in rule["names"]]
    assert [name for name in found if name not in bundle._NAMESPACES] == names
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
    assert "execve" in names and names.isdisjoint({"kexec_load", "init_module", "keyctl"})
    assert names.isdisjoint({"unshare", "mount", "fsopen", "clone3"}) and "clone" in names


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
