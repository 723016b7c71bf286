"""RUN: a command in the root filesystem of a snapshot; what it changed becomes a layer."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shipline import sandbox
from shipline.build.cache import LayerResult
from shipline.build.executor import Executor, StepMounts, context_digest, is_root, mounted_digest
from shipline.build.faults import full_hint
from shipline.build.graph import RunOp, key_of
from shipline.build.request import SHM_SIZE
from shipline.build.snapshots import Snapshot, Writable
from shipline.build.worker import Source, StepOptions, Worker
from shipline.dockerfile import resolve_path
from shipline.errors import ShiplineError, StepFailed
from shipline.events import Step
from shipline.layer import changeset, lower_directory
from shipline.oci import Platform
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.sandbox import StepMount, StepSpec

_LAST_LINES = 20
_LONGEST = 300  # characters of a command in a message
_SIGNS = {
    126: "the command is not executable: chmod +x it, or COPY it with --chmod=755",
    137: "it was killed (SIGKILL): perhaps the machine ran out of memory",
    139: "it ended with a segmentation fault (SIGSEGV)",
}
_NOT_FOUND = (
    r"(?:sh: (?:(?:line )?\d+: )?|^exec )([^\s:]+): "
    r"(?:(?:command )?not found|cannot execute: required file not found|no such file or directory)$"
)
_NOT_RESOLVED = (
    r"could not resolve|failure (?:in name resolution|resolving)|name or service not known"
    r"|name does not resolve|\bbad address '|no such host|unable to resolve host address"
    r"|getaddrinfo (?:ENOTFOUND|EAI_AGAIN)"
)
"""What programs say of a name: in the words of glibc, musl, curl, apt, wget, Go and Node.js."""
_NO_NAMES = {
    "none": "the step has no network: RUN --network=none, or --network none of the build",
    "host": "the step has this machine's network: look at /etc/resolv.conf here, or give an address"
    " with --add-host NAME:ADDRESS",
    "default": "the step has a network of its own where pasta or slirp4netns is installed: a name"
    " server or VPN that only this machine reaches needs --network host; --add-host NAME:ADDRESS"
    " gives an address",
}
"""What may help where no host name is resolved, by the network of the step."""


def run_key(op: RunOp, inputs: Sequence[Source]) -> str:
    """The cache key of a command's layer."""
    contents = [_content(op, number, one) for number, one in enumerate(inputs)]
    return key_of("run layer/1", op=op.key(), inputs=contents)


def _content(op: RunOp, number: int, source: Source) -> dict[str, object]:
    """The part of a cache key for an input."""
    if isinstance(source, Snapshot):
        return {"layers": source.diff_ids}
    paths = {one.source for one in op.mounts if one.input == number}
    return {"files": {path: context_digest(source, path) for path in paths}}


def prepare_commands(executor: Executor, platforms: Iterable[Platform]) -> None:
    """Try the runtime and emulators before commands need them. Raises nothing: `run` raises what is
    wrong with them.
    """
    with suppress(ShiplineError, OSError):
        executor.sandbox()
        for one in platforms:
            sandbox.can_execute(one)


def run(
    op: RunOp, inputs: Sequence[Source], worker: Worker, executor: Executor, options: StepOptions
) -> LayerResult:
    """The layer that the command makes on top of input 0: that of an earlier one if the files that
    it mounts from other stages are the same. Raises StepFailed.
    """

    def make() -> LayerResult:
        return _make_layer(op, inputs, worker, executor, options)

    key = "" if options.fresh else _content_key(op, inputs, worker)
    if not key:
        return make()
    result, was_there = worker.cache.once(key, make, fresh=False)
    if was_there:
        options.step.cached()
    return result


def _content_key(op: RunOp, inputs: Sequence[Source], worker: Worker) -> str:
    """The cache key that has the files mounted from other stages in place of those stages; empty
    where a mount shows all files of one, which are seldom the same.
    """
    base, *others = inputs
    paths = {(one.input, one.source) for one in op.mounts if one.input}
    stages = [one for one in others if isinstance(one, Snapshot)]
    if not stages or any(is_root(path) for number, path in paths):
        return ""
    assert isinstance(base, Snapshot)
    files = [
        [number, path, mounted_digest(inputs[number], path, worker)]
        for number, path in sorted(paths)
    ]
    return key_of("run files/2", op=op.key(), base=base.diff_ids, files=files)


def _make_layer(
    op: RunOp, inputs: Sequence[Source], worker: Worker, executor: Executor, options: StepOptions
) -> LayerResult:
    with ExitStack() as stack:
        place = stack.enter_context(executed(op, inputs, worker, executor, options))
        root = os.open(place.upper, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, root)
        lower = stack.enter_context(lower_directory(place.lower))
        result = worker.make_layer(changeset(root, lower), replace(options, mountable=False))
        worker.snapshots.adopt(result.layer, place.upper)
    return result


@contextmanager
def executed(
    op: RunOp,
    inputs: Sequence[Source],
    worker: Worker,
    executor: Executor,
    options: StepOptions,
    *,
    more: tuple[StepMount, ...] = (),
) -> Iterator[Writable]:
    """The files of input 0 after the command, which also has `more` mounts. Raises StepFailed."""
    base = inputs[0]
    assert isinstance(base, Snapshot)
    for device in op.absent:
        options.step.warn(f"Optional device {device} is not registered: the step runs without it")
    ensure_platform(Platform.parse(op.platform), options.step)
    with ExitStack() as stack:
        place = stack.enter_context(worker.snapshots.writable(base))
        _make_mount_points(place.root, op)
        mounts, secrets = StepMounts(inputs, worker, executor, stack).open(op, fresh=options.fresh)
        spec = _spec(op, place.root, (*mounts, *more), secrets)
        _execute(op, spec, place.root, executor, options.step)
        # another step may have been given an open directory of this one, through a cache of both
        sandbox.freeze(place.root)
        yield place


def _make_mount_points(root: Path, op: RunOp) -> None:
    """Create what every container needs. It is part of the layer, as in BuildKit, unless a mount of
    the step is below: what was made for that one is removed after it.
    """
    targets = [resolve_path(op.cwd, mount.target) for mount in op.mounts]
    if op.shm_size not in (0, SHM_SIZE) or op.script[0]:
        targets.append("/dev/own")
    for name in ("dev", "proc", "sys"):
        below = any(target.startswith(f"/{name}/") for target in targets)
        if not below and not os.path.lexists(root / name):
            os.mkdir(root / name)
            os.chmod(root / name, 0o755)  # whatever the umask is


def ensure_platform(platform: Platform, step: Step) -> None:
    """Make sure that programs of `platform` run here: root registers an emulator if one is
    needed, with a warning, since that changes the host. Raises SandboxError.
    """
    can_register = os.geteuid() == 0 and not sandbox.can_execute(platform)
    if can_register and (undo := sandbox.register(platform)):
        step.warn(
            f"registered an emulator for {platform} programs on this machine: it stays, for all"
            " containers, until it is removed or the machine restarts",
            f"to undo it, as root: `{undo}`",
        )
    sandbox.require_execution(platform)


def _execute(op: RunOp, spec: StepSpec, root: Path, executor: Executor, step: Step) -> None:
    tail = _Tail()

    def listen(data: bytes, stream: int) -> None:
        step.output(data, stream)
        tail.write(data)

    result = executor.sandbox().run(spec, root, listen)
    status = result.status
    if status != 0:
        remedy = _remedy(op, tail.lines(), executor.state)
        remedy = remedy or _SIGNS.get(status, "") or _not_given(op, executor)
        if result.out_of_memory:
            remedy = (
                f"it reached its memory limit of {_binary(op.resources.memory)}, and the kernel"
                " killed a process: raise --memory, or use less"
            )
        raise StepFailed(
            f"process {_shortened(op.args)} did not complete successfully: exit code: {status}",
            code="step-exit",
            status=status,
            platform=op.platform,
            log=tail.lines(),
            hint=remedy,
        )


def _not_given(op: RunOp, executor: Executor) -> str:
    """The flags for SSH agents and secrets that the command mounts and the build was not given."""
    flags = [
        f"--ssh {one.id}" if one.type == "ssh" else f"--secret id={one.id}"
        for one in op.mounts
        if (one.type == "ssh" and one.id not in executor.agents)
        or (one.type == "secret" and one.id not in executor.secrets)
    ]
    return f"it ran without what it mounts: pass {', '.join(flags)}" if flags else ""


def _binary(number: int) -> str:
    """Bytes as limits are given: `32 MiB`; exact where they are no whole number of MiB."""
    return f"{number >> 20} MiB" if number % (1 << 20) == 0 else f"{number} bytes"


def _shortened(args: Sequence[str]) -> str:
    """The command for a message; a long script is cut."""
    text = " ".join(args)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return json.dumps(text, ensure_ascii=False)


def _remedy(op: RunOp, log: Sequence[str], home: Path) -> str:
    """What to do about a command that failed; empty where its output does not say."""
    if hint := full_hint(home):
        return hint
    if any("No space left on device" in line for line in log):
        return "a tmpfs of the step is full: /dev/shm (see --shm-size), or a mount of type tmpfs"
    if any(re.search(_NOT_RESOLVED, line, re.IGNORECASE) for line in log):
        return _NO_NAMES[op.network]
    found = re.search(_NOT_FOUND, log[-1]) if log else None
    if found is None:
        return ""
    if op.args and op.args[-1].startswith("["):
        return 'a shell ran this: a JSON array needs double quotes, ["like", "this"]'
    name = found[1]
    if "/" in name:  # the kernel says the same of a file whose interpreter it does not find
        return (
            f"either {name} is not in the image, or the program in its first line (#!) is not;"
            " that line may end with CR LF"
        )
    return f"{name} is not in the image: install it in an earlier step, or choose another base"


class _Tail:
    """Keeps the last lines of an output."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._open = b""

    def write(self, data: bytes) -> None:
        *lines, self._open = (self._open + data).split(b"\n")
        self._lines.extend(lines)
        self._open = self._open[-4096:]

    def lines(self) -> tuple[str, ...]:
        found = [*self._lines, self._open] if self._open else [*self._lines]
        return tuple(line.decode("utf-8", "replace").rstrip("\r") for line in found)


def _spec(
    op: RunOp, root: Path, mounts: tuple[StepMount, ...], secrets: tuple[str, ...]
) -> StepSpec:
    edits, user = (
        sandbox.Devices().edits(op.devices) if op.devices else sandbox.DeviceEdits(),
        sandbox.find_user(root, op.user),
    )
    return sandbox.StepSpec(
        args=op.args,
        env=(*op.env, *op.proxies, *edits.env),
        cwd=resolve_path("/", op.cwd),
        user=replace(user, groups=(*user.groups, *edits.groups)),
        mounts=(*mounts, *edits.mounts),
        secret_env=secrets,
        network=op.network,
        extra_hosts=op.hosts,
        shm_size=op.shm_size,
        ulimits=op.ulimits,
        insecure=op.insecure,
        hostname=op.hostname or sandbox.HOSTNAME,
        resources=op.resources,
    )
