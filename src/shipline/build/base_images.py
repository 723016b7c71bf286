"""Base images: from the name in FROM to one platform's configuration and layers.

Resolving a name fetches only manifests and configurations; layers stay in their registry until a
step needs their bytes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.cache import LayerResult
from shipline.build.engine_images import is_unreachable, may_be_local, not_available
from shipline.build.graph import ImageOp
from shipline.build.layer_files import LayerFiles
from shipline.content import Fetcher, LocalStore, OciLayout, Reader, Repository, chunks, fetch_all
from shipline.errors import (
    AuthError,
    ContentError,
    DamagedContent,
    DigestMismatch,
    NotFound,
    ShiplineError,
)
from shipline.events import Step
from shipline.layer import Layer, codec_of_layer, cut_tar, decompress, stream_layer, without_toc
from shipline.oci import (
    DEFAULT_HOST,
    MANIFEST_LIMIT,
    REF_NAME,
    Descriptor,
    Digest,
    Hasher,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    Reference,
    media,
    parse_manifest,
)
from shipline.tasks import Once

if TYPE_CHECKING:
    from shipline.build.assembly import Image
    from shipline.build.engine_images import EngineImage, EngineImages
    from shipline.build.source_rules import SourcePolicy

Repositories = Callable[[Reference], Repository]
"""Opens the repository of a reference; makes no request."""


class BrokenCache(ShiplineError):
    """A cache lost or altered a layer that the build relied on; `source` is that cache."""

    code = "broken-cache"

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source} is not used any more: {reason}")
        self.source = source


class Blobs:
    """The local store, and the sources of content that is missing there: repositories, caches, and
    the files of layers that were made here, which give the same blob when compressed again.
    """

    def __init__(self, store: LocalStore, step: Step, files: LayerFiles | None = None) -> None:
        self.store = store
        self._files = files
        self._results: dict[Digest, LayerResult] = {}
        self._step = step
        self._lock = threading.Lock()
        self._origins: dict[Digest, tuple[Fetcher, str]] = {}
        self._claims: dict[Digest, tuple[Digest, str]] = {}
        self._verified: set[Layer] = set()
        self._downloaded: set[Digest] = set()
        self._once: Once[None] = Once()

    def offer(self, target: Descriptor, source: Fetcher, name: str) -> None:
        """Remember that `source`, called `name` in messages, has the content; the first one that is
        offered is used.
        """
        with self._lock:
            self._origins.setdefault(target.digest, (source, name))

    def claim(self, layer: Layer, source: str) -> bool:
        """Remember the diff ID that `source`, a cache, states for a layer, which is verified before
        it is used. False if another cache states a different one.
        """
        with self._lock:
            known = self._claims.setdefault(layer.descriptor.digest, (layer.diff_id, source))
        return known[0] == layer.diff_id

    def verified(self, layer: Layer) -> None:
        """The bytes of the layer were read, and have its diff ID."""
        self._verified.add(layer)

    def is_verified(self, layer: Layer) -> bool:
        """Whether the layer is here, and its bytes were verified."""
        return layer in self._verified and self.store.exists(layer.descriptor)

    def is_downloaded(self, digest: Digest) -> bool:
        """Whether this build has downloaded the content into the local store."""
        return digest in self._downloaded

    def origin(self, digest: Digest) -> Fetcher | None:
        """The source of the content; None if it was made here."""
        found = self._origin(digest)
        return None if found is None else found[0]

    def remember(self, result: LayerResult) -> None:
        """Remember how the layer of `result` was compressed."""
        if result.level is not None:
            with self._lock:
                self._results[result.layer.descriptor.digest] = result

    def ensure(self, target: Descriptor, step: Step | None = None) -> None:
        """Make or download the content unless it is in the local store, as part of `step`.

        Raises NotFound, RegistryError, DamagedContent, and BrokenCache for a layer of a cache.
        """
        if not self.store.exists(target):
            with self.blaming(target):
                self._once.get(target.digest, lambda: self._provide(target, step or self._step))

    def require(self, target: Descriptor) -> None:
        """As `ensure`; layers of a cache are also verified. Raises BrokenCache."""
        self.ensure(target)
        if target.digest in self._claims:
            with self.blaming(target):
                self._once.get((target.digest, "tar"), lambda: self._check_tar(target))

    @contextmanager
    def fetch(self, target: Descriptor) -> Iterator[Reader]:
        """The content, from the local store, or from its registry without keeping it. Layers of a
        cache are kept and checked, as by `require`.
        """
        origin = self._origin(target.digest)
        if target.digest in self._claims:
            self.require(target)
        elif origin is None:
            self.ensure(target)
        if origin is None or self.store.exists(target):
            with self.store.fetch(target) as reader:
                yield reader
        else:
            with _told(target, origin[1]), origin[0].fetch(target) as reader:
                yield reader

    def exists(self, target: Descriptor) -> bool:
        """Whether the content is in the local store, known to be in a registry, or can be made."""
        known = self._origin(target.digest) is not None
        return known or self.store.exists(target) or self._makeable(target) is not None

    def _makeable(self, target: Descriptor) -> LayerResult | None:
        """The result whose files give the content."""
        with self._lock:
            result = self._results.get(target.digest)
        if result is None or self._files is None or not self._files.has(result.layer.diff_id):
            return None
        return result

    def _provide(self, target: Descriptor, step: Step) -> None:
        result = self._makeable(target)
        if result is None:
            self._download(target, step)
        else:
            self._compress(result, step)

    def _compress(self, result: LayerResult, step: Step) -> None:
        """Make the blob of a layer again from its files, which are removed if they do not give it:
        they were damaged, or the compression library is another one now.
        """
        assert self._files is not None
        layer = result.layer
        form = codec_of_layer(layer.descriptor, result.level)
        assert form is not None
        tar = self._files.tar(layer.diff_id)
        name = f"compress {layer.descriptor.digest.short}"
        with (
            step.step(name, kind="internal", size=layer.descriptor.size),
            self.store.ingest() as ingest,
        ):
            made = stream_layer(cut_tar(without_toc(tar) if form.indexed else tar), ingest, form)
        if made.descriptor.digest != layer.descriptor.digest:
            self._files.remove(layer.diff_id)
            raise DamagedContent(
                f"the files of layer {layer.diff_id} do not reproduce its blob", hint="run again"
            )

    @contextmanager
    def blaming(self, target: Descriptor) -> Iterator[None]:
        """Turns errors about layers of a cache into BrokenCache."""
        try:
            yield
        except ShiplineError as error:
            if target.digest not in self._claims or isinstance(error, BrokenCache):
                raise
            raise BrokenCache(self._claims[target.digest][1], error.message) from error

    def _origin(self, digest: Digest) -> tuple[Fetcher, str] | None:
        with self._lock:
            return self._origins.get(digest)

    def _download(self, target: Descriptor, step: Step) -> None:
        origin = self._origin(target.digest)
        if origin is None:
            raise NotFound(
                f"{target.digest} is neither in the cache nor in a known registry",
                code="content-gone",
            )
        name = f"pull {origin[1]}@{target.digest.short}"
        with step.step(name, kind="pull", size=target.size) as transfer:
            moved = 0

            def advance(count: int) -> None:
                nonlocal moved
                moved += count
                transfer.progress(moved, target.size)

            with _told(target, origin[1]):
                self.store.push(target, origin[0], advance)
        self._downloaded.add(target.digest)

    def _check_tar(self, target: Descriptor) -> None:
        """Raise ContentError unless the layer is the compressed tar that a cache says it is."""
        diff_id, source = self._claims[target.digest]
        compression = media.compression(target.media_type)
        seen = Hasher(diff_id.algorithm)
        with self.store.fetch(target) as blob:
            for data in chunks(decompress(blob, compression or "")):
                seen.update(data)
        if seen.digest != diff_id:
            raise DigestMismatch(expected=str(diff_id), got=str(seen.digest), where=source)
        self.verified(Layer(target, diff_id))


@contextmanager
def _told(target: Descriptor, source: str) -> Iterator[None]:
    """Raises NotFound with what is to be done where content has gone from its source."""
    try:
        yield
    except NotFound as error:
        missing = NotFound(
            f"{target.digest} is needed, but is no longer in {source}",
            code="content-gone",
            hint="push the base image there again, or build on one that its registry still has",
        )
        for note in (error.message, *getattr(error, "__notes__", ())):
            missing.add_note(note)
        raise missing from None


class BaseImage(Struct, frozen=True):
    """An image to build on, for one platform; its layers need not be here yet. `reference` has its
    digest. An image that is in the OCI layout at the path `layout` is called after that directory,
    the result of another `target` of this run after that.
    """

    reference: Reference
    manifest: ImageOp
    config: ImageConfig
    layers: tuple[Layer, ...]
    layout: str = ""
    target: str = ""

    @property
    def shown(self) -> str:
        """The name for messages."""
        if self.target:
            return f"{TARGET}{self.target}"
        if self.layout:
            return f"{LAYOUT}{self.layout}@{self.reference.digest}"
        return self.reference.familiar


LAYOUT, TARGET = "oci-layout://", "target:"
_TAGS_READ, _TAGS_SHOWN = 1000, 8


class _ImageLocation(Struct, frozen=True):
    """Where an image is looked up: `wanted`, a tag or a digest, in a repository; in an engine by
    its `name` as it was written.
    """

    repository: Repository
    wanted: str
    reference: Reference
    shown: str
    name: str
    layout: str = ""


def open_layout(name: str) -> tuple[OciLayout, str]:
    """The layout that `oci-layout://PATH[:TAG][@DIGEST]` names, at an absolute path, and what to
    resolve in it; the tag of a single image is not compared, as in buildx. Raises NotFound,
    InvalidDigest.
    """
    place, at, digest = name.removeprefix(LAYOUT).partition("@")
    path, _, tag = (place, "", "") if os.path.isdir(place) else place.rpartition(":")
    layout = OciLayout(Path(os.path.abspath(path or place)))
    if at:
        return layout, str(Digest.parse(digest))
    images = layout.index().manifests
    tags = sorted(filter(None, (one.annotations.get(REF_NAME) for one in images)))
    if (tag or "latest") in tags:
        return layout, tag or "latest"
    if len({one.digest for one in images}) == 1:
        return layout, ""
    raise NotFound(
        f"{name} does not name one image: the layout has {len(images)}",
        code="image-ambiguous",
        hint=f"name one of the tags {', '.join(tags)}" if tags else "add @sha256:...",
    )


class RegistryImages:
    """Base images from registries; each name is looked up once per build.

    `blobs` is given the origins of their layers. What no registry has is looked up in `engine`.
    """

    def __init__(
        self,
        repositories: Repositories,
        blobs: Blobs,
        step: Step,
        engine: EngineImages | None = None,
    ) -> None:
        self._policy: SourcePolicy | None = None
        self._engine = engine
        self._repositories = repositories
        self._blobs = blobs
        self._step = step
        self._roots: Once[Descriptor] = Once()
        self._images: Once[BaseImage] = Once()
        self._known: dict[tuple[str, Platform], BaseImage] = {}
        self._targets: dict[str, tuple[Image, ...]] = {}
        self.found: dict[ImageOp, BaseImage] = {}

    def judged_by(self, policy: SourcePolicy | None, *, local: bool = True) -> Self:
        """The same images, of which one is resolved only if `policy` allows it, and only in
        registries unless `local`.
        """
        found = copy(self)
        found._policy = policy
        found._engine = self._engine if local else None
        return found

    def add_target(self, name: str, images: Sequence[Image]) -> None:
        """Offer the result of another build of this run as `target:name`."""
        self._targets[name] = tuple(images)

    def resolve(self, name: str, platform: Platform) -> BaseImage:
        """See `plan.BaseImages`. Raises NotFound if the image is not for the platform."""
        if name.startswith(TARGET):
            image = self._of_target(name.removeprefix(TARGET), platform)
        else:
            find = self._in_layout if name.startswith(LAYOUT) else self._in_registry
            image = self._images.get(
                (name, platform, self._engine is not None),
                lambda: self._resolve(find(name), platform),
            )
            if self._policy is not None:
                self._policy.check_base(name, image, platform)
        self.found[image.manifest] = image
        self._known[name, platform] = image
        return image

    def _of_target(self, name: str, platform: Platform) -> BaseImage:
        """The result for the platform; that of a single platform is for all."""
        images = self._targets.get(name)
        if images is None:
            raise NotFound(
                f"{TARGET}{name} is not the result of a target of this run",
                code="bake-target-unknown",
            )
        found = next((one for one in images if one.platform == platform), images[0])
        if found.platform != platform and len(images) > 1:
            offered = sorted(str(one.platform) for one in images)
            raise not_available(f"{TARGET}{name}", platform, offered)
        digest = found.manifest.descriptor.digest
        reference = Reference.parse(_called(name)).at(digest)
        return BaseImage(reference, ImageOp(digest), found.config, found.layers, target=name)

    def _in_registry(self, name: str) -> _ImageLocation:
        if self._policy is not None:
            name = self._policy.image(name)
        reference = Reference.parse(name).or_latest
        wanted = str(reference.digest or reference.tag)
        repository = self._repositories(reference)
        return _ImageLocation(repository, wanted, reference, reference.familiar, name)

    def _in_layout(self, name: str) -> _ImageLocation:
        layout, wanted = open_layout(name)
        path = str(layout.root)
        reference = Reference.parse(_called(os.path.basename(path)) or "layout")
        return _ImageLocation(layout, wanted, reference, name, name, path)

    def known(self, name: str, platform: Platform) -> ImageConfig | None:
        """The configuration of an image that was resolved; None for others."""
        image = self._known.get((name, platform))
        return None if image is None else image.config

    def _resolve(self, origin: _ImageLocation, platform: Platform) -> BaseImage:
        repository: Fetcher = origin.repository
        name = f"resolve {origin.shown}"
        with self._step.step(name, kind="resolve", platform=str(platform)) as step:
            key = (origin.layout, origin.reference.name, origin.wanted)
            try:
                root = self._roots.get(key, lambda: _look_up(origin))
                digest = root.digest
            except ShiplineError as error:
                found = self._in_engine(origin, platform, error, step)
                if found is None:
                    raise
                repository, root, digest = self._blobs.store, found.manifest, found.digest
            manifest = self._manifest(repository, root, origin.shown, platform)
            config = ImageConfig.parse(self._document(repository, manifest.config))
        if len(config.diff_ids) != len(manifest.layers):
            raise ContentError(
                f"{origin.shown} has {len(manifest.layers)} layers,"
                f" but its configuration lists {len(config.diff_ids)}",
                code="image-invalid",
            )
        for layer in manifest.layers if repository is origin.repository else ():
            self._blobs.offer(layer, repository, origin.layout or origin.reference.name)
        layers = tuple(map(Layer, manifest.layers, config.diff_ids))
        if self._policy is not None and not origin.layout:
            self._policy.check_image(origin.reference.at(digest))
        reference, op = origin.reference.at(digest), ImageOp(manifest.descriptor.digest)
        return BaseImage(reference, op, config, layers, origin.layout)

    def _in_engine(
        self, origin: _ImageLocation, platform: Platform, error: ShiplineError, step: Step
    ) -> EngineImage | None:
        """The image of the engine, None if the `error` of the registry stands: it adds to that what
        is wrong with the engine. Raises NotFound for another platform.
        """
        if self._engine is None or origin.layout or not may_be_local(error):
            return None
        try:
            found = self._engine.find(origin.name, platform, step)
        except ShiplineError as failure:
            if failure.code == "platform-missing":
                failure.add_note(f"no registry gives it: {error.message}")
                raise
            note = f"a container engine of this machine was asked, too: {failure.message}"
            if failure.code != "engine-missing" and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            return None
        wanted = origin.reference.digest
        if found is None or wanted not in (None, found.digest, found.manifest.digest):
            return None
        step.output(f"no registry gives {origin.shown}: it is in {found.engine}\n".encode())
        if is_unreachable(error) or (
            isinstance(error, AuthError) and origin.reference.host != DEFAULT_HOST
        ):
            step.warn(
                f"{origin.shown} comes from {found.engine}, and may be old: {error.message}",
                "--pull takes base images from registries only",
            )
        return found

    def _manifest(
        self, repository: Fetcher, root: Descriptor, shown: str, platform: Platform
    ) -> Manifest:
        parsed = parse_manifest(self._document(repository, root), root.media_type)
        if isinstance(parsed, Manifest):
            return parsed
        child = parsed.select(platform)
        if child is None:
            raise not_available(shown, platform, sorted(map(str, parsed.platforms)))
        parsed = parse_manifest(self._document(repository, child), child.media_type)
        if isinstance(parsed, Index):
            raise ContentError(f"{shown} is an index inside an index", code="index-nested")
        return parsed

    def _document(self, repository: Fetcher, target: Descriptor) -> bytes:
        """A small document, kept here so that it is requested once."""
        with suppress(NotFound, DamagedContent):
            return fetch_all(self._blobs.store, target, MANIFEST_LIMIT)
        content = fetch_all(repository, target, MANIFEST_LIMIT)
        self._blobs.store.add(content, target.media_type)
        return content


def _called(name: str) -> str:
    """A name for an image that has none."""
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def _other_tag(origin: _ImageLocation) -> str:
    """A hint for a tag that is missing: those that are there, if they are few, or a similar one."""
    list_tags = getattr(origin.repository, "tags", None)
    if origin.reference.digest or not callable(list_tags):
        return ""
    tags: list[str] = []
    with suppress(ShiplineError):
        tags += islice(list_tags(), _TAGS_READ)
    meant = df.nearest(origin.wanted, tags)
    question = f"did you mean {origin.reference.tagged(meant).familiar}?" if meant else ""
    few = f"its tags are {', '.join(tags)}" if 0 < len(tags) <= _TAGS_SHOWN else ""
    return " ".join(filter(None, (question, few)))


def _look_up(origin: _ImageLocation) -> Descriptor:
    try:
        return origin.repository.resolve(origin.wanted)
    except NotFound as error:
        if origin.layout:
            raise
        missing = NotFound(
            f"base image {origin.shown} was not found",
            code="base-image-not-found",
            hint=_other_tag(origin) or "check its name and tag, and whether it needs a login",
        )
        for note in getattr(error, "__notes__", ()):
            missing.add_note(note)
        raise missing from None
