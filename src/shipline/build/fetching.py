"""The files of a Git repository or of an archive at a URL, for readers of definitions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipline.build.base_images import Blobs
from shipline.build.cache import Cache, open_records
from shipline.build.contexts import open_context
from shipline.build.faults import Damage, system_errors
from shipline.build.remotes import open_remotes
from shipline.build.request import BuildRequest, Context
from shipline.build.settings import Settings
from shipline.content import LocalStore
from shipline.errors import UsageError
from shipline.events import Step
from shipline.sandbox import open_workspace


@contextmanager
def fetched(request: BuildRequest, settings: Settings, step: Step) -> Iterator[Context]:
    """The context of `request` with the directory that has its files, which goes with the block; a
    file that is no archive is alone in there. Raises GitError, RegistryError, UsageError.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with system_errors(settings.home), open_workspace(settings.home) as scratch:
        store = LocalStore(settings.home / "content")
        with open_records(settings.home / "cache.db", Damage(step)) as records:
            cache = Cache(records, Blobs(store, step), settings.home)
            remotes = open_remotes(request, settings, scratch, cache, store)
            opened, _ = open_context(request, None, remotes, step)
            if not opened.context.directory or not Path(opened.context.directory).is_dir():
                raise UsageError(f"{request.context.location} has no such directory")
            yield opened.context
