"""The purge list: URLs whose content was removed or changed, for the operator of the CDN.

A record is written in the transaction that removes a blob or a manifest from a repository, or moves
or removes a tag, whoever does that: clients, retention, garbage collection.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping

from shipline.metadata import Key, Records, walk
from shipline.server.http import Request, Response, Route, route
from shipline.server.problems import Problem
from shipline.units import Duration

_KINDS = {"blob": "blobs", "manifest": "manifests", "tag": "manifests"}
_EXPIRED = 1000  # records to delete at once
_TEXT = ("Content-Type", "text/plain; charset=utf-8")


class PurgeList:
    """Paths to purge. Safe to use from any thread."""

    def __init__(
        self, records: Records, keep_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._records, self._keep_s, self._clock = records, keep_s, clock

    def changes(self, changes: Mapping[Key, bytes | None]) -> dict[Key, bytes | None]:
        """The records to write with these changes: new paths, and those that are too old."""
        now = self._clock()
        found: dict[Key, bytes | None] = {
            ("purge", _stamp(now), f"/v2/{key[1]}/{_KINDS[key[0]]}/{key[2]}"): b""
            for key, value in changes.items()
            if key[0] in _KINDS and self._is_stale(key, value)
        }
        if found:
            for key, _ in self._records.scan(("purge",), limit=_EXPIRED):
                if key[0] >= _stamp(now - self._keep_s):
                    break
                found[("purge", *key)] = None
        return found

    def since(self, at: float) -> Iterator[str]:
        """Paths that were to be purged since `at` (Unix seconds), oldest first, each once."""
        seen = set()
        for (stamp, path), _ in walk(self._records, ("purge",)):
            if stamp >= _stamp(at) and path not in seen:
                seen.add(path)
                yield path

    def _is_stale(self, key: Key, value: bytes | None) -> bool:
        """Whether a CDN may have what is no longer there, or no longer so."""
        if value is not None and key[0] != "tag":
            return False
        before = self._records.get(key)
        if before is None or value is None:
            return before is not None
        return bool(json.loads(before)["digest"] != json.loads(value)["digest"])


def purge_routes(purges: PurgeList, url: str, clock: Callable[[], float]) -> tuple[Route, ...]:
    """GET /api/cdn/purges?since=DURATION: one URL per line."""

    def show(request: Request) -> Response:
        text = request.parameter("since") or ""
        try:
            since = clock() - Duration.parse(text).seconds if text else 0.0
        except ValueError as error:
            raise Problem(400, "UNSUPPORTED", f"since: {error}") from None
        lines = "".join(f"{url.rstrip('/')}{path}\n" for path in purges.since(since))
        return Response.of(200, [_TEXT, ("Cache-Control", "no-store")], lines.encode())

    return (route("/api/cdn/purges", requires="operator", GET=show),)


def _stamp(at: float) -> str:
    """Sorts as the time does; milliseconds."""
    return f"{max(0, int(at * 1000)):015d}"
