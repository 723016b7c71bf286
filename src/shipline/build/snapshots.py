"""Snapshots: lists of layers, unpacked or mounted only when a step needs their files.

layers/<diff id>/fs           a layer's files, whiteouts as overlayfs has them
layers/<diff id>/layer.tar    or, for a big layer: its tar,
layers/<diff id>/index.erofs  with an index that the kernel mounts
layers/<diff id>/complete     the names of its parts, and the boot in which it was written
layers/<diff id>/synced       an empty file: the layer is on the disk
toc/<diff id>                 its table of contents

A layer that was not synced is valid only until the machine restarts: the build goes on at once,
and a power loss never leaves truncated files that a step trusts.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shipline.build.base_images import Blobs
from shipline.content import Reader, Recency, chunks, seal, unseal
from shipline.errors import ContentError, DigestMismatch
from shipline.events import Step
from shipline.layer import (
    Item,
    Layer,
    LayeredToc,
    Toc,
    TocBuilder,
    conform,
    decompress,
    read_tar,
    unpack,
)
from shipline.oci import Digest, Hasher, media
from shipline.sandbox import (
    Erofs,
    Overlay,
    can_mount_files,
    in_user_namespace,
    make_erofs_index,
    mounted,
    owners_suffix,
    remove_tree,
    require_ids,
    sync_file_system,
)
from shipline.tasks import Once, TaskGroup

_LAYERS_AT_ONCE = 4
_KIND = b"layer-1\n"
COMPLETE, _SYNCED = "complete", "synced"
USE_LOCK = "use.lock"
BIG = 64 << 20  # bytes; a bigger tar gets an index instead of being unpacked


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A root filesystem: layers, bottom first."""

    layers: tuple[Layer, ...] = ()

    def plus(self, layer: Layer) -> Snapshot:
        return Snapshot((*self.layers, layer))

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The identity of the snapshot, independent of the compression of its layers."""
        return tuple(str(layer.diff_id) for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Writable:
    """A mounted snapshot: `root` is what a step sees, `upper` collects what it changes, `lower`
    is the state before, read-only.
    """

    root: Path
    upper: Path
    lower: Path


class Snapshots:
    """Layers of a state directory as tables and as directories; several builds may share it."""

    def __init__(
        self, state: Path, scratch: Path, blobs: Blobs, on_damage: Callable[[Path], object]
    ) -> None:
        self._state = state
        self._on_damage = on_damage
        self._recency = Recency(state / USE_LOCK)
        self._files = state / f"layers{owners_suffix()}"
        self._scratch = scratch
        self._blobs = blobs
        self._tocs: Once[Toc] = Once()
        self._directories: Once[Path] = Once()
        self._unsynced: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._files.mkdir(parents=True, exist_ok=True)
        self._files.chmod(0o700)  # other users must not find setuid programs of images
        (state / "toc").mkdir(parents=True, exist_ok=True)

    def table(self, snapshot: Snapshot) -> LayeredToc:
        """The table of contents; reads layers whose table is not stored yet."""
        return LayeredToc([self._toc(layer) for layer in snapshot.layers])

    def absent(self, layers: Iterable[Layer], *, files: bool) -> list[Layer]:
        """Those whose files (or, without `files`, tables of contents) are missing here."""
        place = self._files if files else self._state / "toc"
        return [layer for layer in layers if not (place / layer.diff_id.hex).exists()]

    def prepare(self, layers: Iterable[Layer], step: Step, *, files: bool) -> None:
        """Download layers and unpack them (or, without `files`, read their tables of contents).

        `step` shows the downloads. Raises NotFound, RegistryError, ContentError.
        """
        with TaskGroup(at_once=_LAYERS_AT_ONCE) as group:
            for layer in layers:
                group.start(self._prepare, layer, step, files)

    def _prepare(self, layer: Layer, step: Step, files: bool) -> None:
        self._blobs.ensure(layer.descriptor, step)
        with step.step(f"unpack {layer.descriptor.digest.short}", kind="unpack"):
            if files:
                self._directory(layer)
            else:
                self._toc(layer)

    @contextmanager
    def mounted(self, snapshot: Snapshot) -> Iterator[Path]:
        """The files of the snapshot as a read-only directory."""
        lowers = self._lowers(snapshot)
        if len(lowers) == 1 and any(self._toc(layer).whiteouts for layer in snapshot.layers):
            lowers.append(self._nothing())  # else whiteouts would be seen as devices
        if len(lowers) == 1:
            yield lowers[0]
            return
        with self._place() as place:
            root = _directory(place / "root")
            with mounted(Overlay(root, lowers=tuple(lowers))):
                yield root

    @contextmanager
    def writable(self, snapshot: Snapshot) -> Iterator[Writable]:
        """The files of the snapshot, writable for a step."""
        lowers = self._lowers(snapshot)
        with self._place() as place, self.mounted(snapshot) as lower:
            root, upper, work = (_directory(place / name) for name in ("root", "upper", "work"))
            _copy_attributes(lower, upper)
            with mounted(Overlay(root, lowers=tuple(lowers), upper=upper, work=work)):
                yield Writable(root, upper, lower)

    def adopt(self, layer: Layer, upper: Path) -> None:
        """Keep the upper directory of a step as the unpacked files of its layer.

        Does nothing unless the files are exactly those of the layer's tar.
        """
        with self._locked(layer.diff_id):
            if not self._is_kept(layer) and conform(upper, self._toc(layer)):
                with self._building(layer.diff_id) as building:
                    os.chown(upper, 0, 0)
                    os.chmod(upper, 0o755)
                    os.rename(upper, building / "fs")

    def keep_tar(self, layer: Layer, tar: Path) -> None:
        """Keep the tar of a new layer, so that a step can mount it without unpacking."""
        with self._locked(layer.diff_id):
            if not self._is_kept(layer):
                with self._building(layer.diff_id) as building:
                    os.rename(tar, building / "layer.tar")
                    make_erofs_index(building / "layer.tar", building / "index.erofs")

    def save_toc(self, diff_id: Digest, toc: Toc) -> None:
        path = self._state / "toc" / diff_id.hex
        temporary = self._scratch / f"toc-{os.urandom(6).hex()}"
        temporary.write_bytes(toc.dump())
        os.rename(temporary, path)

    def _toc(self, layer: Layer) -> Toc:
        return self._tocs.get(layer.diff_id, lambda: self._read_toc(layer))

    def _read_toc(self, layer: Layer) -> Toc:
        path = self._state / "toc" / layer.diff_id.hex
        if self._recency.touch(path):
            try:
                return Toc.load(path.read_bytes())
            except ContentError:
                path.unlink()
        builder = TocBuilder()
        with self._tar(layer) as tar:
            for _ in builder.through(read_tar(tar)):
                pass
        self.save_toc(layer.diff_id, builder.toc())
        return builder.toc()

    @contextmanager
    def _tar(self, layer: Layer) -> Iterator[Reader]:
        """The layer's tar. Raises DigestMismatch at its end if it does not match the diff ID."""
        self._blobs.ensure(layer.descriptor)
        compression = media.compression(layer.descriptor.media_type)
        if compression is None:
            raise ContentError(f"{layer.descriptor.media_type} is not a layer")
        with self._blobs.fetch(layer.descriptor) as blob:
            tar = _Checked(decompress(blob, compression), layer.diff_id)
            yield tar
            tar.finish()

    def _lowers(self, snapshot: Snapshot) -> list[Path]:
        """Directories to stack, top first."""
        found = [self._directory(layer) for layer in reversed(snapshot.layers)]
        if not found:
            return [self._nothing()]
        return list(dict.fromkeys(found))  # overlayfs refuses a directory twice

    def _nothing(self) -> Path:
        return _root_directory(self._scratch / "empty")

    def _directory(self, layer: Layer) -> Path:
        return self._directories.get(layer.diff_id, lambda: self._open_directory(layer))

    def sync(self) -> None:
        """Return when every layer that this build has unpacked or used is on the disk."""
        places = []
        with suppress(queue.Empty):
            while True:
                places.append(self._unsynced.get_nowait())
        if places:
            sync_file_system(self._files)
        for place in places:
            with suppress(FileNotFoundError):  # found damaged, and removed
                (place / _SYNCED).touch()

    def _open_directory(self, layer: Layer) -> Path:
        place = self._kept(layer)
        if (place / "fs").exists():
            return place / "fs"
        target = _directory(self._scratch / "erofs" / layer.diff_id.hex)
        try:
            _mount_tar(place, target)
        except OSError:
            self._remove(place)
            _mount_tar(self._kept(layer), target)
        return target

    def _kept(self, layer: Layer) -> Path:
        """The directory of the layer, which is unpacked if it is missing."""
        with self._locked(layer.diff_id):
            if not self._is_kept(layer):
                with self._building(layer.diff_id) as building:
                    self._make(layer, building)
        return self._layer(layer.diff_id)

    def _is_kept(self, layer: Layer) -> bool:
        """Whether the layer is here and complete; one that cannot be trusted is removed."""
        place = self._layer(layer.diff_id)
        self._recency.touch(place / COMPLETE)
        if not place.exists():
            return False
        boot, parts = _complete(place)
        if parts != _parts(place):
            self._remove(place)
            return False
        if not (place / _SYNCED).exists():
            if boot != _boot():
                remove_tree(place)
                return False
            self._unsynced.put(place)
        return True

    def _remove(self, damaged: Path) -> None:
        self._on_damage(damaged)
        remove_tree(damaged)

    def _make(self, layer: Layer, building: Path) -> None:
        builder = TocBuilder()
        if layer.descriptor.size > BIG // 4 and can_mount_files():
            with self._tar(layer) as tar, open(building / "layer.tar", "wb") as file:
                for data in chunks(tar):
                    file.write(data)
            make_erofs_index(building / "layer.tar", building / "index.erofs")
        else:
            with self._tar(layer) as tar:
                unpack(
                    unpackable(builder.through(read_tar(tar))),
                    _root_directory(building / "fs"),
                    whiteouts="overlay",
                    userxattr=in_user_namespace(),
                )
            self.save_toc(layer.diff_id, builder.toc())

    def _layer(self, diff_id: Digest) -> Path:
        return self._files / diff_id.hex

    @contextmanager
    def _building(self, diff_id: Digest) -> Iterator[Path]:
        """A directory to build the layer in, below the scratch directory; it gets its name when the
        block ends without an error.
        """
        building = _directory(self._scratch / f"layer-{os.urandom(6).hex()}")
        yield building
        complete = json.dumps([_boot(), _parts(building)]).encode()
        (building / COMPLETE).write_bytes(seal(_KIND, complete))
        os.rename(building, self._layer(diff_id))
        self._unsynced.put(self._layer(diff_id))

    @contextmanager
    def _locked(self, diff_id: Digest) -> Iterator[None]:
        """Hold the lock of the layer's directory, against other builds."""
        locks = _directory(self._files / ".locks")
        fd = os.open(locks / diff_id.hex, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        place = self._scratch / f"snapshot-{os.urandom(6).hex()}"
        place.mkdir()
        with ExitStack() as stack:
            stack.callback(remove_tree, place)
            yield place


class _Checked:
    """A tar whose bytes must match a diff ID."""

    def __init__(self, tar: Reader, diff_id: Digest) -> None:
        self._tar = tar
        self._diff_id = diff_id
        self._seen = Hasher(diff_id.algorithm)

    def read(self, size: int = -1, /) -> bytes:
        data = self._tar.read(size)
        self._seen.update(data)
        return data

    def finish(self) -> None:
        """Read the rest, then compare. Raises DigestMismatch."""
        while self.read(1 << 20):
            pass
        if self._seen.digest != self._diff_id:
            raise DigestMismatch(
                expected=str(self._diff_id),
                got=str(self._seen.digest),
                where="the layer of a base image",
                hint="its configuration and its layers do not belong together; build it again",
            )


def owned(items: Iterable[Item]) -> Iterator[Item]:
    """The items. Raises SandboxError for an owner that this process cannot set."""
    known: set[tuple[int, int]] = set()
    for item in items:
        owner = (item[0].uid, item[0].gid)
        if owner not in known:
            require_ids(uids=owner[:1], gids=owner[1:])
            known.add(owner)
        yield item


def unpackable(items: Iterable[Item]) -> Iterable[Item]:
    """The items of a layer that can be unpacked: in a user namespace no device nodes, which no step
    could open anyway. Raises SandboxError as `owned` does.
    """
    if not in_user_namespace():
        return owned(items)
    return owned(item for item in items if item[0].kind not in ("char", "block"))


@cache
def _boot() -> str:
    """Identifies the current boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _parts(place: Path) -> dict[str, object]:
    """The parts of a layer, by which a damaged one is recognised cheaply."""
    if (place / "fs").is_dir():
        return {"fs": sorted(os.listdir(place / "fs"))}
    files = (place / "layer.tar", place / "index.erofs")
    return {file.name: file.stat().st_size for file in files if file.exists()}


def _complete(place: Path) -> tuple[str, object]:
    """The boot in which the layer was written, and its parts; empty where the record is damaged."""
    try:
        found = unseal(_KIND, (place / COMPLETE).read_bytes())
    except OSError:
        return "", None
    if found is None:
        return "", None
    boot, parts = json.loads(bytes(found))
    return boot, parts


def _mount_tar(place: Path, target: Path) -> None:
    Erofs(place / "index.erofs", target, device=place / "layer.tar").attach()


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _root_directory(path: Path) -> Path:
    """A directory with the mode of a root directory, which layers do not contain."""
    _directory(path).chmod(0o755)
    return path


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.stat()
    os.chown(target, status.st_uid, status.st_gid)
    shutil.copystat(source, target)
