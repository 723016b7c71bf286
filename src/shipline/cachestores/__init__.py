"""Build caches by type and attributes: in registries, on the disk, and in other services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipline.content import CacheStore, OpenCache
    from shipline.registry import Client


def open_cache(client: Client, variables: Mapping[str, str]) -> OpenCache:
    """Opens caches of every type, which are used while `client` is open; `variables` are the
    environment's. A build loads only what speaks to the caches that it has. A server that takes no
    connection is not tried again.
    """
    client = client.impatient

    def open_(kind: str, attributes: Mapping[str, str]) -> CacheStore:
        if kind in ("registry", "local"):
            from shipline.cachestores.repositories import open_repository

            return open_repository(kind, attributes, client)
        from shipline.cachestores.opening import open_store

        return open_store(kind, attributes, client=client, variables=variables)

    return open_
