"""Opens caches at the services that tests play, directly or through a proxy that breaks things."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from peers import ActionsCache, S3Service
from peers.actions_cache import READ, WRITE
from peers.object_storage import ACCOUNT, ACCOUNT_KEY, REGION
from shipline.cachestores import open_cache
from shipline.content.cache_store import CacheStore
from shipline.registry import Client

_NUMBERS = itertools.count()
MAIN = "refs/heads/main"


@dataclass(frozen=True)
class CachePlace:
    """A cache of its own at a service: `port` is the service's, `attributes` lead to it by way of
    another port.
    """

    kind: str
    port: int
    attributes: Callable[[int], Mapping[str, str]]

    def open(self, client: Client, port: int = 0) -> CacheStore:
        return open_cache(client, {})(self.kind, self.attributes(port or self.port))

    def flag(self, port: int = 0) -> str:
        """As --cache-to and --cache-from take it."""
        given = self.attributes(port or self.port)
        return ",".join([f"type={self.kind}", *(f"{key}={text}" for key, text in given.items())])


def s3_place(service: S3Service) -> CachePlace:
    prefix = f"{next(_NUMBERS)}/"

    def attributes(port: int) -> Mapping[str, str]:
        return {
            "bucket": "cache",
            "region": REGION,
            "prefix": prefix,
            "endpoint_url": f"http://127.0.0.1:{port}",
            "use_path_style": "true",
            "access_key_id": service.key_id,
            "secret_access_key": service.secret,
        }

    return CachePlace("s3", service.port, attributes)


def azure_place(account_url: str) -> CachePlace:
    container = f"cache{next(_NUMBERS)}"

    def attributes(port: int) -> Mapping[str, str]:
        return {
            "account_url": f"http://127.0.0.1:{port}/{ACCOUNT}",
            "account_name": ACCOUNT,
            "secret_access_key": ACCOUNT_KEY,
            "container": container,
        }

    return CachePlace("azblob", urlsplit(account_url).port or 0, attributes)


def github_place(service: ActionsCache) -> CachePlace:
    """The service announces URLs of the port that is used, so that they pass a proxy as well."""
    token, scope = service.token((MAIN, READ | WRITE)), f"scope{next(_NUMBERS)}"

    def attributes(port: int) -> Mapping[str, str]:
        service.announced = url = f"http://127.0.0.1:{port}"
        return {"url_v2": f"{url}/", "token": token, "scope": scope}

    return CachePlace("gha", urlsplit(service.url).port or 0, attributes)


def registry_place(address: str) -> CachePlace:
    name = f"caches/contract{next(_NUMBERS)}:cache"
    host, _, port = address.rpartition(":")
    return CachePlace("registry", int(port), lambda port: {"ref": f"{host}:{port}/{name}"})


def directory_place(directory: Path) -> CachePlace:
    """A directory, which no port leads to."""
    return CachePlace("local", 0, lambda _: {"dest": str(directory)})
