"""RUN: a command in the root filesystem of a snapshot; what it changed becomes a layer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from shipline import dockerfile as df
from shipline.build.cache import LayerResult, alone
from shipline.build.copying import StepOptions
from shipline.build.faults import full_hint
from shipline.build.graph import Label, RunMount, RunOp, key_of
from shipline.build.selecting import Root, missing
from shipline.build.snapshots import USE_LOCK, Snapshot
from shipline.build.workshop import ContextDirectory, Result, Worker
from shipline.content import Recency
from shipline.errors import StepFailed, UsageError
from shipline.events import Step
from shipline.layer import Tree, changeset, lower_directory, scan, unpack
from shipline.oci import Platform
from shipline.sandbox import (
    HOSTNAME,
    BindMount,
    Overlay,
    SecretFile,
    StepMount,
    StepSpec,
    TmpfsMount,
    Ulimit,
    can_execute,
    find_user,
    mounted,
    owners_suffix,
    register,
    remove_tree,
    require_execution,
    require_ids,
    resolve_in_root,
)
from shipline.tasks import sleep

_RENEWED = "renewed"  # in a cache: what begins the names of its directories
_LAST_LINES = 20
_LONGEST = 300  # characters of a command in a message
_SIGNS = {
    126: "what the step calls may not be executed: chmod +x it, or COPY it with --chmod=755",
    137: "it was killed (SIGKILL): the machine, or the limit of --memory, had no memory left",
    139: "it ended with a segmentation fault (SIGSEGV)",
}
_NOT_FOUND = re.compile(r"sh: (?:(?:line )?\d+: )?([^\s:]+): (?:command )?not found$")


def run_key(op: RunOp, inputs: Sequence[Result]) -> str:
    """What the layer of a command is found by."""
    contents = [_content(op, number, one) for number, one in enumerate(inputs)]
    return key_of("run layer/1", op=op.key(), inputs=contents)


def run(
    op: RunOp, inputs: Sequence[Result], key: str, shop: Worker, use: StepOptions, label: Label
) -> LayerResult:
    """The layer that the command makes on top of input 0, kept as `key`. Raises StepFailed."""
    base = inputs[0]
    assert isinstance(base, Snapshot)
    ensure_platform(Platform.parse(op.platform), use.step)
    with ExitStack() as stack:
        place = stack.enter_context(shop.snapshots.writable(base))
        _make_mount_points(place.root)
        spec = _spec(op, inputs, place.root, shop, stack, fresh=use.fresh)
        _execute(spec, place.root, shop, use.step, op, label)
        root = os.open(place.upper, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, root)
        lower = stack.enter_context(lower_directory(place.lower))
        made = shop.make_layer(changeset(root, lower), follower=use.follower, mountable=False)
        shop.snapshots.adopt(made.layer, place.upper)
    shop.cache.put(made, key)
    return made


def _make_mount_points(root: Path) -> None:
    """What every container needs is part of the layer, as BuildKit has it."""
    for name in ("dev", "proc", "sys"):
        if not os.path.lexists(root / name):
            os.mkdir(root / name, 0o755)


def ensure_platform(platform: Platform, step: Step) -> None:
    """Return when programs of `platform` run here; registers the emulator where that is allowed,
    and says so where that changes the host.
    """
    if os.geteuid() == 0 and not can_execute(platform) and (undo := register(platform)):
        step.warn(
            f"registered an emulator for {platform} programs on this machine: it stays, for all of"
            " its containers, until it is taken away or the machine starts anew",
            f"as root, to undo it: `{undo}`",
        )
    require_execution(platform)


def _content(op: RunOp, number: int, source: Result) -> dict[str, object]:
    """The part of a cache key for an input."""
    if isinstance(source, Snapshot):
        return {"layers": source.diff_ids}
    paths = {one.source for one in op.mounts if one.input == number}
    return {"files": {path: _context_digest(source, path) for path in paths}}


def _context_digest(source: ContextDirectory, path: str) -> str:
    return str(_context_tree(source, path).digest((0, 0)))


def _context_tree(source: ContextDirectory, path: str) -> Tree:
    place = resolve_in_root(source.path, path)
    if not os.path.lexists(place):
        root = Root(source.path, f"the {source.name}", is_context=True, rules=source.rules)
        raise missing(root, path)
    inside = os.path.relpath(place, source.path)
    return scan(
        source.path, "" if inside == "." else inside, prune=source.prune, cache=source.cache
    )


def _execute(spec: StepSpec, root: Path, shop: Worker, step: Step, op: RunOp, label: Label) -> None:
    tail = _Tail()

    def listen(data: bytes, stream: int) -> None:
        step.output(data, stream)
        tail.write(data)

    status = shop.sandbox().run(spec, root, listen)
    if status != 0:
        raise StepFailed(
            f"process {_shortened(op.args)} did not complete successfully: exit code: {status}",
            status=status,
            span=label.span,
            platform=op.platform,
            log=tail.lines(),
            hint=_cure(op.args, tail.lines(), shop.state) or _SIGNS.get(status, ""),
        )


def _shortened(args: Sequence[str]) -> str:
    """The command for a message: of a long script its beginning."""
    text = " ".join(args)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return json.dumps(text, ensure_ascii=False)


def _cure(args: Sequence[str], log: Sequence[str], home: Path) -> str:
    """What to do about a command that failed; empty where its output does not tell."""
    if hint := full_hint(home):
        return hint
    if any("No space left on device" in line for line in log):
        return "a tmpfs of the step is full: /dev/shm, which --shm-size sets, or a mount of its own"
    found = _NOT_FOUND.search(log[-1]) if log else None
    if found is None:
        return ""
    if args and args[-1].startswith("["):
        return (
            'a shell ran this: the strings of a JSON array stand in double quotes, ["like", "this"]'
        )
    return f"{found[1]} is not in the image: install it in a step before, or choose another base"


class _Tail:
    """The last lines of an output."""

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
    op: RunOp,
    inputs: Sequence[Result],
    root: Path,
    shop: Worker,
    stack: ExitStack,
    *,
    fresh: bool,
) -> StepSpec:
    caches = _cache_directories(op, inputs, shop, stack, fresh=fresh)
    mounts: list[StepMount] = []
    secret_env: list[str] = []
    for mount in op.mounts:
        if mount.type == "secret":
            _add_secret(mount, shop, mounts, secret_env)
        else:
            mounts.append(_mount(mount, inputs, caches, shop, stack))
    name, content = op.script
    if name:
        script = shop.scratch / f"script-{os.urandom(6).hex()}"
        script.write_text(content, "utf-8", "surrogateescape")
        script.chmod(0o755)
        stack.callback(script.unlink)
        mounts.append(BindMount(script, f"{df.SCRIPT_DIRECTORY}/{name}"))
    return StepSpec(
        args=op.args,
        env=(*op.proxies, *op.env),
        cwd=op.cwd,
        user=find_user(root, op.user),
        mounts=tuple(mounts),
        secret_env=tuple(secret_env),
        network="none" if op.network == "none" else "host",
        extra_hosts=op.hosts,
        shm_size=op.shm_size,
        ulimits=tuple(Ulimit(*one) for one in op.ulimits),
        insecure=op.insecure,
        hostname=op.hostname or HOSTNAME,
        limits=op.limits,
    )


def _mount(
    mount: RunMount,
    inputs: Sequence[Result],
    caches: Mapping[str, Path],
    shop: Worker,
    stack: ExitStack,
) -> StepMount:
    if mount.type == "tmpfs":
        return TmpfsMount(mount.target, mount.size)
    if mount.type == "cache":
        directory = caches[_cache_name(mount, inputs)]
        source = resolve_in_root(directory, mount.source) if mount.input else directory
        return BindMount(source, mount.target, mount.read_only)
    source = _files(inputs[mount.input], mount.source, shop, stack)
    if not mount.read_only:
        source = stack.enter_context(_throwaway(source, shop))
    return BindMount(source, mount.target, mount.read_only)


def _files(source: Result, path: str, shop: Worker, stack: ExitStack) -> Path:
    """The host path of `path` in a snapshot, or of a context as the build sees it."""
    if isinstance(source, Snapshot):
        root = stack.enter_context(shop.snapshots.mounted(source))
        found = resolve_in_root(root, path)
        if not os.path.lexists(found):
            raise missing(Root(root, "the stage or image"), path)
        return found
    found = resolve_in_root(source.path, path)
    copy = shop.scratch / f"context-{os.urandom(6).hex()}"
    copy.mkdir()
    stack.callback(remove_tree, copy)
    tree = _context_tree(source, path)
    owned = ((entry._replace(uid=0, gid=0), content) for entry, content in tree.items())
    unpack(owned, copy, whiteouts="keep")
    return copy if found.is_dir() else copy / found.name


@contextmanager
def _throwaway(source: Path, shop: Worker) -> Iterator[Path]:
    """`source`, writable; what is written is thrown away."""
    place = shop.scratch / f"throwaway-{os.urandom(6).hex()}"
    root, upper, work = place / "root", place / "upper", place / "work"
    for directory in (root, upper, work):
        directory.mkdir(parents=True)
    try:
        if source.is_dir():
            with mounted(Overlay(root, lowers=(source,), upper=upper, work=work)):
                yield root
        else:
            shutil.copy2(source, upper / source.name)
            yield upper / source.name
    finally:
        remove_tree(place)


def _cache_directories(
    op: RunOp, inputs: Sequence[Result], shop: Worker, stack: ExitStack, *, fresh: bool
) -> dict[str, Path]:
    """What the caches of a step are in, by their names, locked as `sharing` says.

    Taken in the order of their names, so that no two steps wait for each other; two mounts of one
    cache share it.
    """
    mounts = {_cache_name(one, inputs): one for one in op.mounts[::-1] if one.type == "cache"}
    found = {}
    for name in sorted(mounts):
        parent = shop.state / f"mounts{owners_suffix()}" / name
        parent.mkdir(parents=True, exist_ok=True)
        parent.parent.chmod(0o700)  # other users must not find setuid programs of images
        if fresh:
            shop.emptied.get(name, partial(_empty_cache, parent, shop))
        found[name] = _claim(parent, mounts[name].sharing, stack)
        with alone(shop.state, key_of("cache directory/1", name=name, number=found[name].name)):
            if not found[name].exists():
                _prepare_cache(found[name], mounts[name], inputs, shop, stack)
    return found


def _empty_cache(parent: Path, shop: Worker) -> None:
    """Have the cache begin anew; steps that use the old one now keep it until they end."""
    new = shop.scratch / f"renewed-{os.urandom(6).hex()}"
    new.write_text(f"{os.urandom(6).hex()}-")
    os.replace(new, parent / _RENEWED)
    for directory in [one for one in parent.iterdir() if one.is_dir()]:
        with open(f"{directory}.lock", "ab") as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(directory, shop.scratch / f"cache-{os.urandom(6).hex()}")


def _cache_name(mount: RunMount, inputs: Sequence[Result]) -> str:
    """The directory of a cache: by its id, and by what it starts with where that was given."""
    identity = mount.id or mount.target
    if mount.input:
        source = inputs[mount.input]
        if isinstance(source, Snapshot):
            return key_of("cache mount/1", id=identity, layers=source.diff_ids)
        return key_of("cache mount/1", id=identity, files=_context_digest(source, ""))
    if mount.owned:
        owner, mode = [mount.uid, mount.gid], mount.mode
        return key_of("cache mount/1", id=identity, owner=owner, mode=mode)
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()


def _claim(parent: Path, sharing: str, stack: ExitStack) -> Path:
    """A cache directory that may be used now; it may still have to be made."""
    number = 0
    renewed = parent / _RENEWED
    prefix = renewed.read_text() if renewed.exists() else ""
    while True:
        directory = parent / f"{prefix}{number}"
        fd = os.open(f"{directory}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, fd)
        try:
            fcntl.flock(
                fd, (fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX) | fcntl.LOCK_NB
            )
            Recency(parent.parents[1] / USE_LOCK).touch(Path(f"{directory}.lock"))
            return directory
        except BlockingIOError:
            if sharing == "private":
                number += 1
            else:
                sleep(0.02)


def _prepare_cache(
    directory: Path, mount: RunMount, inputs: Sequence[Result], shop: Worker, stack: ExitStack
) -> None:
    require_ids(uids=(mount.uid,), gids=(mount.gid,))
    building = shop.scratch / f"cache-{os.urandom(6).hex()}"
    building.mkdir()
    uid, gid, mode = mount.uid, mount.gid, mount.mode
    if mount.input:
        source = _files(inputs[mount.input], "", shop, stack)
        unpack(scan(source).items(), building, whiteouts="keep")
        status = source.stat()
        uid, gid, mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    os.chown(building, uid, gid)
    os.chmod(building, mode)
    os.rename(building, directory)


def _add_secret(
    mount: RunMount, shop: Worker, mounts: list[StepMount], secret_env: list[str]
) -> None:
    content = _secret(shop, mount)
    if content is None:
        return
    if mount.env:
        secret_env.append(f"{mount.env}={content.decode('utf-8', 'surrogateescape')}")
    if mount.target:
        mounts.append(SecretFile(mount.target, content, mount.mode, mount.uid, mount.gid))


def _secret(shop: Worker, mount: RunMount) -> bytes | None:
    """The secret's value, None where it was not given and is not required."""
    secret = shop.secrets.get(mount.id)
    hint = f"give it with --secret id={mount.id},src=FILE or --secret id={mount.id},env=NAME"
    if secret is None:
        if mount.required:
            raise UsageError(f"secret {mount.id} was not given", hint=hint)
        return None
    if secret.env is not None:
        found = shop.environment.get(secret.env)
        value = None if found is None else os.fsencode(found)
        if value is None and mount.required:
            raise UsageError(f"secret {mount.id}: ${secret.env} is not set", hint=hint)
        return value
    assert secret.file is not None
    try:
        return secret.file.read_bytes()
    except OSError as error:
        raise UsageError(f"secret {mount.id}: {secret.file}: {error.strerror}", hint=hint) from None
