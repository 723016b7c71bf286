"""Snapshots: lists of layers, unpacked or mounted only when a step needs their files.

Their files are in `layers`; toc/<diff id> is the table of contents of a layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from shipline import sandbox
from shipline.build.blobs import Blobs
from shipline.build.layer_files import USE_LOCK, LayerFiles, in_memory
from shipline.content import Reader, Recency, chunks, read_file
from shipline.errors import ContentError, DigestMismatch, SandboxError
from shipline.events import Step
from shipline.layer import (
    Extent,
    Item,
    Layer,
    LayeredToc,
    Toc,
    TocBuilder,
    conform,
    decompress,
    from_windows,
    read_tar,
    unpack,
)
from shipline.oci import Digest, Hasher, media
from shipline.sandbox import in_user_namespace, remove_tree, require_ids
from shipline.tasks import Once, TaskGroup

_LAYERS_AT_ONCE = 4
BIG = 64 << 20  # bytes; a bigger tar gets an index instead of being unpacked


class Snapshot(Struct, frozen=True):
    """A root filesystem: layers, bottom first."""

    layers: tuple[Layer, ...] = ()

    def plus(self, layer: Layer) -> Snapshot:
        return Snapshot((*self.layers, layer))

    @property
    def windows(self) -> bool:
        """Whether layers on top of it are for Windows: those from scratch are not, as in
        BuildKit.
        """
        return any(layer.windows for layer in self.layers)

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The identity of the snapshot, independent of the compression of its layers."""
        return tuple(str(layer.files_id) for layer in self.layers)


class Writable(Struct, frozen=True):
    """A mounted snapshot: `root` is what a step sees, `upper` collects what it changes, `lower`
    is the state before, read-only.
    """

    root: Path
    upper: Path
    lower: Path


class Snapshots:
    """Layers of a state directory as tables and as directories; several builds may share it."""

    def __init__(
        self, state: Path, scratch: Path, blobs: Blobs, files: LayerFiles, step: Step
    ) -> None:
        """`step` shows warnings."""
        self._step = step
        self._changes: Once[Path] = Once()
        self._state = state
        self._recency = Recency(state / USE_LOCK)
        self._files = files
        self._scratch = scratch
        self._blobs = blobs
        self._tocs: Once[Toc] = Once()
        self._directories: Once[list[Path]] = Once()
        (state / "toc").mkdir(parents=True, exist_ok=True)

    @property
    def mounts_tars(self) -> bool:
        """Whether big layers are mounted from their tars."""
        return self._files.can_mount_tars

    def table(self, snapshot: Snapshot) -> LayeredToc:
        """The table of contents; reads layers whose table is not stored yet."""
        return LayeredToc([self._toc(layer) for layer in snapshot.layers])

    def absent(self, layers: Iterable[Layer], *, files: bool) -> list[Layer]:
        """Those whose files (or, without `files`, tables of contents) are missing here."""

        def place(layer: Layer) -> Path:
            own = self._files.path(layer.files_id)
            return own if files else self._state / "toc" / own.name

        return [layer for layer in layers if not place(layer).exists()]

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
                self._directories_of(layer)
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
        with self._place(self._scratch) as place:
            root = _directory(place / "root")
            with sandbox.mounted(sandbox.Overlay(root, lowers=tuple(lowers))):
                yield root

    @contextmanager
    def writable(self, snapshot: Snapshot) -> Iterator[Writable]:
        """The files of the snapshot, writable for a step."""
        lowers = self._lowers(snapshot)
        with self._place(self.changes) as place, self.mounted(snapshot) as lower:
            root, work = (_directory(place / name) for name in ("root", "work"))
            upper = _root_directory(place / "upper")
            with sandbox.mounted(
                sandbox.Overlay(root, lowers=tuple(lowers), upper=upper, work=work)
            ):
                yield Writable(root, upper, lower)

    def adopt(self, layer: Layer, upper: Path) -> None:
        """Keep the upper directory of a step as the unpacked files of its layer.

        Does nothing unless the files are exactly those of the layer's tar.
        """
        toc = self._toc(layer)  # first, as who reads it may wait for the lock of the files
        with self._files.making(layer.files_id) as building:
            if building is not None and conform(upper, toc):
                os.chown(upper, 0, 0)
                os.chmod(upper, 0o755)
                with suppress(OSError):  # on another file system
                    os.rename(upper, building / "fs")

    def keep_tar(self, layer: Layer, tar: Path, extents: Sequence[Extent], base: Path) -> None:
        """Keep the tar of a new layer, so that a step can mount it without unpacking. Its `extents`
        are in file 0, which is in the directory `base`, and in file 1, which is `tar`.
        """
        with self._files.making(layer.diff_id) as building:
            if building is not None:
                self._files.put_tar(building, tar, extents, base)

    def save_toc(self, layer: Layer, dumped: bytes) -> None:
        path = self._state / "toc" / layer.files_id.hex
        temporary = self._scratch / f"toc-{os.urandom(6).hex()}"
        temporary.write_bytes(dumped)
        os.rename(temporary, path)

    def _toc(self, layer: Layer) -> Toc:
        return self._tocs.get(layer.files_id, lambda: self._read_toc(layer))

    def _read_toc(self, layer: Layer) -> Toc:
        path = self._state / "toc" / layer.files_id.hex
        if self._recency.touch(path):
            with suppress(ContentError, OSError):
                return Toc.load(read_file(path))
        builder = TocBuilder()
        with self._tar(layer) as tar:
            for _ in builder.through(layer_items(layer, tar)):
                pass
        self.save_toc(layer, builder.toc().dump())
        return builder.toc()

    @contextmanager
    def _tar(self, layer: Layer) -> Iterator[Reader]:
        """The layer's tar. Raises DigestMismatch at its end if it does not match the diff ID."""
        self._blobs.ensure(layer.descriptor)
        compression = media.compression(layer.descriptor.media_type)
        if compression is None:
            raise ContentError(
                f"{layer.descriptor.media_type} is not a layer", code="layer-unsupported"
            )
        with (
            self._blobs.cache_errors(layer.descriptor),
            self._blobs.store.fetch(layer.descriptor) as blob,
        ):
            tar = _Checked(decompress(blob, compression), layer.diff_id)
            yield tar
            tar.finish()
        self._blobs.note_verified(layer)

    def _lowers(self, snapshot: Snapshot) -> list[Path]:
        """Directories to stack, top first."""
        found = [
            place for layer in reversed(snapshot.layers) for place in self._directories_of(layer)
        ]
        if not found:
            return [self._nothing()]
        return list(dict.fromkeys(found))  # overlayfs refuses a directory twice

    def _nothing(self) -> Path:
        return _root_directory(self._scratch / "empty")

    def _directories_of(self, layer: Layer) -> list[Path]:
        """Its files, as directories to stack, top first."""
        return self._directories.get(layer.files_id, lambda: self._open_directories(layer))

    def _open_directories(self, layer: Layer) -> list[Path]:
        self._unpack(layer)
        try:
            return self._files.mount_points(layer.files_id)
        except OSError:
            self._files.remove(layer.files_id)
            self._unpack(layer)
            return self._files.mount_points(layer.files_id)

    def _unpack(self, layer: Layer) -> None:
        """Unpack the layer unless its files are here."""
        with self._files.unpacking(layer.files_id) as building:
            if building is not None:
                self._make(layer, building)

    def _make(self, layer: Layer, building: Path) -> None:
        builder = TocBuilder()
        if layer.descriptor.size > BIG // 4 and self.mounts_tars and not layer.windows:
            with self._files.new_tar(building) as file, self._tar(layer) as tar:
                for data in chunks(tar):
                    file.write(data)
        else:
            with self._tar(layer) as tar:
                unpack(
                    unpackable(builder.through(layer_items(layer, tar))),
                    _root_directory(building / "fs"),
                    whiteouts="overlay",
                    userxattr=in_user_namespace(),
                )
            self.save_toc(layer, builder.toc().dump())

    @property
    def changes(self) -> Path:
        """The directory in which steps may change files: the scratch directory, or one in memory
        where overlayfs cannot write to its file system.
        """
        return self._changes.get("changes", self._place_of_changes)

    def _place_of_changes(self) -> Path:
        with self._place(self._scratch) as place:
            root, upper, work = (_directory(place / name) for name in ("root", "upper", "work"))
            with (
                suppress(SandboxError),
                sandbox.mounted(sandbox.Overlay(root, (self._nothing(),), upper, work)),
            ):
                return self._scratch
        memory = in_memory(self._scratch)
        if memory is None:
            return self._scratch
        self._step.warn(
            f"steps change files in memory: overlayfs cannot write below {self._state}",
            "in a container, mount a volume there; otherwise set SHIPLINE_HOME to a directory on a"
            " local disk",
        )
        return memory

    @contextmanager
    def _place(self, parent: Path) -> Iterator[Path]:
        place = parent / f"snapshot-{os.urandom(6).hex()}"
        place.mkdir()
        with ExitStack() as stack:
            stack.callback(remove_tree, place)
            yield place


def layer_items(layer: Layer, tar: Reader) -> Iterator[Item]:
    """The files in the tar of a layer."""
    return from_windows(read_tar(tar)) if layer.windows else read_tar(tar)


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
                hint="its configuration does not match its layers; rebuild that image",
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


def _directory(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _root_directory(path: Path) -> Path:
    """A directory with the mode of a root directory, which layers do not contain."""
    _directory(path).chmod(0o755)
    return path
