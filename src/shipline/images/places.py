"""Where images are: names with the transports of skopeo, and opening what they name.

registry.example/app:1.0   docker://registry.example/app:1.0
oci:DIR[:TAG]              oci-layout://DIR[:TAG]
oci-archive:FILE[:TAG]     docker-archive:FILE[:NAME[:TAG]]
docker-daemon:NAME[:TAG]   dir:DIR
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from msgspec import Struct

from shipline.content import (
    Advance,
    Fetcher,
    MemoryStore,
    OciLayout,
    Reader,
    copy_graph,
    fetch_all,
    fetch_document,
    unwrapped,
)
from shipline.errors import ContentError, NotFound, UsageError
from shipline.files import open_whole
from shipline.images.copying import (
    CopyOptions,
    InvalidPlace,
    Meter,
    NarrowedSource,
    Remote,
    copy_tag,
    digest_of,
    is_damaged,
    missing,
)
from shipline.images.formats import ConvertedSource
from shipline.images.schema1 import Schema1Source
from shipline.oci import (
    CONFIG_LIMIT,
    MAX_DEPTH,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    Reference,
    best_match,
    from_bytes,
    media,
)
from shipline.supply import StatementSource, copy_evidence, evidence_of
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.engines.archives import DockerArchive, LayoutArchive
    from shipline.images.archives import NewArchive
    from shipline.registry import Client


class PlaceKind(StrEnum):
    """What holds an image; the values are skopeo's names."""

    REGISTRY = "docker"
    LAYOUT = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    ENGINE = "docker-daemon"
    DIRECTORY = "dir"


_FILES = (PlaceKind.LAYOUT, PlaceKind.OCI_ARCHIVE, PlaceKind.DOCKER_ARCHIVE, PlaceKind.DIRECTORY)
_ONE_PLATFORM = (PlaceKind.DOCKER_ARCHIVE, PlaceKind.ENGINE)
_OTHERS = {
    "containers-storage": "`podman save --format oci-archive` writes an oci-archive: from it",
    "ostree": "copy it with skopeo",
    "sif": "copy it with skopeo",
    "tarball": "build it: `FROM scratch` with `ADD FILE.tar /`",
}
_FORM = "write NAME, or oci:, oci-archive:, docker-archive:, docker-daemon: or dir: before it"


class Place(Struct, frozen=True):
    """Where one image is. `reference` is its name in a registry, an engine or a docker-archive;
    `path` that of a directory or file, with the `tag`, which may be a digest or empty.
    """

    kind: PlaceKind
    reference: Reference | None = None
    path: Path = Path()
    tag: str = ""

    def __str__(self) -> str:
        if self.kind is PlaceKind.REGISTRY:
            return str(self.reference)
        name = str(self.reference or self.tag)
        if self.kind is PlaceKind.ENGINE:
            return f"{self.kind}:{name}"
        return f"{self.kind}:{self.path}" + (
            f"{'@' if self.tag.startswith(('sha256:', 'sha512:')) else ':'}{name}" if name else ""
        )

    @property
    def remote(self) -> Reference | None:
        """The name of an image in a registry; None for other places."""
        return self.reference if self.kind is PlaceKind.REGISTRY else None

    @property
    def name(self) -> str:
        """What holds the image, without its tag and digest."""
        if self.kind in _FILES:
            return f"{self.kind}:{self.path}"
        assert self.reference is not None
        prefix = "" if self.kind is PlaceKind.REGISTRY else f"{self.kind}:"
        return f"{prefix}{self.reference.name}"

    @property
    def selector(self) -> str:
        """The tag or digest to read, empty for the only image."""
        if self.reference is None:
            return self.tag
        if self.kind is PlaceKind.REGISTRY:
            return str(self.reference.digest or self.reference.tag)
        return str(self.reference)


def parse_place(text: str) -> Place:
    """Read the name of an image. Raises UsageError."""
    scheme, colon, rest = text.partition(":")
    if colon and (scheme in ("docker", "oci-layout") and rest.startswith("//")):
        scheme, rest = (PlaceKind.LAYOUT if scheme == "oci-layout" else scheme), rest[2:]
    elif scheme == PlaceKind.REGISTRY or not colon:
        return Place(PlaceKind.REGISTRY, Reference.parse(text).or_latest)
    is_path = "/" in rest or rest.startswith(".") or scheme == "containers-storage"
    if scheme in _OTHERS and is_path:
        raise InvalidPlace(f"{text}: {scheme}: is not supported", hint=_OTHERS[scheme])
    if scheme not in list(PlaceKind):
        return Place(PlaceKind.REGISTRY, Reference.parse(text).or_latest)
    kind = PlaceKind(scheme)
    if not rest:
        raise InvalidPlace(f"{text!r} names no image", hint=_FORM)
    if kind not in _FILES:
        return Place(kind, Reference.parse(rest).or_latest)
    if kind is PlaceKind.DIRECTORY:
        return Place(kind, None, Path(rest))
    if kind is PlaceKind.DOCKER_ARCHIVE:
        path, _, name = rest.partition(":")
        reference = Reference.parse(name).or_latest if name else None
        return Place(kind, reference, Path(path))
    path, at, tag = rest.rpartition("@")
    if at:
        tag = str(Digest.parse(tag))
    else:
        path, tag = _named(rest)
    return Place(kind, None, Path(path), tag)


def _named(rest: str) -> tuple[str, str]:
    """A path and the name after it: a tag, or a whole name with a tag, as podman writes it, unless
    it is part of the path of something that is there.
    """
    path, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:
        return rest, ""
    before, colon, host = path.partition(":")
    if "/" in host and not Path(path).exists():
        return before, f"{host}:{tag}"
    return path, tag


def parse_target(text: str) -> Place:
    """Read the name of what is written: in a registry a tag or a digest. Raises UsageError."""
    scheme, colon, _ = text.partition(":")
    if colon and scheme in _OTHERS:
        hint = f"{_OTHERS[scheme]}; for an image of this name, docker://{text}"
        raise InvalidPlace(f"{text}: {scheme}: is not supported", hint=hint)
    place = parse_place(text)
    if place.remote is not None and place.remote.digest is not None and place.remote.tag:
        hint = f"write {place.remote.name}:{place.remote.tag} or {place.name}@{place.selector}"
        raise InvalidPlace(f"{place}: a copy is written to a tag or to a digest", hint=hint)
    return place


class OpenImage(Struct, frozen=True):
    """An image and the place that it is read from."""

    source: StatementSource
    root: Descriptor

    def document(self) -> Manifest | Index:
        """Its manifest or index."""
        if isinstance(self.source, Schema1Source) and self.root.media_type in media.SCHEMA1:
            return self.source.manifest
        return fetch_document(self.source, self.root)

    def select(self, wanted: Sequence[Platform]) -> Descriptor:
        """The image that fits one of the platforms best, the first of them if it can. Raises
        ContentError with the platforms that it has; what is for no platform fits all.
        """
        document = self.document()
        if isinstance(document, Index):
            images = [*self._images(document, MAX_DEPTH)]
        else:
            own = self._platform(document)
            if own is None:
                return self.root
            images = [replace(self.root, platform=own)]
        there = [one.platform for one in images if one.platform is not None]
        for platform in wanted:
            if (best := best_match(platform, there)) is not None:
                return next(one for one in images if one.platform == best).plain
        raise ContentError(
            f"{self.root.digest} has no image for {', '.join(map(str, wanted))}",
            code="platform-missing",
            hint=f"--platform: it has {', '.join(map(str, there))}" if there else "",
        )

    def _images(self, index: Index, depth: int) -> Iterator[Descriptor]:
        yield from index.images
        for one in index.manifests:
            if one.media_type in media.INDEXES and one.platform is None and depth:
                inner = fetch_document(self.source, one)
                if isinstance(inner, Index):
                    yield from self._images(inner, depth - 1)

    def _platform(self, manifest: Manifest) -> Platform | None:
        if manifest.config.media_type not in media.CONFIGS:
            return None
        config = from_bytes(fetch_all(self.source, manifest.config, CONFIG_LIMIT))
        has_platform = config.get("os") and config.get("architecture")
        return Platform.from_json(config) if has_platform else None


@runtime_checkable
class _Mounting(Protocol):
    def can_mount(self, source: Fetcher) -> bool: ...


class Lacking(Struct, frozen=True):
    """What a copy of `root` would move, without blobs that the registry is asked to mount; whether
    the tag would change.
    """

    root: Descriptor
    objects: Sequence[Descriptor]
    changed: bool = True


class Places:
    """Opens places; what it opened is closed with the stack."""

    def __init__(self, stack: ExitStack, client: Client, environment: Mapping[str, str]) -> None:
        self._stack = stack
        self._client = client
        self._environment = environment
        self._layouts: dict[Path, OciLayout] = {}  # read from

    def open(self, place: Place) -> OpenImage:
        """The image at a place. Raises NotFound, and what its transport raises."""
        source: StatementSource
        if place.kind is PlaceKind.REGISTRY:
            assert place.reference is not None
            repository = source = self._client.repository(place.reference)
        elif place.kind is PlaceKind.LAYOUT:
            source = self._layouts.setdefault(place.path, OciLayout(place.path))
        elif place.kind is PlaceKind.DIRECTORY:
            from shipline.images.directories import ImageDirectory  # slow to import

            source = ImageDirectory(place.path)
        else:
            source = self._archive(place)
        root = source.resolve(place.selector)
        if root.media_type in media.SCHEMA1 and place.kind is PlaceKind.REGISTRY:
            source = Schema1Source(repository, root)
        return OpenImage(source, root)

    def tags(self, place: Place) -> list[str]:
        """The tags of a repository or layout, the names in an archive. Raises UsageError for an
        engine.
        """
        if place.remote is not None:
            return list(self._client.repository(place.remote).tags())
        if place.kind is PlaceKind.LAYOUT:
            return list(OciLayout(place.path).names())
        if place.kind is PlaceKind.DIRECTORY:
            raise InvalidPlace(
                f"{place}: the image in a dir: has no name",
                hint="`shipline inspect` shows it",
            )
        if place.kind is PlaceKind.ENGINE:
            hint = "`docker images` or `podman images` lists them"
            raise UsageError(
                "the images of an engine cannot be listed", code="copy-list-engine", hint=hint
            )
        return list(filter(None, self._archive(place).tags()))

    def _archive(self, place: Place) -> LayoutArchive | DockerArchive:
        from shipline.engines.archives import TarArchive  # slow to import
        from shipline.images.archives import open_archive  # slow to import

        scratch = self._scratch()
        path, docker = place.path, place.kind in _ONE_PLATFORM
        if place.kind is PlaceKind.ENGINE:
            from shipline.engines import find_engine  # slow to import

            path = scratch / "image.tar"
            with path.open("wb") as file:
                find_engine(self._environment).save(place.selector, file)
        tar = self._stack.enter_context(closing(TarArchive(path, scratch)))
        return open_archive(tar, scratch, docker=docker)

    def _scratch(self) -> Path:
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="shipline-copy-")))

    def copy(
        self,
        image: OpenImage,
        place: Place,
        options: CopyOptions,
        *,
        advance: Advance | None = None,
        expect: Advance | None = None,
    ) -> tuple[Descriptor, bool]:
        """Copy an image to a place: what the place has then, and whether anything was copied.

        Docker's archives, and engines that keep one platform of a name, get that of this machine
        unless the options name another one. An image of Docker's schema 1 is made into one of
        schema 2 for all that does not take it.
        """
        target = self._target(place, force=options.force)
        store = target.store
        if isinstance(image.source, Schema1Source):
            if place.kind is PlaceKind.REGISTRY and target.tag and options.format is None:
                force = options.force
                copied = image.source.copy(target.store, target.tag, force=force, advance=advance)
                if copied is not None:
                    return image.root, copied
            image = OpenImage(image.source, image.source.converted(self._scratch()))
        source, root, options = self._chosen(image, place, options)
        if not target.tag:
            return root, self._copy_untagged(source, target.store, root, options, advance, expect)

        def copy(options: CopyOptions) -> Descriptor | None:
            return copy_tag(
                source, store, root, target.tag, options=options, advance=advance, expect=expect
            )

        new = copy(options)
        if target.write is not None:
            target.write()
        elif new is None:
            local = store if isinstance(store, OciLayout) else None
            if is_damaged(local or source, store, root, blobs=local is not None):
                new = copy(CopyOptions(referrers=options.referrers, force=True))
            elif options.referrers:
                copy_evidence(source, store, root, advance)
        return root, new is not None

    def _copy_untagged(
        self,
        source: StatementSource,
        store: Remote,
        root: Descriptor,
        options: CopyOptions,
        advance: Advance | None,
        expect: Advance | None,
    ) -> bool:
        """Copy an image under its digest alone; whether the store lacked it."""
        lacked = options.force or not store.exists(root)
        is_complete = None if options.force else store.exists
        copy_graph(source, store, root, advance, is_complete=is_complete, expect=expect)
        if options.referrers:
            copy_evidence(source, store, root, advance)
        return lacked

    def lacking(self, image: OpenImage, place: Place, options: CopyOptions) -> Lacking:
        """What a copy would move."""
        source, root, options = self._chosen(image, place, options)
        roots = [root, *(evidence_of(source, root) if options.referrers else ())]
        if place.kind is PlaceKind.LAYOUT:
            try:
                OciLayout(place.path)
            except NotFound:  # nothing is created here
                return Lacking(root, missing(source, MemoryStore(), *roots))
        target = self._target(place, force=options.force)
        if isinstance(source, Schema1Source):
            return Lacking(root, source.lacking(target.store))
        objects = missing(source, target.store, *roots)
        if isinstance(target.store, _Mounting) and target.store.can_mount(unwrapped(source)):
            objects = tuple(one for one in objects if one.media_type in media.NAMED)
        if target.tag:
            same = target.write is None and digest_of(target.store, target.tag) == root.digest
        else:
            same = target.store.exists(root)
        return Lacking(root, objects, changed=not same)

    def _chosen(
        self, image: OpenImage, place: Place, options: CopyOptions
    ) -> tuple[StatementSource, Descriptor, CopyOptions]:
        """What of an image is copied to a place, and the options for that."""
        format = options.format
        source, root, options = self._narrowed(image, place, options)
        if format is not None and root.media_type not in media.SCHEMA1:
            source = convert = ConvertedSource(source, format)
            root = convert.converted(root)
        wanted = place.remote.digest if place.remote is not None else None
        if wanted is not None and root.digest != wanted:
            raise InvalidPlace(
                f"{place}: the image to copy is {root.digest}",
                hint="write this digest, or a tag",
            )
        return source, root, options

    def _narrowed(
        self, image: OpenImage, place: Place, options: CopyOptions
    ) -> tuple[StatementSource, Descriptor, CopyOptions]:
        root, platforms = image.root, options.platforms
        single = options.single
        has_room = place.kind is not PlaceKind.DIRECTORY
        options = CopyOptions(referrers=options.referrers and has_room, force=options.force)
        if place.kind in _ONE_PLATFORM and not self._has_room(place):
            return image.source, self._of_platform(image, place, platforms), options
        if single:
            return image.source, self._of_platform(image, place, platforms), options
        if not platforms:
            return image.source, root, options
        if root.media_type not in media.INDEXES:
            return image.source, image.select(platforms), options
        source = NarrowedSource(image.source, Meter(), platforms)
        return source, source.narrowed(root), options

    def _has_room(self, place: Place) -> bool:
        """Whether a place can have several platforms of an image."""
        if place.kind is not PlaceKind.ENGINE:
            return False
        from shipline.engines import find_engine  # slow to import

        return find_engine(self._environment).several

    def _of_platform(
        self, image: OpenImage, place: Place, platforms: Sequence[Platform]
    ) -> Descriptor:
        """The image for one of the platforms, by default that of this machine."""
        if len(platforms) > 1:
            hint = "choose one --platform"
            raise UsageError(
                f"{place} has room for one platform of an image", code="platform-missing", hint=hint
            )
        document = image.document()
        if isinstance(document, Manifest) and not platforms:
            return image.root
        return image.select(platforms or [Platform.local()])

    def _target(self, place: Place, *, force: bool = False) -> _Target:
        if place.kind is PlaceKind.REGISTRY:
            assert place.reference is not None
            return _Target(self._client.repository(place.reference), place.reference.tag)
        if place.kind is PlaceKind.LAYOUT:
            layout = OciLayout(place.path, create=True, verified=force)
            return _Target(layout, place.tag or "latest")
        if place.kind is PlaceKind.DIRECTORY:
            from shipline.images.directories import NewDirectory  # slow to import

            directory = NewDirectory(str(place))
            return _Target(directory, "latest", lambda: directory.write(place.path))
        from shipline.images.archives import NewArchive  # slow to import

        if place.kind is not PlaceKind.ENGINE and not force:
            _check_new(place)
        docker, name = place.kind in _ONE_PLATFORM, place.reference
        archive = NewArchive(str(place), name=name, docker=docker)
        tag = place.tag or (name.tag if name is not None else "latest")

        def write() -> None:
            if place.kind is PlaceKind.ENGINE:
                from shipline.engines import find_engine  # slow to import

                find_engine(self._environment).load_archive(_tar(archive))
                return
            try:
                place.path.parent.mkdir(parents=True, exist_ok=True)
                with open_whole(place.path) as file:
                    for data in _tar(archive):
                        file.write(data)
            except OSError as error:
                raise ContentError(
                    f"cannot write {place.path}: {error.strerror}", code="output-unwritable"
                ) from error

        return _Target(archive, tag, write)


class _Target(Struct, frozen=True):
    """What a copy is written to, without a `tag` under its digest; `write` completes it."""

    store: Remote
    tag: str
    write: Callable[[], None] | None = None


def _check_new(place: Place) -> None:
    """Raises UsageError for an archive that is there: what it has would be lost."""
    with suppress(FileNotFoundError):
        if place.path.stat().st_size:
            raise InvalidPlace(
                f"{place.path} exists: an archive is written whole, with one image",
                hint="remove it, name another file, or replace it with --force; one oci:DIR has"
                " several images",
            )


def _tar(archive: NewArchive) -> Iterator[bytes]:
    """The bytes of an archive, whose blobs are opened one after the other."""
    from shipline.layer import write_tar  # slow to import

    with _one_at_a_time() as opened:
        yield from write_tar(archive.items(opened))


@contextmanager
def _one_at_a_time() -> Iterator[Callable[[Descriptor, Fetcher], Reader]]:
    with ExitStack() as stack:

        def opened(target: Descriptor, source: Fetcher) -> Reader:
            stack.close()
            return stack.enter_context(source.fetch(target))

        yield opened
