"""The daemon of BuildKit: what it is, its disk, and building (api/services/control)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

from shipline.buildkit.grpc import Code, Connection, RpcError, Stream
from shipline.buildkit.messages import (
    DiskUsageRequest,
    DiskUsageResponse,
    Empty,
    InfoResponse,
    ListWorkersResponse,
    PruneRequest,
    SolveRequest,
    SolveResponse,
    StatusRequest,
    StatusResponse,
    UsageRecord,
    WorkerRecord,
)
from shipline.buildkit.protobuf import M, decode, encode

_SERVICE = "/moby.buildkit.v1.Control/"


class Control:
    """Calls of a daemon; each raises RpcError."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def version(self) -> str:
        """The version of the daemon, as it names it; Debian's says v0.0.0+unknown."""
        answer = self._ask("Info", Empty(), InfoResponse)
        return answer.version.version if answer.version else ""

    def workers(self) -> list[WorkerRecord]:
        return self._ask("ListWorkers", Empty(), ListWorkersResponse).record

    def disk_usage(self, filters: list[str]) -> list[UsageRecord]:
        """The entries of its disk that match one of `filters`, in containerd's syntax."""
        return self._ask("DiskUsage", DiskUsageRequest(filters), DiskUsageResponse).record

    def prune(self, request: PruneRequest) -> Iterator[UsageRecord]:
        """Delete entries; each one as it is deleted."""
        with self._called("Prune", request) as stream:
            for message in stream:
                yield decode(UsageRecord, message)

    def solve(self, request: SolveRequest) -> dict[str, str]:
        """Build; what the exporters say of their results. Giving up ends the build, too."""
        return self._ask("Solve", request, SolveResponse).exporter_response

    def status(self, ref: str) -> Iterator[StatusResponse]:
        """What happens in the build `ref`, until it ends."""
        with self._called("Status", StatusRequest(ref)) as stream:
            for message in stream:
                yield decode(StatusResponse, message)

    def _ask(self, method: str, request: Struct, cls: type[M]) -> M:
        with self._called(method, request) as stream:
            answer = stream.receive()
            if answer is None or stream.receive() is not None:
                raise RpcError(Code.INTERNAL, f"{method} has not one answer")
            return decode(cls, answer)

    @contextmanager
    def _called(self, method: str, request: Struct) -> Iterator[Stream]:
        stream = self.connection.call(_SERVICE + method, {})
        try:
            stream.send(encode(request))
            stream.end()
            yield stream
        except BaseException:
            stream.cancel()
            raise
