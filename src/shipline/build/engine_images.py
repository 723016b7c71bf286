"""Base images that no registry has, but the container engine of this machine.

The engine is asked for the ID of a name in each build, so that a name that moved is noticed; the
image of an ID is read once, and again when the store no longer has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from shipline import dockerfile as df
from shipline.build.cache import Cache, RemoteFile, results
from shipline.build.request import BuildRequest
from shipline.build.settings import Settings
from shipline.content import Fetcher, fetch_all, fetch_document, fetch_image
from shipline.errors import AuthError, NotFound, RegistryError, ShiplineError
from shipline.events import Step
from shipline.metadata import Records
from shipline.oci import (
    CONFIG_LIMIT,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    best_match,
)
from shipline.tasks import Once, time_limit

if TYPE_CHECKING:
    from shipline.build.blobs import Blobs
    from shipline.engines import Engine

_ANSWER_S = 10  # seconds for what the engine knows of a name
_ABSENT = ("login-missing", "login-refused", "login-insufficient")
_UNREACHABLE = ("host-not-found", "connection-refused", "connection-timeout", "connection-lost")


class EngineImage(Struct, frozen=True):
    """An image of an `engine`: its manifest, in the store with all that it names; `digest` is that
    of the index or manifest that the name has.
    """

    engine: str
    digest: Digest
    manifest: Descriptor


def uses_local_images(request: BuildRequest) -> bool:
    """Whether a build may be based on what the engine alone has."""
    return request.local_images and not request.pull


def is_unreachable(error: ShiplineError) -> bool:
    """Whether a registry could not be reached."""
    return isinstance(error, RegistryError) and error.code in (*_UNREACHABLE, "proxy")


def may_be_local(error: ShiplineError) -> bool:
    """Whether the error of a registry leaves open that the name is that of a local image: it has no
    such image, or none for this login, or it could not be reached.
    """
    absent = isinstance(error, AuthError) and error.code in _ABSENT
    return absent or isinstance(error, NotFound) or is_unreachable(error)


class EngineImages:
    """The images of the engine that `--load` uses, brought into the store of `blobs` when they are
    needed; `records` know those that were. `scratch` is a directory for their archives.
    """

    def __init__(self, settings: Settings, blobs: Blobs, records: Records, scratch: Path) -> None:
        self._environment = settings.environment
        self._blobs = blobs
        self._store = blobs.store
        self._records = records
        self._cache = Cache(records, blobs.store, settings.home)
        self._scratch = scratch
        self._ids: Once[tuple[Engine, Digest | None]] = Once()
        self._images: Once[EngineImage] = Once()

    def find(self, name: str, platform: Platform, step: Step) -> EngineImage | None:
        """The image of a name as people write it, None if the engine has none.

        Raises EngineError, also where there is no engine, ContentError, and NotFound for another
        platform.
        """
        engine, found = self._ids.get(name, lambda: self._look_up(name))
        if found is None:
            return None
        return self._images.get(
            (found, platform), lambda: self._image(engine, found, name, platform, step)
        )

    def _look_up(self, name: str) -> tuple[Engine, Digest | None]:
        from shipline.engines import EngineError, find_engine  # slow to import

        try:
            with time_limit(_ANSWER_S):
                engine = find_engine(self._environment)
                return engine, engine.find(name)
        except TimeoutError as error:
            raise EngineError(f"the engine: {error}", code="engine-unreachable") from None

    def _image(
        self, engine: Engine, found: Digest, name: str, platform: Platform, step: Step
    ) -> EngineImage:
        where, key = f"the engine at {engine}", f"docker-daemon:{found}?platform={platform}"
        known = self._cache.remote_file(key)
        if known is not None:
            manifest = fetch_image(self._store, known.content)
            if self._store.exists(manifest.config) and self._has(manifest.layers):
                return _named(found, manifest, where)
        from tempfile import TemporaryDirectory  # slow to import

        with (
            step.step(f"read {name} from {where}", kind="pull"),
            TemporaryDirectory(dir=self._scratch) as scratch,
            engine.opened(found, Path(scratch), self._store) as (source, root),
        ):
            manifest = _chosen(source, root, platform, f"{name} in {where}")
            for target in (manifest.config, *manifest.layers):
                self._store.push(target, source)
        target = self._store.add(manifest.raw, manifest.media_type)
        self._cache.put_remote_file(key, RemoteFile(target))
        return _named(found, manifest, where)

    def _has(self, layers: Sequence[Descriptor]) -> bool:
        """Whether all are in the store, or can be made: an earlier build may have made them."""
        missing = {one.digest: one for one in layers if not self._store.exists(one)}
        for result in results(self._records) if missing else ():
            if result.layer.descriptor.digest in missing:
                self._blobs.remember(result)
        return all(map(self._blobs.exists, missing.values()))


def _named(found: Digest, manifest: Manifest, where: str) -> EngineImage:
    """An engine that knows no manifests has its images by their configurations."""
    target = manifest.descriptor
    digest = target.digest if manifest.config.digest == found else found
    return EngineImage(where, digest, target)


def _chosen(source: Fetcher, root: Descriptor, platform: Platform, shown: str) -> Manifest:
    """The image for a platform. Raises NotFound, ContentError."""
    parsed = fetch_document(source, root)
    if isinstance(parsed, Index):
        child = parsed.select(platform)
        if child is None:
            raise not_available(shown, platform, sorted(map(str, parsed.platforms)))
        return fetch_image(source, child)
    config = ImageConfig.parse(fetch_all(source, parsed.config, CONFIG_LIMIT))
    if best_match(platform, [config.platform]) is None:
        raise not_available(shown, platform, [str(config.platform)])
    return parsed


def not_available(shown: str, platform: Platform, offered: list[str]) -> NotFound:
    """The error about an image that is for other platforms."""
    swapped = f"{platform.architecture}/{platform.os}"
    meant = swapped if swapped in offered else df.nearest(str(platform), offered)
    question = f"did you mean {meant}? " if meant else ""
    return NotFound(
        f"{shown} is not available for {platform}",
        code="platform-missing",
        hint=f"{question}it offers {', '.join(offered)}",
    )
