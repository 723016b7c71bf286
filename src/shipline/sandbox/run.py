"""Run one step in a root file system; nothing stays there but what the command wrote."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError, UsageError
from shipline.oci import to_bytes
from shipline.sandbox import kernel
from shipline.sandbox.bundle import (
    HOST_NODES,
    BindMount,
    BundleMount,
    BundlePaths,
    DeviceNode,
    SecretFile,
    StepMount,
    StepSpec,
    TmpfsMount,
    add_host_devices,
    config,
    environment,
    make_device_directory,
    make_device_nodes,
)
from shipline.sandbox.limits import ControlGroups
from shipline.sandbox.mounts import Bind, Tmpfs, bound, mounted
from shipline.sandbox.network import HOST, Connector, StepNetwork, find_connector
from shipline.sandbox.rooted import CreatedPath, make_in_root, remove_created, resolve_in_root
from shipline.sandbox.rootless import require_ids
from shipline.sandbox.runtime import Runtime, find_runtime
from shipline.sandbox.supervisor import OnOutput
from shipline.tasks import Once

OnNetwork = Callable[[str], None]
HOST_GATEWAY = "host-gateway"
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as in a shell: sh(1)


def missing_command(spec: StepSpec, root: Path) -> tuple[int, str] | None:
    """The status and message for a command that cannot be executed; None if perhaps it can."""
    name = spec.args[0]
    mounts = [os.path.join("/", spec.cwd, mount.target) for mount in spec.mounts]
    status, reason = NOT_FOUND, "executable file not found in $PATH"
    if "/" in name:
        reason = f"stat {name}: no such file or directory"
    for candidate in _candidates(name, spec):
        if any(candidate.startswith(os.path.normpath(mount)) for mount in mounts):
            return None
        mode = _mode(root, candidate)
        if stat.S_ISREG(mode) and mode & 0o111:
            return None
        if mode and "/" in name:
            is_directory = "is a directory: " if stat.S_ISDIR(mode) else ""
            status, reason = NOT_EXECUTABLE, f"{is_directory}permission denied"
    return status, f'exec: "{name}": {reason}'


def _candidates(name: str, spec: StepSpec) -> Iterator[str]:
    if "/" in name:
        yield os.path.join("/", spec.cwd, name)
        return
    path = next(entry for entry in environment(spec) if entry.startswith("PATH="))
    for directory in path.removeprefix("PATH=").split(":"):
        yield os.path.join("/", spec.cwd, directory, name)


def _mode(root: Path, path: str) -> int:
    try:
        return os.lstat(resolve_in_root(root, path)).st_mode
    except (OSError, SandboxError):
        return 0


_DEVICES_SIZE = 64 << 20  # bytes that a step may write under /dev, as in Docker
_NETWORK_FILE = ("bind", "ro", "nosuid", "nodev", "noexec")
_LOCALHOST = "127.0.0.1\tlocalhost {host}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_NO_RESOLVER = (
    "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"  # Docker's default without a file of the host
)


@contextmanager
def open_sandbox(
    scratch: Path, *, runtime: Runtime | None = None, on_network: OnNetwork = lambda text: None
) -> Iterator[Sandbox]:
    """The sandbox of a build, inside the workspace `scratch`; call `private_mounts` before.

    `on_network` is called once, with how the default network works here, when a step needs it.

    Bundles, runtime state and secrets are on a tmpfs of this mount namespace: they never reach a
    disk and vanish with the process. Raises SandboxError when no runtime works.
    """
    directory = scratch / "run"
    directory.mkdir(mode=0o711)
    with mounted(Tmpfs(directory, mode=0o711)):
        yield Sandbox(directory, runtime or find_runtime(directory), on_network)


class ExitStatus(Struct, frozen=True):
    """How a command ended; `out_of_memory` if it failed and the kernel killed a process that would
    not fit into the memory limit.
    """

    status: int
    out_of_memory: bool = False


class Sandbox:
    """Runs the steps of one build; safe to use from all of its threads."""

    def __init__(self, directory: Path, runtime: Runtime, on_network: OnNetwork) -> None:
        self.runtime = runtime
        self._on_network = on_network
        self._connector: Once[Connector | None] = Once()
        self._directory = directory
        self._numbers = itertools.count(1)
        self._control_groups = ControlGroups(directory / "cgroups")
        self._state = directory / "state"  # one for all: crun keeps compiled filters in it

    def run(self, spec: StepSpec, root: Path, on_output: OnOutput) -> ExitStatus:
        """Run `spec` in `root` (a mounted tree); its status is 128 + n after signal n.

        `on_output(data, stream)` gets the output as it comes, stream 1 or 2. A command that is
        missing gives 127, one that cannot be executed 126, with the reason on stream 2. Mount
        points created in `root` are removed again. Raises SandboxError when this machine cannot
        run the step, Cancelled when interrupted: every process of the step is dead then.
        """
        require_ids(uids=(spec.user.uid,), gids=(spec.user.gid,))
        if not (self.runtime.filters or spec.insecure):
            raise SandboxError(
                f"{self.runtime.path} does not filter system calls",
                code="seccomp",
                hint="install a crun that was built with libseccomp (`crun --version` lists"
                " +SECCOMP), or runc; insecure steps need no filter",
            )
        if (missing := missing_command(spec, root)) is not None:
            on_output(missing[1].encode() + b"\n", 2)
            return ExitStatus(missing[0])
        step = self._directory / str(next(self._numbers))
        for name in ("dev", "nodes", "root", "secrets", "sources"):
            (step / name).mkdir(parents=True, mode=0o711)
        try:
            with (
                self._bundle(spec, root, step),
                self._control_groups.limited(spec.resources, step.name) as limits,
            ):
                status, failure = self.runtime.run(step, self._state, on_output, limits.join)
                out_of_memory = status != 0 and limits.out_of_memory()
            if failure:
                status = _verdict(spec, self.runtime, failure, on_output)
            return ExitStatus(status, out_of_memory)
        finally:
            shutil.rmtree(step, ignore_errors=True)

    @contextmanager
    def _bundle(self, spec: StepSpec, root: Path, step: Path) -> Iterator[None]:
        """Write the bundle in the directory `step`; its mounts and its network are there until the
        block ends.
        """
        devices = Tmpfs(step / "dev", size=_DEVICES_SIZE, devices=spec.insecure)
        nodes = Tmpfs(step / "nodes", devices=True)
        seen = Bind(root, step / "root", devices=spec.insecure)
        with (
            self._network(spec, step) as network,
            _mount_points(spec, root, step, network) as (network_files, mounts),
            mounted(devices, nodes, seen),
        ):
            make_device_directory(devices.target)
            own_nodes = make_device_nodes(nodes.target)
            if spec.insecure and not kernel.in_user_namespace():
                add_host_devices(devices.target)
            paths = BundlePaths(
                seen.target,
                devices.target,
                network_files,
                mounts,
                self.runtime.control_groups,
                network,
                nodes.target if own_nodes else HOST_NODES,
            )
            (step / "config.json").write_bytes(to_bytes(config(spec, paths)))
            yield

    @contextmanager
    def _network(self, spec: StepSpec, step: Path) -> Iterator[StepNetwork]:
        connector = None
        if spec.network == "default":
            connector = self._connector.get("connector", self._find_connector)
        if connector is None:
            yield HOST
            return
        gateway = any(address == HOST_GATEWAY for _, address in spec.extra_hosts)
        with connector.connected(step, gateway=gateway) as network:
            yield network

    def _find_connector(self) -> Connector | None:
        connector, reason = find_connector(self._directory)
        if connector is None:
            self._on_network(f"host ({reason})")
        else:
            self._on_network(f"isolated by {connector.name}")
        return connector


@contextmanager
def _mount_points(
    spec: StepSpec, root: Path, step: Path, network: StepNetwork
) -> Iterator[tuple[tuple[BundleMount, ...], tuple[BundleMount, ...]]]:
    """Create the mount points in `root`; those still empty are removed when the block ends."""
    created: list[CreatedPath] = []
    with ExitStack() as undo:
        undo.callback(lambda: remove_created(created))
        for name in ("/proc", "/sys", "/dev"):
            created += make_in_root(root, name, directory=True)[1]
        hosts, resolv_conf = step / "hosts", step / "resolv.conf"
        hosts.write_text(_hosts(spec, network), errors="surrogateescape")
        text = _resolver(Path("/etc/resolv.conf"), network)
        resolv_conf.write_text(text, errors="surrogateescape")
        network_files = []
        for name, file in (("/etc/hosts", hosts), ("/etc/resolv.conf", resolv_conf)):
            file.chmod(0o644)
            inside = _mount_point(root, name, created, directory=False)
            network_files.append(BundleMount(inside, file, _NETWORK_FILE))
        covered = ["/proc", "/sys", "/dev"]
        mounts = []
        for number, mount in enumerate(spec.mounts):
            if isinstance(mount, DeviceNode) and not (step / "devices").exists():
                (step / "devices").mkdir()
                undo.enter_context(mounted(Tmpfs(step / "devices", devices=True)))
            source, options = _source(mount, step, number, spec)
            if isinstance(mount, BindMount) and mount.read_only and source is not None:
                # crun makes its own mounts read-only last, and mount points of others in them first
                own = step / "sources" / str(number)
                source = undo.enter_context(bound(source, own, read_only=True))
            target = _target(mount, spec)
            if not any(target == one or target.startswith(f"{one}/") for one in covered):
                directory = source is None or source.is_dir()
                target = _mount_point(root, target, created, directory=directory)
            covered.append(target)
            mounts.append(BundleMount(target, source, options))
        yield tuple(network_files), tuple(mounts)


def _mount_point(root: Path, target: str, created: list[CreatedPath], *, directory: bool) -> str:
    place, new = make_in_root(root, target, directory=directory)
    created += new
    return "/" + os.path.relpath(place, root.resolve())


def _target(mount: StepMount, spec: StepSpec) -> str:
    target = os.path.normpath(os.path.join("/", spec.cwd, mount.target))
    if target == "/":
        raise UsageError(
            'invalid mount target "/": a mount cannot cover the whole root',
            code="mount-invalid",
            hint="give it another target",
        )
    return target


def _source(
    mount: StepMount, step: Path, number: int, spec: StepSpec
) -> tuple[Path | None, tuple[str, ...]]:
    nodev = () if spec.insecure else ("nodev",)
    match mount:
        case TmpfsMount(size=size, read_only=read_only):
            limit = (f"size={size}",) if size else ()
            access = ("ro",) if read_only else ()
            return None, ("nosuid", *nodev, *access, "mode=1777", *limit)
        case DeviceNode():
            return _device(mount, step / "devices" / str(number)), ("bind", "nosuid", "noexec")
        case SecretFile():
            secret = step / "secrets" / str(number)
            _write_secret(secret, mount)
            return secret, ("bind", "ro", "nosuid", "nodev", "noexec")
        case BindMount(source=source, read_only=read_only):
            if not source.exists():
                raise SandboxError(
                    f"the source of the mount on {mount.target} does not exist",
                    code="mount-invalid",
                )
            return source, ("bind", "ro" if read_only else "rw", *nodev)


def _device(node: DeviceNode, own: Path) -> Path:
    """The host path of the device: its own, or a node with another mode or owner at `own`."""
    same = node.mode is None and node.uid is None and node.gid is None
    if same or kernel.in_user_namespace():
        return node.source
    status = node.source.stat()
    os.mknod(own, status.st_mode, status.st_rdev)
    os.chown(own, node.uid or 0, node.gid or 0)
    os.chmod(own, stat.S_IMODE(status.st_mode) if node.mode is None else node.mode)
    return own


def _write_secret(path: Path, secret: SecretFile) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        require_ids(uids=(secret.uid,), gids=(secret.gid,))
        file.write(secret.content)
        os.fchown(descriptor, secret.uid, secret.gid)
        os.fchmod(descriptor, secret.mode)


def _hosts(spec: StepSpec, network: StepNetwork) -> str:
    known = {HOST_GATEWAY: network.gateway}
    more = "".join(f"{known.get(one, one)}\t{name}\n" for name, one in spec.extra_hosts)
    return _LOCALHOST.format(host=spec.hostname) + more


def _resolver(path: Path, network: StepNetwork) -> str:
    """The host's resolv.conf(5), with servers that a network of its own can reach."""
    try:
        text = path.read_text(errors="surrogateescape") or _NO_RESOLVER
    except OSError:
        return _NO_RESOLVER
    if not network.resolver or not _LOCAL_SERVER.search(text):
        return text
    others = [line for line in text.splitlines() if not line.startswith("nameserver")]
    return "\n".join([f"nameserver {network.resolver}", *others, ""])


_LOCAL_SERVER = re.compile(r"^nameserver\s+(?:127\.|::1\s*$|\S+%)", re.MULTILINE)


_CANNOT_EXECUTE = re.compile(r"\bexec(utable|:| )|not a regular file|\$PATH", re.IGNORECASE)


def _verdict(spec: StepSpec, runtime: Runtime, failure: str, on_output: OnOutput) -> int:
    """What the runtime's failure means: a status as a shell would give it, or a SandboxError."""
    words, name = failure.lower(), spec.args[0]
    if _CANNOT_EXECUTE.search(failure):
        if "exec format error" in words:
            raise SandboxError(
                f"{name} is not a program for this architecture",
                code="emulator",
                hint="run `shipline builder bootstrap` as root to register an emulator,"
                " or check the platform of the base image",
            )
        if "permi" in words:  # permission denied, operation not permitted
            on_output(f"exec {name}: permission denied\n".encode(), 2)
            return NOT_EXECUTABLE
        if "no such file" in words or "not found" in words:
            on_output(f"exec {name}: no such file or directory\n".encode(), 2)
            return NOT_FOUND
    if spec.ulimits:
        limits = " ".join(f"--ulimit {one.name}={one.soft}:{one.hard}" for one in spec.ulimits)
        raise SandboxError(
            f"the step cannot start within {limits}: {failure}",
            code="limit-too-low",
            hint=f"raise the limits: {runtime.name} needs more before the command starts",
        )
    raise SandboxError(f"{runtime.name} cannot start the step: {failure}", code="runtime-start")
