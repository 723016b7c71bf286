"""Caches outside of this machine, in the form of BuildKit: read before a build, written in it.

Most builds have none: what reads and writes them is loaded when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.lazy import load_when_named

if TYPE_CHECKING:
    from shipline.build.caching.export import CacheEntry, CacheExport, inline_cache
    from shipline.build.caching.keys import KeyMaker, result_key
    from shipline.build.caching.lookup import CacheLookup, read_caches
else:
    __getattr__ = load_when_named(
        __name__,
        export="CacheEntry CacheExport inline_cache",
        keys="KeyMaker result_key",
        lookup="CacheLookup read_caches",
    )
