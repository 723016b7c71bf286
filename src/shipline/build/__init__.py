"""The build engine: from a request to images."""

from shipline.build import flags, outputs, values
from shipline.build.request import (
    Annotation,
    Attestation,
    BuildRequest,
    CacheBackend,
    CacheOptions,
    Call,
    Context,
    ContextKind,
    Host,
    Level,
    Output,
    Resources,
    RunOptions,
    Secret,
    Ssh,
    Ulimit,
)

__all__ = [
    "Annotation",
    "Attestation",
    "BuildRequest",
    "CacheBackend",
    "CacheOptions",
    "Call",
    "Context",
    "ContextKind",
    "Host",
    "Level",
    "Output",
    "Resources",
    "RunOptions",
    "Secret",
    "Ssh",
    "Ulimit",
    "flags",
    "outputs",
    "values",
]
