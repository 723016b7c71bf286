"""The daemon of BuildKit: what it is, its disk, and building (api/services/control)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

from shipline.buildkit.messages import (
    BuildHistoryEvent,
    BuildHistoryRequest,
    DiskUsageRequest,
    DiskUsageResponse,
    Empty,
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
from shipline.grpc.protobuf import decode

_SERVICE = "/moby.buildkit.v1.Control/"


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

    def running(self) -> int:
        """How many builds run, of whomever; 0 if the daemon keeps no history."""
        request = BuildHistoryRequest(active_only=True, early_exit=True)
        try:
            with self.connection.called(_SERVICE + "ListenBuildHistory", request) as stream:
                events = [decode(BuildHistoryEvent, message) for message in stream]
        except RpcError as error:
            if error.code != Code.UNIMPLEMENTED:
                raise
            return 0
        return sum(one.record is not None and one.record.completed_at is None for one in events)

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
