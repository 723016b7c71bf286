"""An OCI image layout: a directory of blobs with an index of tags (image-layout.md)."""

from __future__ import annotations

import functools
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from shipline.content.graph import fetch_document, successors
from shipline.content.protocols import Advance, Fetcher
from shipline.content.readers import fetch_all
from shipline.content.store import LocalStore
from shipline.errors import ContentError, NotFound
from shipline.files import open_whole, replace_file
from shipline.oci import (
    IMAGE_NAME,
    LAYOUT_FILE,
    MANIFEST_LIMIT,
    MAX_DEPTH,
    REF_NAME,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Reference,
    check_tag,
    is_attached_tag,
    is_tag,
    media,
    parse_manifest,
)
from shipline.tasks import directory_lock
from shipline.values import replace

_LIMIT = 16 << 20  # bytes of index.json
_SHOWN = 20  # tags


@contextmanager
def _described() -> Iterator[None]:
    """Raises ContentError for OSError."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise ContentError(
            f"cannot use the image layout: {where}{error.strerror}",
            code="layout-unusable",
            hint="name another directory, or correct the rights of this one",
        ) from error


class OciLayout(LocalStore):
    """A Repository on the local disk, whose tags are annotations in `index.json`. Its methods raise
    ContentError where the directory cannot be read or written.
    """

    @_described()
    def __init__(self, root: Path, *, create: bool = False, verified: bool = False) -> None:
        """Raises NotFound if there is no layout, unless `create` is set. With `verified`, files
        that do not match their digest are removed when they are asked for.
        """
        marker = root / "oci-layout"
        if not create and not marker.is_file():
            raise NotFound(
                f"{root} is not an OCI image layout: it has no oci-layout file",
                code="layout-unusable",
            )
        on_damage = (lambda path: None) if verified else None
        super().__init__(root, on_damage, verified=verified, create=create)
        self._read: tuple[tuple[int, ...], Index] = (), Index.make([])  # index.json as it was
        self._referrers = Index.make([]), dict[Digest, list[Descriptor]]()
        if not marker.is_file():
            replace_file(marker, LAYOUT_FILE)  # a link there may lead anywhere

    @_described()
    def exists(self, target: Descriptor) -> bool:
        """Whether the content is stored; a manifest is read, so that a damaged one is written
        again.
        """
        if not super().exists(target):
            return False
        if target.media_type not in media.NAMED:
            return True
        try:
            fetch_all(self, target, MANIFEST_LIMIT)
        except ContentError:
            return False
        return True

    _create_file = _described()(LocalStore._create_file)
    _publish = _described()(LocalStore._publish)

    def mount(self, target: Descriptor, source: Fetcher) -> bool:
        return False

    def resolve(self, reference: str) -> Descriptor:
        """By tag or digest; an empty reference names the layout's only image."""
        found = find_entry(self, self.index(), reference)
        if found is None:
            there = ", ".join(islice(self.names(), _SHOWN))
            raise NotFound(
                f"{reference or 'a single image'} is not in {self.root}",
                code="image-not-found",
                hint=f"it has {there}" if there else "",
            )
        return found

    def tags(self) -> Iterator[str]:
        """All names of images that are tags."""
        return filter(is_tag, self.names())

    def names(self) -> Iterator[str]:
        """All names of images; podman's and skopeo's may be whole ones."""
        names = (one.annotations.get(REF_NAME, "") for one in self.index().manifests)
        yield from filter(str.isprintable, filter(None, dict.fromkeys(names)))

    def referrers(self, target: Descriptor, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """Manifests in index.json whose subject is `target`, of one artifact type if given."""
        index, found = self._referrers
        if (now := self.index()) is not index:
            found = referrers_by_subject(self, now)
            self._referrers = now, found
        return of_type(found.get(target.digest, ()), artifact_type)

    def push(self, target: Descriptor, source: Fetcher, advance: Advance | None = None) -> None:
        """Store the content unless it exists; what refers to another manifest is listed in
        index.json, without a name, so that it is found again.
        """
        super().push(target, source, advance)
        if target.media_type not in media.NAMED:
            return
        raw = fetch_all(self, target, MANIFEST_LIMIT)
        if b'"subject"' in raw and _subject(parse_manifest(raw, target.media_type)) is not None:
            with _locked(self.root):
                entries = self.index().manifests
                if all(one.digest != target.digest for one in entries):
                    self._write(Index.make([*entries, target.plain]).raw)

    def delete(self, reference: str) -> None:
        """Remove a tag, or a manifest with all its tags, from index.json; its blobs stay. Raises
        NotFound.
        """
        with _locked(self.root):
            before = self.index().manifests
            kept = [
                one
                for one in before
                if reference not in (one.annotations.get(REF_NAME), str(one.digest))
            ]
            if len(kept) == len(before):
                raise NotFound(f"{reference} is not in {self.root}", code="image-not-found")
            self._write(Index.make(kept).raw)

    @_described()
    def remove_unnamed(self) -> None:
        """Remove the blobs that no image in index.json has. Raises ContentError, and removes
        nothing, where a manifest is damaged.
        """
        with _locked(self.root):
            kept = {self.path(one) for one in self._reachable()}
            for path in self.root.glob("blobs/*/[!.]*"):
                if path not in kept:
                    path.unlink(missing_ok=True)

    def _reachable(self) -> set[Digest]:
        found = set[Digest]()
        waiting = [*self.index().manifests]
        while waiting:
            if (node := waiting.pop()).digest not in found:
                found.add(node.digest)
                waiting += successors(self, node) if super().exists(node) else ()
        return found

    def tag(self, target: Descriptor, source: Fetcher, tag: str) -> None:
        _check_name(tag)
        self.push(target, source)
        with _locked(self.root):
            self._name(target, tag)

    def swap(self, target: Descriptor, source: Fetcher, tag: str, before: Digest | None) -> bool:
        """See `Swapper`: other writers of this program wait meanwhile."""
        _check_name(tag)
        self.push(target, source)
        with _locked(self.root):
            named = (one for one in self.index().manifests if one.annotations.get(REF_NAME) == tag)
            if next((one.digest for one in named), None) != before:
                return False
            self._name(target, tag)
        return True

    def _name(self, target: Descriptor, tag: str) -> None:
        others = [one for one in self.index().manifests if one.annotations.get(REF_NAME) != tag]
        named = replace(target.plain, annotations={REF_NAME: tag})
        self._write(Index.make([*others, named]).raw)

    @_described()
    def index(self) -> Index:
        """The parsed index.json. Raises ContentError if it is not an index."""
        path = self.root / "index.json"
        try:
            status = path.lstat()
        except FileNotFoundError:
            return Index.make([])
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LIMIT:
            raise ContentError(
                f"cannot use the image layout: {path} is not a file, or too large",
                code="layout-unusable",
            )
        state = status.st_ino, status.st_mtime_ns, status.st_size
        known, parsed = self._read
        if known != state:
            found = parse_manifest(path.read_bytes())
            if not isinstance(found, Index):
                raise ContentError(f"{path} is not an index", code="layout-unusable")
            self._read = state, (parsed := found)
        return parsed

    @_described()
    def _write(self, raw: bytes) -> None:
        with open_whole(self.root / "index.json") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def adding_images(root: Path, entries: Sequence[Descriptor]) -> Iterator[None]:
    """A block that writes the files of a layout but its index.json. The entries come there at its
    end, in the place of those with the same names; other images stay. One writer works at a time.
    """
    with _locked(root):
        yield
        layout, replaced = OciLayout(root), {_names(one) for one in entries}
        others = [one for one in layout.index().manifests if _names(one) not in replaced]
        layout._write(Index.make([*others, *entries]).raw)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Locks the layout against other writers of index.json."""
    with ExitStack() as stack:
        with _described():
            stack.enter_context(directory_lock(root))
        yield


def _names(entry: Descriptor) -> tuple[str | None, str | None]:
    return entry.annotations.get(IMAGE_NAME), entry.annotations.get(REF_NAME)


def _check_name(name: str) -> None:
    """Raises InvalidReference for what is neither a tag nor the name of an image with a tag."""
    if "/" not in name or not Reference.parse(name).tag:
        check_tag(name)


def find_entry(source: Fetcher, index: Index, reference: str) -> Descriptor | None:
    """The image in the index.json of a layout with this tag or digest, or with this digest in an
    index there; without a reference the only image, apart from what refers to another one.
    """
    entries = index.manifests
    for entry in entries:
        if reference and reference in (entry.annotations.get(REF_NAME), str(entry.digest)):
            return entry.plain
    if reference:
        return _listed(source, entries, reference, MAX_DEPTH) if ":" in reference else None
    names = ((one, one.annotations.get(REF_NAME)) for one in entries)
    images = {one.digest: one for one, name in names if name and not is_attached_tag(name)}
    if not images:
        images = {one.digest: one for one in entries if _subject(_parsed(source, one)) is None}
    return next(iter(images.values())).plain if len(images) == 1 else None


def _listed(
    source: Fetcher, entries: Iterable[Descriptor], digest: str, depth: int
) -> Descriptor | None:
    for entry in entries:
        parsed = _parsed(source, entry) if entry.media_type in media.INDEXES else None
        for one in parsed.manifests if isinstance(parsed, Index) else ():
            if str(one.digest) == digest:
                return one.plain
        if isinstance(parsed, Index) and depth:
            found = _listed(source, parsed.manifests, digest, depth - 1)
            if found is not None:
                return found
    return None


def referrers_by_subject(source: Fetcher, index: Index) -> dict[Digest, list[Descriptor]]:
    """The entries of the index.json of a layout that have a subject, by its digest. One that cannot
    be read is left out, with a warning if it has no name, as it may refer to an image then.
    """
    found: dict[Digest, dict[Digest, Descriptor]] = {}
    for entry in index.manifests:
        parsed = _parsed(source, entry)
        subject = _subject(parsed)
        if parsed is None or subject is None:
            continue
        kind = parsed.artifact_type
        if isinstance(parsed, Manifest):
            kind = kind or parsed.config.media_type
        found.setdefault(subject.digest, {})[entry.digest] = replace(
            entry.plain, artifact_type=kind, annotations=parsed.annotations
        )
    return {subject: [*referrers.values()] for subject, referrers in found.items()}


def of_type(referrers: Iterable[Descriptor], artifact_type: str) -> tuple[Descriptor, ...]:
    """The referrers of one artifact type, all without one."""
    return tuple(one for one in referrers if artifact_type in ("", one.artifact_type))


def _parsed(source: Fetcher, entry: Descriptor) -> Manifest | Index | None:
    if entry.media_type not in media.NAMED:
        return None
    try:
        return fetch_document(source, entry)
    except ContentError as error:
        if REF_NAME not in entry.annotations:
            with _WARNING:  # threads that come at once would each warn
                _warn(f"warning: {entry.digest} in index.json is left out: {error.message}")
        return None


_WARNING = threading.Lock()


@functools.cache
def _warn(text: str) -> None:
    import logging  # slow to import

    logging.getLogger(__name__).warning(text)


def _subject(parsed: Manifest | Index | None) -> Descriptor | None:
    return None if parsed is None else parsed.subject
