"""The messages of BuildKit's API, with the numbers of their fields.

Sources: moby/buildkit, api/services/control/control.proto, session/{auth,secrets,sshforward,upload,
filesync}, solver/pb; tonistiigi/fsutil, types. Fields that are not used here are left out.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct, field


class Empty(Struct):
    pass


class Data(Struct):
    """A part of a stream of bytes, as in several services."""

    data: Annotated[bytes, 1] = b""


class Timestamp(Struct):
    seconds: Annotated[int, 1] = 0
    nanos: Annotated[int, 2] = 0

    @property
    def unix(self) -> float:
        """Seconds since 1970."""
        return self.seconds + self.nanos / 1e9


class Any(Struct):
    """google.protobuf.Any."""

    type_url: Annotated[str, 1] = ""
    value: Annotated[bytes, 2] = b""


class Status(Struct):
    """google.rpc.Status: the details of an error."""

    code: Annotated[int, 1] = 0
    message: Annotated[str, 2] = ""
    details: Annotated[list[Any], 3] = field(default_factory=list)


class BuildkitVersion(Struct):
    package: Annotated[str, 1] = ""
    version: Annotated[str, 2] = ""
    revision: Annotated[str, 3] = ""


class InfoResponse(Struct):
    version: Annotated[BuildkitVersion | None, 1] = None


class PlatformSpec(Struct):
    architecture: Annotated[str, 1] = ""
    os: Annotated[str, 2] = ""
    variant: Annotated[str, 3] = ""
    os_version: Annotated[str, 4] = ""


class GcRule(Struct):
    """When the disk of a worker is freed; sizes are bytes, `keep_duration` is in nanoseconds."""

    all: Annotated[bool, 1] = False
    keep_duration: Annotated[int, 2] = 0
    reserved_space: Annotated[int, 3] = 0
    filters: Annotated[list[str], 4] = field(default_factory=list)
    max_used_space: Annotated[int, 5] = 0
    min_free_space: Annotated[int, 6] = 0


class CdiDevice(Struct):
    name: Annotated[str, 1] = ""
    auto_allow: Annotated[bool, 2] = False
    annotations: Annotated[dict[str, str], 3] = field(default_factory=dict)
    on_demand: Annotated[bool, 4] = False


class WorkerRecord(Struct):
    id: Annotated[str, 1] = ""
    labels: Annotated[dict[str, str], 2] = field(default_factory=dict)
    platforms: Annotated[list[PlatformSpec], 3] = field(default_factory=list)
    gc_policy: Annotated[list[GcRule], 4] = field(default_factory=list)
    version: Annotated[BuildkitVersion | None, 5] = None
    devices: Annotated[list[CdiDevice], 6] = field(default_factory=list)


class ListWorkersResponse(Struct):
    record: Annotated[list[WorkerRecord], 1] = field(default_factory=list)


class DiskUsageRequest(Struct):
    filter: Annotated[list[str], 1] = field(default_factory=list)


class UsageRecord(Struct):
    """An entry of a builder's disk; `size` is in bytes."""

    id: Annotated[str, 1] = ""
    mutable: Annotated[bool, 2] = False
    in_use: Annotated[bool, 3] = False
    size: Annotated[int, 4] = 0
    created_at: Annotated[Timestamp | None, 6] = None
    last_used_at: Annotated[Timestamp | None, 7] = None
    usage_count: Annotated[int, 8] = 0
    description: Annotated[str, 9] = ""
    record_type: Annotated[str, 10] = ""
    shared: Annotated[bool, 11] = False
    parents: Annotated[list[str], 12] = field(default_factory=list)


class DiskUsageResponse(Struct):
    record: Annotated[list[UsageRecord], 1] = field(default_factory=list)


class PruneRequest(Struct):
    """Sizes are in bytes, `keep_duration` in nanoseconds."""

    filter: Annotated[list[str], 1] = field(default_factory=list)
    all: Annotated[bool, 2] = False
    keep_duration: Annotated[int, 3] = 0
    reserved_space: Annotated[int, 4] = 0
    max_used_space: Annotated[int, 5] = 0
    min_free_space: Annotated[int, 6] = 0


class CacheOptionsEntry(Struct):
    type: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = field(default_factory=dict)


class CacheOptions(Struct):
    exports: Annotated[list[CacheOptionsEntry], 4] = field(default_factory=list)
    imports: Annotated[list[CacheOptionsEntry], 5] = field(default_factory=list)


class Exporter(Struct):
    type: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = field(default_factory=dict)


class PolicyConstraint(Struct):
    key: Annotated[str, 1] = ""
    value: Annotated[str, 2] = ""
    condition: Annotated[int, 3] = 0


class PolicySelector(Struct):
    identifier: Annotated[str, 1] = ""
    match_type: Annotated[int, 2] = 0
    constraints: Annotated[list[PolicyConstraint], 3] = field(default_factory=list)


class PolicyUpdate(Struct):
    identifier: Annotated[str, 1] = ""
    attrs: Annotated[dict[str, str], 2] = field(default_factory=dict)


class PolicyRule(Struct):
    action: Annotated[int, 1] = 0
    selector: Annotated[PolicySelector | None, 2] = None
    updates: Annotated[PolicyUpdate | None, 3] = None


class PolicyMessage(Struct):
    """Rules for what a build may read (sourcepolicy/pb/policy.proto); enumerations are numbers."""

    version: Annotated[int, 1] = 1
    rules: Annotated[list[PolicyRule], 2] = field(default_factory=list)


class SolveRequest(Struct):
    """A build. The first exporter is repeated in the fields that daemons before 0.13 read."""

    ref: Annotated[str, 1] = ""
    exporter_deprecated: Annotated[str, 3] = ""
    exporter_attrs_deprecated: Annotated[dict[str, str], 4] = field(default_factory=dict)
    session: Annotated[str, 5] = ""
    frontend: Annotated[str, 6] = ""
    frontend_attrs: Annotated[dict[str, str], 7] = field(default_factory=dict)
    cache: Annotated[CacheOptions | None, 8] = None
    entitlements: Annotated[list[str], 9] = field(default_factory=list)
    frontend_inputs: Annotated[dict[str, bytes], 10] = field(default_factory=dict)  # definitions
    source_policy: Annotated[PolicyMessage | None, 12] = None
    exporters: Annotated[list[Exporter], 13] = field(default_factory=list)


class SolveResponse(Struct):
    exporter_response: Annotated[dict[str, str], 1] = field(default_factory=dict)


class FrontendRequest(Struct):
    """What a frontend is to do inside of a build; definitions of inputs are encoded."""

    frontend: Annotated[str, 2] = ""
    options: Annotated[dict[str, str], 3] = field(default_factory=dict)
    returns_result: Annotated[bool, 5] = False
    returns_references: Annotated[bool, 6] = False
    inputs: Annotated[dict[str, bytes], 13] = field(default_factory=dict)
    evaluate: Annotated[bool, 14] = False


class FrontendResponse(Struct):
    """The encoded FrontendResult, which is returned to the daemon as it came."""

    result: Annotated[bytes, 3] = b""


class ResultReference(Struct):
    id: Annotated[str, 1] = ""
    definition: Annotated[bytes, 2] = b""


class ResultReferences(Struct):
    references: Annotated[dict[str, ResultReference], 1] = field(default_factory=dict)


class FrontendResult(Struct):
    """One reference, or one for each platform."""

    reference: Annotated[ResultReference | None, 3] = None
    references: Annotated[ResultReferences | None, 4] = None
    metadata: Annotated[dict[str, bytes], 10] = field(default_factory=dict)


class ReturnRequest(Struct):
    result: Annotated[bytes, 1] = b""
    error: Annotated[Status | None, 2] = None


class StatusRequest(Struct):
    ref: Annotated[str, 1] = ""


class BuildHistoryRequest(Struct):
    """Builds that run, or all that are known; with `early_exit` not those that begin later."""

    active_only: Annotated[bool, 1] = False
    ref: Annotated[str, 2] = ""
    early_exit: Annotated[bool, 3] = False


class HistoryDescriptor(Struct):
    media_type: Annotated[str, 1] = ""
    digest: Annotated[str, 2] = ""
    size: Annotated[int, 3] = 0
    annotations: Annotated[dict[str, str], 5] = field(default_factory=dict)


class BuildResultInfo(Struct):
    attestations: Annotated[list[HistoryDescriptor], 2] = field(default_factory=list)


class BuildHistoryRecord(Struct):
    ref: Annotated[str, 1] = ""
    frontend: Annotated[str, 2] = ""
    frontend_attrs: Annotated[dict[str, str], 3] = field(default_factory=dict)
    created_at: Annotated[Timestamp | None, 6] = None
    completed_at: Annotated[Timestamp | None, 7] = None
    result: Annotated[BuildResultInfo | None, 10] = None
    results: Annotated[dict[str, BuildResultInfo], 11] = field(default_factory=dict)


class BuildHistoryEvent(Struct):
    record: Annotated[BuildHistoryRecord | None, 2] = None


class Vertex(Struct):
    digest: Annotated[str, 1] = ""
    inputs: Annotated[list[str], 2] = field(default_factory=list)
    name: Annotated[str, 3] = ""
    cached: Annotated[bool, 4] = False
    started: Annotated[Timestamp | None, 5] = None
    completed: Annotated[Timestamp | None, 6] = None
    error: Annotated[str, 7] = ""


class VertexStatus(Struct):
    """A part of the work of a vertex, named by `id`."""

    id: Annotated[str, 1] = ""
    vertex: Annotated[str, 2] = ""
    name: Annotated[str, 3] = ""
    current: Annotated[int, 4] = 0
    total: Annotated[int, 5] = 0
    timestamp: Annotated[Timestamp | None, 6] = None
    started: Annotated[Timestamp | None, 7] = None
    completed: Annotated[Timestamp | None, 8] = None


class VertexLog(Struct):
    """Output of a command; `stream` is 1 for stdout, 2 for stderr."""

    vertex: Annotated[str, 1] = ""
    timestamp: Annotated[Timestamp | None, 2] = None
    stream: Annotated[int, 3] = 0
    msg: Annotated[bytes, 4] = b""


class SourceInfo(Struct):
    filename: Annotated[str, 1] = ""
    data: Annotated[bytes, 2] = b""
    language: Annotated[str, 4] = ""


class SourcePosition(Struct):
    line: Annotated[int, 1] = 0
    character: Annotated[int, 2] = 0


class SourceRange(Struct):
    start: Annotated[SourcePosition | None, 1] = None
    end: Annotated[SourcePosition | None, 2] = None


class VertexWarning(Struct):
    vertex: Annotated[str, 1] = ""
    level: Annotated[int, 2] = 0
    short: Annotated[bytes, 3] = b""
    detail: Annotated[list[bytes], 4] = field(default_factory=list)
    url: Annotated[str, 5] = ""
    info: Annotated[SourceInfo | None, 6] = None
    ranges: Annotated[list[SourceRange], 7] = field(default_factory=list)


class StatusResponse(Struct):
    vertexes: Annotated[list[Vertex], 1] = field(default_factory=list)
    statuses: Annotated[list[VertexStatus], 2] = field(default_factory=list)
    logs: Annotated[list[VertexLog], 3] = field(default_factory=list)
    warnings: Annotated[list[VertexWarning], 4] = field(default_factory=list)


class CredentialsRequest(Struct):
    host: Annotated[str, 1] = ""


class CredentialsResponse(Struct):
    username: Annotated[str, 1] = ""
    secret: Annotated[str, 2] = ""


class GetSecretRequest(Struct):
    id: Annotated[str, 1] = ""


class CheckAgentRequest(Struct):
    id: Annotated[str, 1] = ""


class Stat(Struct):
    """A file of a directory that is sent; `mode` has Go's bits, `mod_time` is in nanoseconds."""

    path: Annotated[str, 1] = ""
    mode: Annotated[int, 2] = 0
    uid: Annotated[int, 3] = 0
    gid: Annotated[int, 4] = 0
    size: Annotated[int, 5] = 0
    mod_time: Annotated[int, 6] = 0
    link_name: Annotated[str, 7] = ""
    device_major: Annotated[int, 8] = 0
    device_minor: Annotated[int, 9] = 0
    xattrs: Annotated[dict[str, bytes], 10] = field(default_factory=dict)


class Packet(Struct):
    """A message of the transfer of a directory; see filesync."""

    type: Annotated[int, 1] = 0
    stat: Annotated[Stat | None, 2] = None
    id: Annotated[int, 3] = 0
    data: Annotated[bytes, 4] = b""
