"""Clients that pull an image as Docker does: three layers at once, digests verified, redirects
followed.

    python -m bench.pull URL REPOSITORY TAG CLIENTS    prints the seconds of each, a JSON list
"""

from __future__ import annotations

import hashlib
import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from urllib.parse import urljoin, urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_AT_ONCE = 3  # layers, as dockerd's max-concurrent-downloads
_BUFFER = 1 << 20  # bytes
_TIMEOUT_S = 900


def pull(url: str, repository: str, tag: str) -> None:
    """Raises AssertionError unless every byte is right."""
    base = f"{url}/v2/{repository}/"
    manifest: dict[str, Any] = json.loads(fetch(urljoin(base, f"manifests/{tag}"))[1])
    blobs = [manifest["config"], *manifest["layers"]]

    def blob(descriptor: dict[str, Any]) -> None:
        digest, _ = fetch(urljoin(base, f"blobs/{descriptor['digest']}"), keep=False)
        assert f"sha256:{digest}" == descriptor["digest"]

    with ThreadPoolExecutor(min(_AT_ONCE, len(blobs))) as pool:
        list(pool.map(blob, blobs))


def fetch(url: str, *, keep: bool = True) -> tuple[str, bytes]:
    """The SHA-256 of what is there and, to `keep`, the bytes."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": MANIFEST})
        answer = connection.getresponse()
        if answer.status == 307:
            return fetch(urljoin(url, answer.headers["Location"]), keep=keep)
        assert answer.status == 200, (url, answer.status)
        seen, kept, buffer = hashlib.sha256(), [], memoryview(bytearray(_BUFFER))
        while size := answer.readinto(buffer):
            seen.update(buffer[:size])
            kept += [bytes(buffer[:size])] if keep else []
        return seen.hexdigest(), b"".join(kept)
    finally:
        connection.close()


def crowd(url: str, repository: str, tag: str, clients: int) -> list[float]:
    """The seconds that each of the clients needs, which begin together."""
    begin = Barrier(clients)

    def client(_: int) -> float:
        begin.wait()
        start = time.monotonic()
        pull(url, repository, tag)
        return time.monotonic() - start

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(client, range(clients)))


if __name__ == "__main__":
    _url, _repository, _tag, _clients = sys.argv[1:]
    print(json.dumps(crowd(_url, _repository, _tag, int(_clients))))
