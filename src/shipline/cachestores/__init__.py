"""Build caches in services that are no registries: GitHub Actions, S3, Azure's blob storage."""

from shipline.cachestores.opening import KINDS, open_store

__all__ = ["KINDS", "open_store"]
