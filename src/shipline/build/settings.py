"""What a build uses of its process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field

from shipline.build.base_images import Repositories
from shipline.build.downloads import Get, no_network
from shipline.content import CacheStore, OpenCache
from shipline.errors import UsageError


def no_caches(kind: str, attributes: Mapping[str, str]) -> CacheStore:
    """Opens no cache outside of this machine."""
    raise UsageError(f"a cache of type={kind} cannot be opened here")


class Settings(Struct, frozen=True):
    """What a build uses of its process: state directory, registries, environment, streams."""

    home: Path
    repositories: Repositories
    environment: Mapping[str, str] = field(default_factory=dict)
    get: Get = no_network
    open_cache: OpenCache = no_caches
    stdin: BinaryIO | None = None
    stdout: BinaryIO | None = None
