"""Base images: from the name in FROM to one platform's configuration and layers.

Resolving a name fetches only manifests and configurations; layers stay in their registry until a
step needs their bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.blobs import Blobs
from shipline.build.engine_images import is_unreachable, may_be_local, not_available
from shipline.build.graph import ImageOp
from shipline.build.request import Context, ContextKind
from shipline.content import Fetcher, OciLayout, Repository, fetch_all
from shipline.errors import AuthError, ContentError, DamagedContent, NotFound, ShiplineError
from shipline.events import Step
from shipline.layer import Layer
from shipline.oci import (
    DEFAULT_HOST,
    MANIFEST_LIMIT,
    REF_NAME,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    InvalidReference,
    Manifest,
    Platform,
    Reference,
    parse_manifest,
)
from shipline.tasks import Once

if TYPE_CHECKING:
    from shipline.build.assembly import Image
    from shipline.build.engine_images import EngineImage, EngineImages
    from shipline.build.source_rules import SourcePolicy

Repositories = Callable[[Reference], Repository]
"""Opens the repository of a reference; makes no request."""


class BaseImage(Struct, frozen=True):
    """An image to build on, for one platform; its layers need not be here yet. `reference` has its
    digest. An image that is in the OCI layout at the path `layout` is called after its context, as
    in BuildKit, the result of another `target` of this run after that. One is `pinned` by a digest
    in its name.
    """

    reference: Reference
    manifest: ImageOp
    config: ImageConfig
    layers: tuple[Layer, ...]
    layout: str = ""
    target: str = ""
    pinned: bool = True

    @property
    def shown(self) -> str:
        """The name for messages."""
        return self.reference.familiar if self._is_remote else self.name

    @property
    def name(self) -> str:
        """The whole name."""
        if self.target:
            return f"{TARGET}{self.target}"
        if self.layout:
            return f"{LAYOUT}{self.layout}@{self.reference.digest}"
        return str(self.reference)

    @property
    def _is_remote(self) -> bool:
        return not (self.target or self.layout)


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
        self._layouts: dict[str, str] = {}
        self.found: dict[ImageOp, BaseImage] = {}

    def under_policy(
        self,
        policy: SourcePolicy | None,
        *,
        local: bool = True,
        contexts: Mapping[str, Context] = MappingProxyType({}),
    ) -> Self:
        """The same images, of which one is resolved only if `policy` allows it, and only in
        registries unless `local`. Those in layouts are called after `contexts`.
        """
        found = copy(self)
        found._policy = policy
        found._engine = self._engine if local else None
        layouts = (item for item in contexts.items() if item[1].kind is ContextKind.LAYOUT)
        found._layouts = {f"{LAYOUT}{one.location}": name for name, one in layouts}
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
                (name, platform, self._engine is not None, self._layouts.get(name, "")),
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
        reference = Reference.parse(_repository_name(name)).at(digest)
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
        try:
            reference = Reference.parse(self._layouts[name])
        except (KeyError, InvalidReference):
            reference = Reference.parse(_repository_name(os.path.basename(path)) or "layout")
        return _ImageLocation(layout, wanted, reference, name, name, path)

    def known(self, name: str, platform: Platform) -> ImageConfig | None:
        """The configuration of an image that was resolved; None for others."""
        image = self._known.get((name, platform))
        return None if image is None else image.config

    def _resolve(self, origin: _ImageLocation, platform: Platform) -> BaseImage:
        repository: Fetcher = origin.repository
        name = f"load metadata for {origin.shown if origin.layout else origin.reference}"
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
        windows = config.platform.os == "windows"
        layers = tuple(map(partial(Layer, windows=windows), manifest.layers, config.diff_ids))
        if self._policy is not None and not origin.layout:
            self._policy.check_image(origin.reference.at(digest))
        reference, op = origin.reference.at(digest), ImageOp(manifest.descriptor.digest)
        pinned = bool(origin.layout or origin.reference.digest)
        return BaseImage(reference, op, config, layers, origin.layout, pinned=pinned)

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


def _repository_name(name: str) -> str:
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
