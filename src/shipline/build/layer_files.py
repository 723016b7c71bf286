"""The files of layers: directories and mountable tars, complete or not there.

layers/<diff id>/fs           a layer's files, whiteouts as overlayfs has them
layers/<diff id>/layer.tar    or, for a big layer: its tar,
layers/<diff id>/index.erofs  with an index that the kernel mounts
layers/<diff id>/base.tar     or links to both files of an older layer, below what is new, which
layers/<diff id>/base.erofs   `layer.tar` has
layers/<diff id>/extents      where in both tars the tar of the layer is
layers/<diff id>/complete     the names of its parts, and the boot in which it was written
layers/<diff id>/synced       an empty file: the layer is on the disk
layers/<diff id>/exact        whether `fs` gives the tar of the layer again, yes or no

A layer that was not synced is valid only until the machine restarts: the build goes on at once,
and a power loss never leaves truncated files that a step trusts.
"""

from __future__ import annotations

import json
import marshal
import os
import queue
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

from shipline import sandbox
from shipline.content import Recency, chunks, read_file, seal, try_lock, unseal, write_file
from shipline.errors import ContentError
from shipline.layer import Extent, StoredTar, unpacked_items, write_tar
from shipline.oci import Digest, Hasher
from shipline.sandbox import owners_suffix, remove_tree, sync_file_system
from shipline.tasks import LOCK_POLL_S, locked, sleep

_KIND = b"layer-1\n"
_EXTENTS = b"extents-1\n"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
COMPLETE, _SYNCED, _EXACT = "complete", "synced", "exact"
LINKED = ("layer.tar", "index.erofs", "base.tar", "base.erofs")
"""The parts of a layer that others may share by hard links."""

USE_LOCK = "use.lock"


class LayerFiles:
    """The files of layers in a state directory; several builds may share it.

    On a file system that cannot hold whiteouts, which is overlayfs in a container, they are in
    memory instead, for the build alone: `lasting` is false.
    """

    def __init__(
        self,
        state: Path,
        scratch: Path,
        on_damage: Callable[[Path], object],
        *,
        verified: bool = False,
    ) -> None:
        """`verified` reads the files of each exact layer before its first use."""
        self._on_damage = on_damage
        self._every_byte = verified
        self._verified: set[Digest] = set()
        self._unpacked: set[Digest] = set()  # right now, by this process
        self._recency = Recency(state / USE_LOCK)
        self._scratch = scratch
        memory = None if _holds_whiteouts(scratch) else in_memory(scratch)
        self.lasting = memory is None
        self._place = memory or scratch  # of the same file system as the layers
        self._root = (memory or state) / f"layers{owners_suffix()}"
        self._unsynced: queue.SimpleQueue[Path] = queue.SimpleQueue()
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)  # other users must not find setuid programs of images

    @property
    def can_mount_tars(self) -> bool:
        """Whether a layer may be a tar."""
        return sandbox.can_mount_files(self._place)

    def path(self, diff_id: Digest) -> Path:
        """The directory of the layer, which may not exist."""
        return self._root / diff_id.hex

    def has(self, diff_id: Digest) -> bool:
        """Whether the layer is here, complete; it counts as used. One that this process unpacks is
        not: its blob may be asked for, which is looked for here.
        """
        while diff_id not in self._unpacked:
            with try_lock(self._lock(diff_id)) as is_free:
                if is_free:
                    return self._is_kept(diff_id)
            sleep(LOCK_POLL_S)
        return False

    @contextmanager
    def making(self, diff_id: Digest) -> Iterator[Path | None]:
        """A directory for the parts of the layer, or None if the layer is here.

        The layer is complete if the block ends without an error and has put parts there. Others
        that want to make it wait.
        """
        with locked(self._lock(diff_id)):
            if self._is_kept(diff_id):
                yield None
                return
            building = self._place / f"layer-{os.urandom(6).hex()}"
            building.mkdir()
            yield building
            if parts := _parts(building):
                complete = json.dumps([_boot(), parts]).encode()
                (building / COMPLETE).write_bytes(seal(_KIND, complete))
                os.rename(building, self.path(diff_id))
                self._unsynced.put(self.path(diff_id))

    @contextmanager
    def unpacking(self, diff_id: Digest) -> Iterator[Path | None]:
        """As `making`, of parts that come from the layer's blob."""
        with self.making(diff_id) as building:
            if building is None:
                yield None
                return
            self._unpacked.add(diff_id)
            try:
                yield building
            finally:
                self._unpacked.discard(diff_id)

    def mount_points(self, diff_id: Digest) -> list[Path]:
        """Its directories of files, top first; tars are mounted. Raises OSError if that fails."""
        place = self.path(diff_id)
        if (place / "fs").exists():
            return [place / "fs"]
        targets = [self._mounted(place, "layer.tar", "index.erofs")]
        if (place / "base.tar").exists():
            targets.append(self._mounted(place, "base.tar", "base.erofs"))
        return targets

    def _mounted(self, place: Path, tar: str, index: str) -> Path:
        target = self._scratch / "erofs" / f"{place.name}-{index}"
        target.mkdir(parents=True, exist_ok=True)
        sandbox.Erofs(place / index, target, device=place / tar).attach()
        return target

    @contextmanager
    def new_tar(self, building: Path) -> Iterator[BinaryIO]:
        """A file for the tar of a layer, which becomes a part of it if the block ends without an
        error.
        """
        with open(building / "layer.tar", "wb") as file:
            yield file
        sandbox.make_erofs_index(building / "layer.tar", building / "index.erofs")

    def put_tar(self, building: Path, tar: Path, extents: Sequence[Extent], base: Path) -> None:
        """Make a new tar a part of a layer. Its `extents` are in file 0, of which `link_base` has
        made the directory `base`, and in this file, which is 1.
        """
        shutil.move(tar, building / "layer.tar")  # or a copy, to another file system
        sandbox.make_erofs_index(building / "layer.tar", building / "index.erofs")
        if any(one.file == 0 for one in extents):
            for part in base.iterdir():
                os.rename(part, building / part.name)
            rows = marshal.dumps([tuple(one) for one in extents], 4)
            (building / "extents").write_bytes(seal(_EXTENTS, rows))

    def link_base(self, diff_id: Digest, older: StoredTar, base: Path) -> None:
        """Make the directory `base`, with the first file of the `older` tar of this layer and its
        index; it is not there if it cannot be made.
        """
        place, new = self.path(diff_id), base.with_suffix(".new")
        tar, index = (
            ("base.tar", "base.erofs") if len(older.files) > 1 else ("layer.tar", "index.erofs")
        )
        new.mkdir()
        with suppress(OSError):  # evicted meanwhile, or on another file system
            os.link(place / tar, new / "base.tar")
            os.link(place / index, new / "base.erofs")
            if os.path.samestat(os.stat(new / "base.tar"), os.fstat(older.files[0])):
                os.rename(new, base)

    def open_tar(self, diff_id: Digest, stack: ExitStack) -> StoredTar | None:
        """The tar of the layer, open until the stack ends; None without one."""
        place = self.path(diff_id)
        tar, base = (open_file(place / name, stack) for name in ("layer.tar", "base.tar"))
        if tar < 0:
            return None
        if base < 0:
            return StoredTar.whole(tar)
        with suppress(OSError):
            if (rows := unseal(_EXTENTS, read_file(place / "extents"))) is not None:
                return StoredTar((base, tar), [Extent(*row) for row in marshal.loads(rows)])
        return StoredTar.whole(tar)  # other bytes, which is found where they are used

    def tar(self, diff_id: Digest) -> Iterator[bytes]:
        """The tar of the layer; of an `exact` one its very bytes. Raises ContentError."""
        with ExitStack() as stack:
            stored = self.open_tar(diff_id, stack)
            if stored is None:
                yield from write_tar(unpacked_items(self.path(diff_id) / "fs"))
            else:
                yield from chunks(stored.reader())

    def exact(self, diff_id: Digest) -> bool:
        """Whether the layer is here and `tar` gives its bytes; files are read for this once."""
        place = self.path(diff_id)
        if not (place / COMPLETE).exists():
            return False
        if (place / "layer.tar").exists():
            return True
        with suppress(OSError):
            return read_file(place / _EXACT) == b"yes"
        is_exact = self._gives_tar(diff_id)
        with suppress(OSError):  # evicted meanwhile
            write_file(place / _EXACT, b"yes" if is_exact else b"no")
        return is_exact

    def _gives_tar(self, diff_id: Digest) -> bool:
        seen = Hasher(diff_id.algorithm)
        try:
            for data in self.tar(diff_id):
                seen.update(data)
        except ContentError:
            return False
        return seen.digest == diff_id

    def remove(self, diff_id: Digest) -> None:
        """Remove a damaged layer, and report it."""
        self._on_damage(self.path(diff_id))
        remove_tree(self.path(diff_id))

    def is_synced(self, diff_id: Digest) -> bool:
        """Whether the layer will be here after a power loss; `sync` comes before."""
        return (self.path(diff_id) / _SYNCED).exists()

    @property
    def unsynced(self) -> bool:
        """Whether there is something for `sync` to do."""
        return not self._unsynced.empty()

    def sync(self) -> None:
        """Return when every layer that this build has unpacked or used is on the disk."""
        places = []
        with suppress(queue.Empty):
            while True:
                places.append(self._unsynced.get_nowait())
        if places:
            sync_file_system(self._root)
        for place in places:
            with suppress(FileNotFoundError):  # found damaged, and removed
                (place / _SYNCED).touch()

    def _is_kept(self, diff_id: Digest) -> bool:
        """Whether the layer is here and complete; one that cannot be trusted is removed."""
        place = self.path(diff_id)
        self._recency.touch(place / COMPLETE)
        if not place.exists():
            return False
        boot, parts = _complete(place)
        if parts != _parts(place):
            self.remove(diff_id)
            return False
        if not (place / _SYNCED).exists():
            if boot != _boot():
                remove_tree(place)
                return False
            self._unsynced.put(place)
        if self._every_byte and diff_id not in self._verified and self.exact(diff_id):
            self._verified.add(diff_id)
            if not self._gives_tar(diff_id):
                self.remove(diff_id)
                return False
        return True

    def _lock(self, diff_id: Digest) -> Path:
        """The lock of the layer's directory, against other builds."""
        locks = self._root / ".locks"
        locks.mkdir(exist_ok=True)
        return locks / diff_id.hex


def in_memory(scratch: Path) -> Path | None:
    """A directory in memory, which vanishes with the build; None where nothing can be mounted."""
    place = scratch / "memory"
    with suppress(FileExistsError):
        place.mkdir()
        try:
            sandbox.Tmpfs(place, mode=0o711, devices=True).attach()
        except OSError:
            place.rmdir()
    return place if place.exists() else None


def _holds_whiteouts(place: Path) -> bool:
    probe = place / "whiteout"
    try:
        os.mknod(probe, stat.S_IFCHR)
    except PermissionError:
        return False
    probe.unlink()
    return True


@cache
def _boot() -> str:
    """Identifies the current boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _parts(place: Path) -> dict[str, object]:
    """The parts of a layer, by which a damaged one is recognised cheaply."""
    if (place / "fs").is_dir():
        return {"fs": sorted(os.listdir(place / "fs"))}
    files = [place / name for name in (*LINKED, "extents")]
    return {file.name: file.stat().st_size for file in files if file.exists()}


def open_file(path: Path, stack: ExitStack) -> int:
    """The open file; -1 if it does not exist."""
    try:
        file = os.open(path, _READ)
    except OSError:
        return -1
    stack.callback(os.close, file)
    return file


def _complete(place: Path) -> tuple[str, object]:
    """The boot in which the layer was written, and its parts; empty where the record is damaged."""
    try:
        found = unseal(_KIND, read_file(place / COMPLETE))
    except OSError:
        return "", None
    if found is None:
        return "", None
    boot, parts = json.loads(bytes(found))
    return boot, parts
