"""The daemon of BuildKit: what it is, its disk, and building (api/services/control)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from shipline.buildkit.messages import (
    BuildHistoryEvent,
    BuildHistoryRecord,
    BuildHistoryRequest,
    BuildResultInfo,
    DiskUsageRequest,
    DiskUsageResponse,
    Empty,
    HistoryDescriptor,
    InfoResponse,
    ListWorkersResponse,
    PruneRequest,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    UsageRecord,
    WorkerRecord,
)
from shipline.grpc.connection import Code, Connection, RpcCall, RpcError
from shipline.grpc.containerd import ReadRequest, ReadResponse
from shipline.grpc.protobuf import decode

_SERVICE = "/moby.buildkit.v1.Control/"
_READ = "/containerd.services.content.v1.Content/Read"
_PREDICATE, _PROVENANCE = "in-toto.io/predicate-type", "https://slsa.dev/provenance/"


class Control:
    """Calls of a daemon; each raises RpcError."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def version(self) -> str:
        """The version of the daemon, as it names it; Debian's says v0.0.0+unknown."""
        answer = self.connection.ask(_SERVICE + "Info", Empty(), InfoResponse)
        return answer.version.version if answer.version else ""

    def workers(self) -> list[WorkerRecord]:
        return self.connection.ask(_SERVICE + "ListWorkers", Empty(), ListWorkersResponse).record

    def provenance(self, ref: str) -> dict[str, dict[str, Any]]:
        """The predicates that the history has of how a build came about: by platform, or the only
        one by the empty text. Empty for a daemon without history, and for none that is known.

        Raises ValueError for one that is not JSON.
        """
        results: dict[str, BuildResultInfo] = {}
        for record in self._history(BuildHistoryRequest(ref=ref, early_exit=True)):
            results |= record.results
            if record.result is not None:
                results[""] = record.result
        found = {}
        for platform, result in results.items():
            for one in result.attestations:
                if one.annotations.get(_PREDICATE, "").startswith(_PROVENANCE):
                    found[platform] = json.loads(self._blob(one))
                    break
        return found

    def _blob(self, target: HistoryDescriptor) -> bytes:
        """A document of the history; the daemon verified what it wrote."""
        with self.connection.called(_READ, ReadRequest(target.digest)) as stream:
            return b"".join(decode(ReadResponse, message).data for message in stream)

    def _history(self, request: BuildHistoryRequest) -> list[BuildHistoryRecord]:
        """Nothing if the daemon keeps no history."""
        try:
            with self.connection.called(_SERVICE + "ListenBuildHistory", request) as stream:
                events = [decode(BuildHistoryEvent, message) for message in stream]
        except RpcError as error:
            if error.code != Code.UNIMPLEMENTED:
                raise
            return []
        return [one.record for one in events if one.record is not None]

    def running(self) -> int:
        """How many builds run, of whomever; 0 if the daemon keeps no history."""
        request = BuildHistoryRequest(active_only=True, early_exit=True)
        return sum(one.completed_at is None for one in self._history(request))

    def disk_usage(self, filters: list[str]) -> list[UsageRecord]:
        """The entries of its disk that match one of `filters`, in containerd's syntax."""
        return self.connection.ask(
            _SERVICE + "DiskUsage", DiskUsageRequest(filters), DiskUsageResponse
        ).record

    def prune(self, request: PruneRequest) -> Iterator[UsageRecord]:
        """Delete entries; each one as it is deleted."""
        with self.connection.called(_SERVICE + "Prune", request) as stream:
            for message in stream:
                yield decode(UsageRecord, message)

    def solve(self, request: SolveRequest) -> dict[str, str]:
        """Build; what the exporters say of their results. Giving up ends the build, too."""
        return self.connection.ask(_SERVICE + "Solve", request, SolveResponse).exporter_response

    def status(self, ref: str) -> AbstractContextManager[RpcCall]:
        """What happens in the build `ref`, as StatusResponses until it ends."""
        return self.connection.called(_SERVICE + "Status", StatusRequest(ref))
