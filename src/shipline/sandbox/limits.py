"""Resource limits of steps: a control group of our own in each hierarchy with the controller.

The hierarchies are mounted again in the build's mount namespace, where the host's are read-only. An
ordinary user has the groups that were delegated to it, by systemd or an administrator. A group is
removed when its step has ended; what a killed build left is removed by the next one.
Reference: Documentation/admin-guide/cgroup-v1, cgroup-v2.rst.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.oci import Resources
from shipline.sandbox import kernel
from shipline.tasks import Once, TaskGroup

_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_NAME = "shipline"
_LAST_LOOKS, _PAUSE_S = 100, 0.01
_INHERITED = ("cpuset.cpus", "cpuset.mems")  # of version 1: empty in a new group, and required
_HINT = "limits need root and writable control groups; leave them out to build without limits"
_DELEGATED = (
    "an ordinary user needs control groups of its own: put `systemd-run --user --scope"
    " --property=Delegate=yes` before the command, or leave the limits out"
)


class Limits(Struct, frozen=True):
    """The control groups of one step, one in each hierarchy that its limits need."""

    groups: tuple[Path, ...] = ()

    def join(self, process: int) -> None:
        """Put a process, and with it all that it starts, under the limits."""
        for group in self.groups:
            _write(group / "cgroup.procs", str(process))

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed a process for lack of memory."""
        return any(
            line.startswith("oom_kill ") and line != "oom_kill 0"
            for group in self.groups
            for name in ("memory.events", "memory.oom_control")  # of versions 2 and 1
            if (group / name).exists()
            for line in (group / name).read_text().splitlines()
        )


class ControlGroups:
    """The hierarchies of a build, mounted in the directory `place` when a step needs them."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._mounted: Once[Path] = Once()

    @contextmanager
    def limited(self, resources: Resources, number: str) -> Iterator[Limits]:
        """Limits for one step. Raises SandboxError where this machine cannot set them."""
        with ExitStack() as undo:
            try:
                groups = [
                    undo.enter_context(_group(self._root(tree), tree, resources, number))
                    for tree in _trees(resources)
                ]
            except OSError as error:
                raise _refused(error.strerror or str(error)) from error
            yield Limits(tuple(groups))

    def _root(self, tree: _Hierarchy) -> Path:
        return self._mounted.get(tree.options, lambda: self._mount(tree))

    def _mount(self, tree: _Hierarchy) -> Path:
        """Mount a hierarchy; in a user namespace its root is the group that this process is in."""
        place = self._place / f"{tree.kind}-{tree.options.replace(',', '-')}"
        place.mkdir(parents=True)

        def attach() -> None:
            if kernel.in_user_namespace():
                kernel.unshare(kernel.CLONE_NEWCGROUP)
            options = "" if tree.kind == "cgroup2" else tree.options
            kernel.mount(tree.kind, place, tree.kind, _FLAGS, options)

        with TaskGroup() as group:
            group.start(attach)
        return place


def _refused(reason: str) -> SandboxError:
    return SandboxError(
        f"cannot limit a step: {reason}",
        code="cgroups",
        hint=_DELEGATED if kernel.in_user_namespace() else _HINT,
    )


class _Hierarchy(Struct, frozen=True):
    """A hierarchy and the settings of a group in it; `kind` is the type for mount(2)."""

    kind: str
    options: str
    settings: Mapping[str, str]


def _trees(resources: Resources) -> list[_Hierarchy]:
    """The hierarchies that `resources` need; for a parent alone, those of memory and processors."""
    wanted = {name: table for name, table in _first_version(resources).items() if table}
    if resources.cgroup_parent and not wanted:
        wanted = {"memory": {}, "cpu": {}}
    trees, second = [], {}
    for controller, settings in wanted.items():
        if (options := _mounted_with(controller)) is not None:
            trees.append(_Hierarchy("cgroup", options, settings))
        else:
            second[controller] = settings
    if second:
        table = _second_version(resources)
        settings = {name: value for one in second for name, value in table[one].items()}
        trees.append(_Hierarchy("cgroup2", ",".join(second), settings))
    return trees


def _first_version(resources: Resources) -> dict[str, dict[str, str]]:
    memory = {
        "memory.limit_in_bytes": resources.memory,
        "memory.memsw.limit_in_bytes": resources.memory_swap,
    }
    return {
        "memory": _set(memory),
        "cpu": _set(
            {
                "cpu.shares": resources.cpu_shares,
                "cpu.cfs_period_us": resources.cpu_period,
                "cpu.cfs_quota_us": resources.cpu_quota,
            }
        ),
        "cpuset": _set(
            {"cpuset.cpus": resources.cpuset_cpus, "cpuset.mems": resources.cpuset_mems}
        ),
    }


def _second_version(resources: Resources) -> dict[str, dict[str, str]]:
    swap = resources.memory_swap - resources.memory if resources.memory_swap > 0 else 0
    weight = 1 + (resources.cpu_shares - 2) * 9999 // 262142  # as runtimes translate shares
    quota = str(resources.cpu_quota) if resources.cpu_quota > 0 else "max"
    period = resources.cpu_period or 100_000
    return {
        "memory": _set({"memory.max": resources.memory})
        | ({"memory.swap.max": str(swap)} if resources.memory_swap > 0 else {}),
        "cpu": ({"cpu.weight": str(max(weight, 1))} if resources.cpu_shares else {})
        | ({"cpu.max": f"{quota} {period}"} if resources.cpu_quota or resources.cpu_period else {}),
        "cpuset": _set(
            {"cpuset.cpus": resources.cpuset_cpus, "cpuset.mems": resources.cpuset_mems}
        ),
    }


def _set(table: Mapping[str, int | str]) -> dict[str, str]:
    return {name: str(value) for name, value in table.items() if value}


def _mounted_with(controller: str) -> str | None:
    """The controllers of the version 1 hierarchy that has this one, None where there is none."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        controllers = line.split(":")[1]
        if controller in controllers.split(","):
            return controllers
    return None


@contextmanager
def _group(root: Path, tree: _Hierarchy, resources: Resources, number: str) -> Iterator[Path]:
    with ExitStack() as undo:
        parent = root
        for name in Path(resources.cgroup_parent.lstrip("/")).parts:
            parent = _made(parent, name, tree, undo)
        _remove_stale(parent)
        group = _made(parent, f"{_NAME}-{os.getpid()}-{number}", tree, undo)
        undo.callback(_wait_for_end, group)
        for name, value in tree.settings.items():
            _write(group / name, value)
        yield group


def _made(parent: Path, name: str, tree: _Hierarchy, undo: ExitStack) -> Path:
    """A group below `parent`; if it is created here, `undo` removes it."""
    group = parent / name
    if tree.kind == "cgroup2":
        _enable(parent, tree.options.split(","))
    with suppress(FileExistsError):
        group.mkdir()
        undo.callback(_remove, group)
        for inherited in _INHERITED if tree.kind == "cgroup" else ():
            if (group / inherited).exists():
                _write(group / inherited, (parent / inherited).read_text())
    return group


def _enable(group: Path, controllers: Sequence[str]) -> None:
    """Let the groups below `group` have these controllers.

    Only the host's root has processes and such groups as well (cgroup-v2.rst, "No Internal Process
    Constraint"): elsewhere the processes move to a group below, as in containers of BuildKit.
    """
    control, wanted = group / "cgroup.subtree_control", " ".join(f"+{one}" for one in controllers)
    with suppress(OSError):
        control.write_text(wanted)
        return
    leaf = group / _NAME
    leaf.mkdir(exist_ok=True)
    for process in (group / "cgroup.procs").read_text().split():
        with suppress(OSError):  # it has ended, or is that of an outer container
            (leaf / "cgroup.procs").write_text(process)
    _write(control, wanted)


def _wait_for_end(group: Path) -> None:
    """Of processes in the group that were killed: until then it cannot be removed."""
    with suppress(OSError):
        for _ in range(_LAST_LOOKS):
            if not (group / "cgroup.procs").read_bytes():
                return
            time.sleep(_PAUSE_S)


def _remove(group: Path) -> None:
    with suppress(OSError):  # in use by others, or already removed
        group.rmdir()


def _remove_stale(parent: Path) -> None:
    for group in parent.glob(f"{_NAME}-*-*"):
        if not Path(f"/proc/{group.name.split('-')[1]}").exists():
            _remove(group)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise _refused(f"{file.name} = {text.strip()}: {error.strerror}") from error
