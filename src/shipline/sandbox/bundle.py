"""The OCI runtime bundle of one step: a pure function from the step to `config.json`.

Reference: opencontainers/runtime-spec config.md and config-linux.md; the values are Docker's.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from msgspec import Struct

from shipline.errors import InvalidFlag, SandboxError
from shipline.oci import Resources, Ulimit
from shipline.sandbox import kernel
from shipline.sandbox.network import HOST, StepNetwork
from shipline.sandbox.users import ROOT, ProcessUser
from shipline.values import Redacted

Network = Literal["default", "host", "none"]

HOSTNAME = "buildkitsandbox"


class BindMount(Struct, frozen=True):
    """A directory, file or socket of the host, seen at `target`."""

    source: Path
    target: str
    read_only: bool = True


class TmpfsMount(Struct, frozen=True):
    """An empty directory in memory; `size` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0
    read_only: bool = False


class SecretFile(Redacted, frozen=True):
    """A file that exists only while the step runs, and only in memory."""

    hidden: ClassVar = frozenset({"content"})

    target: str
    content: bytes
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


class DeviceNode(Struct, frozen=True):
    """A device of the host, seen at `target`; with its mode and owner unless others are given,
    which only root can give.
    """

    source: Path
    target: str
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


StepMount = BindMount | TmpfsMount | SecretFile | DeviceNode


class StepSpec(Redacted, frozen=True):
    """One command in a root file system.

    `env` entries are `NAME=value`; PATH and HOME are added where they are missing. `secret_env`
    is the same for values that must not be shown. Relative mount targets start at `cwd`. Mounts
    are made in order; a later one may be inside an earlier one. The `default` network is isolated
    from the host's loopback where this machine can do that. `extra_hosts` are names with addresses;
    the address `host-gateway` is that of the host.
    """

    hidden: ClassVar = frozenset({"secret_env"})

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: ProcessUser = ROOT
    mounts: tuple[StepMount, ...] = ()
    secret_env: tuple[str, ...] = ()
    network: Network = "default"
    extra_hosts: tuple[tuple[str, str], ...] = ()
    hostname: str = HOSTNAME
    shm_size: int = 64 << 20
    ulimits: tuple[Ulimit, ...] = ()
    resources: Resources = Resources()
    insecure: bool = False
    no_new_privileges: bool = False


DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
_ALL_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"),
    *("SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"),
    *("IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE"),
    *("SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME"),
    *("SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP"),
    *("MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ"),
    *("PERFMON", "BPF", "CHECKPOINT_RESTORE"),
)  # by number: capabilities(7)
_MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list"),
    *("/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_SAFE = ("nosuid", "noexec", "nodev")
_TTY = 5  # the group of terminals
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
HOST_NODES = Path("/dev")


class BundleMount(Struct, frozen=True):
    """A mount of the step at its resolved path inside the root; `source` exists on the host."""

    target: str
    source: Path | None
    options: tuple[str, ...]


class BundlePaths(Struct, frozen=True):
    """Where the parts of a bundle are on the host.

    `devices` is the directory that becomes /dev, `nodes` has the devices that every step may open
    (those of this machine are mounted read-only), `network_files` are /etc/hosts and
    /etc/resolv.conf, `control_groups` says whether the runtime can mount that tree.
    """

    root: Path
    devices: Path
    network_files: tuple[BundleMount, ...]
    mounts: tuple[BundleMount, ...]
    control_groups: bool = True
    network: StepNetwork = HOST
    nodes: Path = HOST_NODES


def config(spec: StepSpec, paths: BundlePaths) -> dict[str, Any]:
    """The content of `config.json`; raises SandboxError for a limit that cannot be set."""
    kept = _capabilities(spec, paths.network)
    process: dict[str, Any] = {
        "terminal": False,
        "user": {
            "uid": spec.user.uid,
            "gid": spec.user.gid,
            "additionalGids": list(spec.user.groups) if kernel.may_set_groups() else [],
        },
        "args": list(spec.args),
        "env": environment(spec),
        "cwd": spec.cwd,
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept),
        "noNewPrivileges": spec.no_new_privileges,
    }
    if spec.ulimits:
        process["rlimits"] = [_limit(one) for one in spec.ulimits]
    return {
        "ociVersion": "1.0.2",
        **_hooks(spec, paths),
        "process": process,
        "root": {"path": str(paths.root)},
        "hostname": spec.hostname,
        "mounts": _mounts(spec, paths),
        "linux": _linux(spec, paths, frozenset(kept)),
    }


def environment(spec: StepSpec) -> list[str]:
    """The environment of the process, with PATH and HOME; the last entry of a name wins."""
    entries = {"PATH": DEFAULT_PATH, "HOME": spec.user.home}
    for entry in (*spec.env, *spec.secret_env):
        name, separator, value = entry.partition("=")
        if not name or not separator or "\0" in entry:
            raise InvalidFlag(f"not an environment entry: {name!r}", hint="write it as NAME=value")
        entries[name] = value
    return [f"{name}={value}" for name, value in entries.items()]


def _capabilities(spec: StepSpec, network: StepNetwork) -> list[str]:
    if not spec.insecure:
        return [one for one in CAPABILITIES if one not in network.withheld]
    ours = kernel.capabilities()
    return [f"CAP_{name}" for number, name in enumerate(_ALL_CAPABILITIES) if number in ours]


def _mounts(spec: StepSpec, paths: BundlePaths) -> list[dict[str, Any]]:
    node_options = ["bind", "nosuid", "noexec"]
    node_options += ["ro"] if paths.nodes == HOST_NODES else []  # their mode, not what they take
    mounts = [
        _mount("/proc", "proc", "proc", _SAFE),
        _mount("/dev", "bind", str(paths.devices), ("bind", "nosuid", *_devices(spec))),
        *(
            _mount(f"/dev/{name}", "bind", str(paths.nodes / name), node_options)
            for name in DEVICES
        ),
        _mount(
            *("/dev/pts", "devpts", "devpts"),
            ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", *_terminal_group()),
        ),
        _mount("/dev/shm", "tmpfs", "shm", (*_SAFE, "mode=1777", f"size={spec.shm_size}")),
        _mount("/dev/mqueue", "mqueue", "mqueue", _SAFE),
        *_system(spec, paths),
    ]
    for placed in (*paths.network_files, *paths.mounts):
        if placed.source is None:
            mounts.append(_mount(placed.target, "tmpfs", "tmpfs", placed.options))
        else:
            mounts.append(_mount(placed.target, "bind", str(placed.source), placed.options))
    return [*{one["destination"]: one for one in mounts}.values()]  # the last of a place, alone


def _terminal_group() -> tuple[str, ...]:
    return (f"gid={_TTY}",) if kernel.is_mapped("gid", _TTY) else ()


def _system(spec: StepSpec, paths: BundlePaths) -> list[dict[str, Any]]:
    read_only = () if spec.insecure else ("ro",)
    shared = spec.network != "none" and paths.network.namespace is None
    if shared and kernel.in_user_namespace():
        # A user namespace mounts sysfs only with a network namespace of its own.
        return [_mount("/sys", "bind", "/sys", ("rbind", *_SAFE, "ro"))]
    mounts = [_mount("/sys", "sysfs", "sysfs", (*_SAFE, *read_only))]
    if paths.control_groups:
        mounts.append(_mount("/sys/fs/cgroup", "cgroup", "cgroup", (*_SAFE, "relatime", "ro")))
    return mounts


def _devices(spec: StepSpec) -> tuple[str, ...]:
    """Device nodes that a step creates must not open: there is no device control group."""
    return () if spec.insecure else ("nodev",)


def _hooks(spec: StepSpec, paths: BundlePaths) -> dict[str, Any]:
    """Remount the root with nodev from inside: crun mounts it again without flags."""
    if spec.insecure:
        return {}
    program = shutil.which("mount")
    if program is None:
        raise SandboxError(
            "no mount on the PATH", code="program-missing", hint="install the package mount"
        )
    arguments = ["mount", "-n", "-o", "remount,bind,nodev", str(paths.root)]
    return {"hooks": {"createContainer": [{"path": program, "args": arguments}]}}


def _mount(target: str, kind: str, source: str, options: Sequence[str]) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source, "options": list(options)}


def _linux(spec: StepSpec, paths: BundlePaths, capabilities: frozenset[str]) -> dict[str, Any]:
    kinds = ["pid", "ipc", "uts", "mount"]
    kinds += ["cgroup"] if paths.control_groups else []
    kinds += ["network"] if spec.network == "none" else []
    namespaces = [{"type": kind} for kind in kinds]
    if paths.network.namespace is not None:
        namespaces.append({"type": "network", "path": str(paths.network.namespace)})
    linux: dict[str, Any] = {"namespaces": namespaces}
    if spec.insecure:
        return linux
    linux["maskedPaths"], linux["readonlyPaths"] = list(_MASKED), list(_READ_ONLY)
    if (rules := profile(capabilities)) is not None:
        linux["seccomp"] = rules
    return linux


def _limit(limit: Ulimit) -> dict[str, Any]:
    number = getattr(resource, f"RLIMIT_{limit.name.upper()}", None)
    if number is None:
        raise InvalidFlag(f"no resource limit is called {limit.name!r}", hint="as in ulimit(1p)")
    soft, hard = (_UNLIMITED if value < 0 else value for value in (limit.soft, limit.hard))
    most = resource.getrlimit(number)[1]
    most = _UNLIMITED if most == resource.RLIM_INFINITY else most
    may_raise = kernel.CAP_SYS_RESOURCE in kernel.capabilities() and not kernel.in_user_namespace()
    if hard > most and not may_raise:
        raise SandboxError(
            f"ulimit {limit.name}={limit.soft}:{limit.hard} is above {most}, the limit here",
            code="limit-too-high",
            hint=f"use at most {limit.name}={most}:{most}, or raise it for this process",
        )
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": min(soft, hard), "hard": hard}


_UNLIMITED = 2**64 - 1


def make_device_directory(path: Path) -> None:
    """Create what /dev holds before its mounts: files to mount devices on, and the usual links."""
    for name in DEVICES:
        (path / name).touch()
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(path / name)
    for name, target in (
        *(("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")),
        *(("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")),
    ):
        os.symlink(target, path / name)


def make_device_nodes(path: Path) -> bool:
    """Create the devices that every step may open; false where this process may make none.

    A step may change their mode and owner, so they must not be those of this machine.
    """
    for name in DEVICES:
        status = os.stat(f"/dev/{name}")
        try:
            os.mknod(path / name, status.st_mode, status.st_rdev)
        except PermissionError:
            return False
        os.chmod(path / name, 0o666)
    return True


def add_host_devices(path: Path) -> None:
    """Create the devices that BuildKit gives to insecure steps, those that this machine has."""
    loops = [f"/dev/loop{number}" for number in range(_LOOPS)]
    for name in (*(f"/dev/{one}" for one in _INSECURE_DEVICES), *loops):
        with suppress(OSError):
            status = os.stat(name)
            target = path / os.path.relpath(name, "/dev")
            target.parent.mkdir(exist_ok=True)
            os.mknod(target, status.st_mode, status.st_rdev)


_INSECURE_DEVICES = ("kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control")
_LOOPS = 8


PROFILES = (
    Path("/etc/containers/seccomp.json"),  # containers-common(5): the administrator's
    Path("/usr/share/containers/seccomp.json"),  # the distribution's
    Path(__file__).with_name("seccomp.json"),  # that of containers-common 0.62 (Apache-2.0)
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "x86", "armv7l": "arm"}
_KEPT = ("names", "action", "errnoRet")
_KEYRINGS = ("add_key", "keyctl", "request_key")  # a user's are not of a namespace: keyrings(7)
_NAMESPACES = (
    *("clone", "clone3", "setns", "unshare", "mount", "umount", "umount2", "pivot_root"),
    *("fsconfig", "fsmount", "fsopen", "fspick", "mount_setattr", "move_mount", "open_tree"),
)
_NEW_NAMESPACE = 0x7E020000  # the flags CLONE_NEW* of clone(2)


@cache
def profile(capabilities: frozenset[str]) -> dict[str, Any] | None:
    """`linux.seccomp` of the runtime specification for a process with these capabilities, from the
    first profile that exists. None only where the kernel has no seccomp filters.
    """
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        return None
    found = next(path for path in PROFILES if path.exists())
    return converted(json.loads(found.read_bytes()), os.uname().machine, capabilities)


def converted(
    document: dict[str, Any], machine: str, capabilities: frozenset[str]
) -> dict[str, Any]:
    """The runtime's form of a containers-common profile, as narrow as that of BuildKit: without
    CAP_SYS_ADMIN no new namespaces and mounts, which the profile allows for Podman in a container.
    """
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
    refused = _KEYRINGS if "CAP_SYS_ADMIN" in capabilities else (*_KEYRINGS, *_NAMESPACES)
    rules = [
        _rule(rule, refused)
        for rule in document["syscalls"]
        if _fits(rule, architecture, capabilities)
    ]
    result["syscalls"] = [rule for rule in rules if rule["names"]]
    if refused != _KEYRINGS:
        result["syscalls"] += _without_namespaces(architecture)
    return result


def _without_namespaces(architecture: str) -> list[dict[str, Any]]:
    """The rules for `_NAMESPACES`; that clone3 is missing makes programs use clone, whose flags a
    filter can see.
    """
    flags = {
        "index": 1 if architecture == "s390x" else 0,
        "value": _NEW_NAMESPACE,
        "valueTwo": 0,
        "op": "SCMP_CMP_MASKED_EQ",
    }
    return [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [flags]},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
        {"names": [*_NAMESPACES[2:]], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
    ]


def _fits(rule: dict[str, Any], architecture: str, capabilities: frozenset[str]) -> bool:
    includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
    if architecture in excludes.get("arches", ()):
        return False
    if any(name in capabilities for name in excludes.get("caps", ())):
        return False
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    return all(name in capabilities for name in includes.get("caps", ()))


def _rule(rule: dict[str, Any], refused: Sequence[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: rule[key] for key in _KEPT if key in rule}
    kept["names"] = [name for name in rule.get("names", ()) if name not in refused]
    if rule.get("args"):
        kept["args"] = rule["args"]
    return kept
