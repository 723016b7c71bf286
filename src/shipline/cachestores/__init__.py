"""Build caches by type and attributes: in registries, on the disk, and in other services."""

from shipline.cachestores.opening import KINDS, open_cache, open_store

__all__ = ["KINDS", "open_cache", "open_store"]
