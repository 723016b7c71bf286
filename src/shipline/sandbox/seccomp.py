"""The system call filter of the container packages, in the form that OCI runtimes read.

Distributions install one profile for all container tools (containers-common(5), seccomp.json).
It names, for every rule, the architectures and capabilities it is meant for; a runtime wants only
the rules that apply. Without that file steps run without a filter, as a bare BuildKit on a
machine without seccomp.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm"}
_KEPT = ("names", "action", "errnoRet")


@cache
def profile(capabilities: frozenset[str]) -> dict[str, Any] | None:
    """`linux.seccomp` of the runtime specification for a process with these capabilities."""
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        return None
    for path in PROFILES:
        try:
            return converted(json.loads(path.read_bytes()), os.uname().machine, capabilities)
        except FileNotFoundError:
            continue
    return None


def converted(
    document: dict[str, Any], machine: str, capabilities: frozenset[str]
) -> dict[str, Any]:
    """The runtime's form of a containers-common profile."""
    architecture = _ARCHITECTURES.get(machine, machine)
    result: dict[str, Any] = {"defaultAction": document["defaultAction"]}
    if "defaultErrnoRet" in document:
        result["defaultErrnoRet"] = document["defaultErrnoRet"]
    native = f"SCMP_ARCH_{architecture.upper()}".replace("AMD64", "X86_64").replace(
        "ARM64", "AARCH64"
    )
    for entry in document.get("archMap", []):
        if entry["architecture"] == native:
            result["architectures"] = [native, *(entry.get("subArchitectures") or [])]
    rules = [
        _rule(rule) for rule in document["syscalls"] if _fits(rule, architecture, capabilities)
    ]
    result["syscalls"] = rules
    return result


def _fits(rule: dict[str, Any], architecture: str, capabilities: frozenset[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if architecture in excludes.get("arches", ()):
        return False
    if any(name in capabilities for name in excludes.get("caps", ())):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    return all(name in capabilities for name in includes.get("caps", ()))


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: rule[key] for key in _KEPT if key in rule}
    if rule.get("args"):
        kept["args"] = rule["args"]
    return kept
