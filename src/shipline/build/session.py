"""What the builds of one run share."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from msgspec import Struct

from shipline.build.base_images import RegistryImages
from shipline.build.blobs import Blobs
from shipline.build.cache import Cache, Running, open_records
from shipline.build.disk import keep_once
from shipline.build.engine_images import EngineImages
from shipline.build.faults import Damage
from shipline.build.layer_files import USE_LOCK, LayerFiles
from shipline.build.settings import Settings
from shipline.build.snapshots import Snapshots
from shipline.build.solver import command_limiter
from shipline.content import LocalStore, Recency
from shipline.events import Step
from shipline.metadata import Records
from shipline.oci import Digest
from shipline.sandbox import open_workspace
from shipline.tasks import Limiter


class Session(Struct, frozen=True):
    """What the builds of one run share: `commands` limits how many run at once, `running` are the
    layers that one of them made or is making.
    """

    settings: Settings
    scratch: Path
    files: LayerFiles
    blobs: Blobs
    records: Records
    images: RegistryImages
    snapshots: Snapshots
    running: Running
    commands: Limiter

    @classmethod
    def open(
        cls, settings: Settings, step: Step, damage: Damage, stack: ExitStack, *, verified: bool
    ) -> Self:
        """Open the state directory until `stack` closes; `verified` checks the digest of stored
        content before it is used.
        """
        home = settings.home
        recency = Recency(home / USE_LOCK)
        store = LocalStore(home / "content", damage, verified=verified, recency=recency)
        scratch = stack.enter_context(open_workspace(home))
        files = LayerFiles(home, scratch, damage, verified=verified)
        blobs = Blobs(store, step, files)
        records = stack.enter_context(open_records(home / "cache.db", damage))
        engine = EngineImages(settings, blobs, records, scratch)
        session = cls(
            settings=settings,
            scratch=scratch,
            files=files,
            blobs=blobs,
            records=records,
            images=RegistryImages(settings.repositories, blobs, step, engine),
            snapshots=Snapshots(home, scratch, blobs, files, step),
            running=Running(),
            commands=command_limiter(),
        )
        _close_to_others(home)
        return session

    def layer_cache(self, variant: str) -> Cache:
        """The results of earlier builds, and of those of this run."""
        blobs = self.blobs
        return Cache(self.records, blobs, self.settings.home, variant, blobs.remember, self.running)

    def keep_once(self, step: Step, exported: Collection[Digest]) -> None:
        """See `disk.keep_once`; of base layers, those that were downloaded now."""
        layers = (layer for image in self.images.found.values() for layer in image.layers)
        pulled = [one for one in layers if self.blobs.is_downloaded(one.descriptor.digest)]
        keep_once(
            self.settings.home,
            self.scratch,
            self.records,
            self.files,
            step,
            exported=exported,
            pulled=pulled,
        )

    def drop_unused(self, step: Step) -> None:
        """Remove the blob that an older index has kept, while the build goes on."""
        keep_once(self.settings.home, self.scratch, self.records, self.files, step, unused=True)


def _close_to_others(home: Path) -> None:
    """Images and files of contexts are not for other users, also in a directory that they may enter
    and in one of an earlier version.
    """
    for name in _PRIVATE:
        with suppress(OSError):  # it is not there, or another user's
            mode = os.stat(home / name).st_mode
            if mode & 0o077:
                os.chmod(home / name, mode & 0o700)


_PRIVATE = ("content", "toc", "stat", "runs", "cache.db", "cache.db-wal", "cache.db-shm")
