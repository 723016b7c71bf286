"""The mounts of RUN: files of other stages and of contexts, caches, secrets, its script."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from shipline import dockerfile as df
from shipline import sandbox
from shipline.build.caching.mounts import CacheMounts
from shipline.build.graph import RunMount, RunOp, key_of
from shipline.build.layer_files import USE_LOCK
from shipline.build.request import Secret
from shipline.build.selecting import ContextDirectory, Root, find_source, owned_items
from shipline.build.snapshots import Snapshot
from shipline.build.ssh import Agent, served
from shipline.build.worker import Source, Worker
from shipline.content import Recency, read_file, try_lock
from shipline.errors import UsageError
from shipline.layer import Tree, scan, unpack
from shipline.sandbox import owners_suffix, remove_tree, require_ids, resolve_in_root
from shipline.tasks import Once, flocked

if TYPE_CHECKING:
    from shipline.sandbox import Sandbox, StepMount

_PREFIX = "renewed"  # a file in a cache: the prefix of its directories since it was emptied


class Executor(Struct, frozen=True):
    """What commands need besides a worker: the sandbox, secrets, SSH agents, and caches, which stay
    in `state` between builds.
    """

    sandbox: Callable[[], Sandbox]
    secrets: Mapping[str, Secret]
    agents: Mapping[str, Agent]
    environment: Mapping[str, str]
    state: Path
    mounts: CacheMounts
    emptied: Once[None] = field(default_factory=Once)

    def agent(self, mount: RunMount) -> Agent | None:
        """An SSH agent, None where it was not given and is not required."""
        found = self.agents.get(mount.id)
        if found is None and mount.required:
            raise UsageError(
                f'no SSH key "{mount.id}" forwarded from the client',
                code="ssh-agent",
                hint=f"pass --ssh {mount.id}",
            )
        return found

    def secret(self, mount: RunMount) -> bytes | None:
        """The value of a secret, None where it was not given and is not required."""
        secret = self.secrets.get(mount.id)
        hint = f"give it with --secret id={mount.id},src=FILE or --secret id={mount.id},env=NAME"
        if secret is None:
            if mount.required:
                raise UsageError(f"secret {mount.id}: not found", code="secret-missing", hint=hint)
            return None
        try:
            value = secret.value(self.environment)
        except OSError as error:
            problem = f"secret {mount.id}: {secret.file}: {error.strerror}"
            raise UsageError(problem, code="secret-missing", hint=hint) from None
        if value is None and mount.required:
            raise UsageError(
                f"secret {mount.id}: ${secret.env} is not set", code="secret-missing", hint=hint
            )
        return value


def context_digest(source: ContextDirectory, path: str) -> str:
    """What the files at `path` in a context are, for a cache key: their digest, or the pin."""
    if source.pin:
        return f"{source.pin} {path}"
    return source.stamp + str(_context_tree(source, path).digest((0, 0)))


def mounted_digest(source: Source, path: str, worker: Worker) -> str:
    """What the files at `path` in a snapshot or context are, for a cache key."""
    if not isinstance(source, Snapshot):
        return context_digest(source, path)
    with worker.snapshots.mounted(source) as root:
        place = find_source(Root(root, "the stage or image"), path)
        own = place.lstat()  # the digest of a directory is that of what is in it
        files = scan(root, os.path.relpath(place, root)).digest()
        return f"{own.st_mode:o} {own.st_uid} {own.st_gid} {files}"


class StepMounts:
    """Opens the mounts of one RUN; `stack` closes them."""

    def __init__(
        self, inputs: Sequence[Source], worker: Worker, executor: Executor, stack: ExitStack
    ) -> None:
        self._inputs = inputs
        self._worker = worker
        self._executor = executor
        self._stack = stack

    def open(self, op: RunOp, *, fresh: bool) -> tuple[tuple[StepMount, ...], tuple[str, ...]]:
        """All mounts, and the variables (`NAME=value`) that hold secrets; `fresh` empties caches.

        Raises UsageError for a source that does not exist, and for a required secret.
        """
        caches = self._caches(op, fresh=fresh)
        mounts: list[StepMount] = []
        variables: list[str] = []
        for mount in op.mounts:
            if mount.type == "ssh":
                mounts += self._agent(mount)
            elif mount.type != "secret":
                mounts.append(self._mount(mount, caches))
            else:
                content = self._executor.secret(mount)
                if mount.env:  # empty for a secret that does not exist
                    value = (content or b"").decode("utf-8", "surrogateescape")
                    variables.append(f"{mount.env}={value}")
                if mount.target and content is not None:
                    secret = sandbox.SecretFile(
                        mount.target, content, mount.mode, mount.uid, mount.gid
                    )
                    mounts.append(secret)
        name, content_of_script = op.script
        if name:
            mounts.append(self._script(name, content_of_script))
        return tuple(mounts), tuple(variables)

    def _agent(self, mount: RunMount) -> list[StepMount]:
        if (agent := self._executor.agent(mount)) is None:
            return []
        require_ids(uids=(mount.uid,), gids=(mount.gid,))
        place = self._worker.temporary("ssh")
        socket = served(agent, place, uid=mount.uid, gid=mount.gid, mode=mount.mode)
        return [sandbox.BindMount(self._stack.enter_context(socket), mount.target)]

    def _script(self, name: str, content: str) -> StepMount:
        script = self._worker.temporary("script")
        script.write_text(content, "utf-8", "surrogateescape")
        script.chmod(0o755)
        self._stack.callback(script.unlink)
        return sandbox.BindMount(script, f"{df.SCRIPT_DIRECTORY}/{name}")

    def _mount(self, mount: RunMount, caches: Mapping[str, Path]) -> StepMount:
        if mount.type == "tmpfs":
            if not is_root(mount.source):
                raise UsageError(
                    f"a tmpfs is empty: it has no {mount.source}",
                    code="mount-invalid",
                    hint="remove source=",
                )
            return sandbox.TmpfsMount(mount.target, mount.size, mount.read_only)
        if mount.type == "cache":
            directory = caches[self._cache_name(mount)]
            source = find_source(Root(directory, "the cache"), mount.source)
            if not is_root(mount.source):
                place = self._worker.temporary("source")
                source = self._stack.enter_context(_held(directory, mount.source, place))
            return sandbox.BindMount(source, mount.target, mount.read_only)
        source = self._files(self._inputs[mount.input], mount.source)
        if not mount.read_only:
            discarded = self._worker.snapshots.changes / f"discarded-{os.urandom(6).hex()}"
            source = self._stack.enter_context(_writable(source, discarded))
        return sandbox.BindMount(source, mount.target, mount.read_only)

    def _files(self, source: Source, path: str) -> Path:
        """The host path of `path` in a snapshot; of a context, in a copy of its files."""
        if isinstance(source, Snapshot):
            root = self._stack.enter_context(self._worker.snapshots.mounted(source))
            return find_source(Root(root, "the stage or image"), path)
        source.open()
        found = resolve_in_root(source.path, path)
        copy = self._worker.temporary("context")
        copy.mkdir()
        copy.chmod(0o755)  # whatever the umask is
        self._stack.callback(remove_tree, copy)
        inside = os.path.relpath(found if found.is_dir() else found.parent, source.path)
        items = _context_tree(source, path).items()
        roots = ((entry._replace(uid=0, gid=0), content) for entry, content in items)
        inside = "" if inside == "." else inside
        unpack(owned_items(roots, source.owners, inside), copy, whiteouts="keep")
        if not found.is_dir():
            return copy / found.name
        if inside:
            status = found.stat()
            os.chown(copy, *source.owners.get(inside, (0, 0)))
            copy.chmod(stat.S_IMODE(status.st_mode))
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        return copy

    def _caches(self, op: RunOp, *, fresh: bool) -> dict[str, Path]:
        """The directories of the step's caches by name, locked according to `sharing`.

        They are locked in the order of their names, so that two steps never wait for each other;
        two mounts of one cache share it.
        """
        executor = self._executor
        mounts = {self._cache_name(one): one for one in op.mounts[::-1] if one.type == "cache"}
        found = {}
        for name in sorted(mounts):
            parent = executor.state / f"mounts{owners_suffix()}" / name
            parent.mkdir(parents=True, exist_ok=True)
            parent.parent.chmod(0o700)  # other users must not find setuid programs of images
            if fresh:
                executor.emptied.get(name, partial(self._empty_cache, parent))
            found[name] = _lock_directory(parent, mounts[name].sharing, self._stack)
            Recency(executor.state / USE_LOCK).touch(Path(f"{found[name]}.lock"))
            key = key_of("cache directory/1", name=name, directory=found[name].name)
            with self._worker.cache.exclusive(key):
                if not found[name].exists():
                    filled = "" if fresh else name
                    self._prepare_cache(found[name], mounts[name], filled)
            executor.mounts.use(name, found[name])
        return found

    def _cache_name(self, mount: RunMount) -> str:
        """The name of a cache: from its id, and from its initial content or owner where given."""
        identity = mount.id or mount.target
        parts: dict[str, object] = {}
        if mount.input:
            source = self._inputs[mount.input]
            if isinstance(source, Snapshot):
                parts["layers"] = source.diff_ids
            else:
                parts["files"] = context_digest(source, "")
        if _is_made(mount):
            parts |= {"owner": [mount.uid, mount.gid], "mode": mount.mode}
        if parts:
            return key_of("cache mount/1", id=identity, **parts)
        return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()

    def _empty_cache(self, parent: Path) -> None:
        """Empty the cache; steps that use its directories now keep them until they end."""
        prefix = self._worker.temporary("prefix")
        prefix.write_text(f"{os.urandom(6).hex()}-")
        os.replace(prefix, parent / _PREFIX)
        for directory in [one for one in parent.iterdir() if one.is_dir()]:
            with try_lock(Path(f"{directory}.lock")) as free, suppress(FileNotFoundError):
                if free:  # it may be gone by now
                    os.rename(directory, self._worker.temporary("cache"))

    def _prepare_cache(self, directory: Path, mount: RunMount, name: str) -> None:
        """Make the directory, with what a cache has under `name`, or else with what the mount says;
        an empty name is in no cache.
        """
        require_ids(uids=(mount.uid,), gids=(mount.gid,))
        building = self._worker.temporary("cache")
        building.mkdir()
        uid, gid, mode = mount.uid, mount.gid, mount.mode
        filled = bool(name) and self._executor.mounts.fill(name, building)
        if mount.input and not _is_made(mount):
            source = self._files(self._inputs[mount.input], "")
            if not filled:
                unpack(scan(source).items(), building, whiteouts="keep")
            status = source.stat()
            uid, gid, mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
        os.chown(building, uid, gid)
        os.chmod(building, mode)
        os.rename(building, directory)


def _is_made(mount: RunMount) -> bool:
    """Whether a cache begins as a new directory with the owner and mode of the mount. As in
    BuildKit, also above an image, but not where a `source` is named.
    """
    return mount.owned and is_root(mount.source)


@contextmanager
def _held(directory: Path, path: str, place: Path) -> Iterator[Path]:
    """What is at `path` in a cache, at `place`. A runtime follows links to the source of a mount,
    and another step that has the cache could put one to a directory of the host there.
    """
    with sandbox.held_in_root(directory, path) as found, sandbox.bound(found, place):
        yield place


def is_root(path: str) -> bool:
    return os.path.normpath(f"/{path}").strip("/") == ""


def _context_tree(source: ContextDirectory, path: str) -> Tree:
    inside = os.path.relpath(find_source(source, path), source.path)
    inside = "" if inside == "." else inside
    return scan(source.path, inside, prune=source.prune, cache=source.cache)


@contextmanager
def _writable(source: Path, place: Path) -> Iterator[Path]:
    """`source`, writable; changes go to `place` and are discarded."""
    root, upper, work = place / "root", place / "upper", place / "work"
    for directory in (root, upper, work):
        directory.mkdir(parents=True)
    try:
        if source.is_dir():
            _take_attributes(upper, source.stat())
            with sandbox.mounted(sandbox.Overlay(root, lowers=(source,), upper=upper, work=work)):
                yield root
        elif not source.is_file():  # to copy a device is to read it, which no step may do
            raise UsageError(
                f"{source.name} is neither a file nor a directory: it cannot be mounted with rw",
                code="mount-invalid",
                hint="remove rw, or mount its directory",
            )
        else:
            shutil.copy2(source, upper / source.name)
            yield upper / source.name
    finally:
        remove_tree(place)


def _take_attributes(directory: Path, own: os.stat_result) -> None:
    os.chown(directory, own.st_uid, own.st_gid)
    os.chmod(directory, stat.S_IMODE(own.st_mode))
    os.utime(directory, ns=(own.st_atime_ns, own.st_mtime_ns))


def _lock_directory(parent: Path, sharing: str, stack: ExitStack) -> Path:
    """A locked directory of the cache, which need not exist yet."""
    prefix = ""
    with suppress(OSError):
        prefix = read_file(parent / _PREFIX).decode("ascii", "replace")
    if sharing == "private":
        for number in itertools.count():
            directory = parent / f"{prefix}{number}"
            if stack.enter_context(try_lock(Path(f"{directory}.lock"))):
                return directory
    directory = parent / f"{prefix}0"
    operation = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    stack.enter_context(flocked(f"{directory}.lock", operation))
    return directory
