"""The build engine: from a request to images.

The request and its flags are cheap to import, for the command line; the engine is loaded when it is
first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shipline.build.flags import (
    parse_annotation,
    parse_boolean,
    parse_platforms,
    parse_request,
    parse_tags,
)
from shipline.build.request import (
    Annotation,
    BuildRequest,
    CacheBackend,
    CacheOptions,
    CacheTarget,
    Call,
    Context,
    ContextKind,
    Host,
    Level,
    Output,
    OutputFormat,
    ProvenanceOptions,
    RunOptions,
    SbomOptions,
    Secret,
    Ssh,
    insecure_hosts,
)
from shipline.build.validation import check_request

if TYPE_CHECKING:
    from shipline.build.checks import CheckResult, call
    from shipline.build.engine import BuildResult, build
    from shipline.build.settings import Settings

__all__ = [
    "Annotation",
    "BuildRequest",
    "BuildResult",
    "CacheBackend",
    "CacheOptions",
    "CacheTarget",
    "Call",
    "CheckResult",
    "Context",
    "ContextKind",
    "Host",
    "Level",
    "Output",
    "OutputFormat",
    "ProvenanceOptions",
    "RunOptions",
    "SbomOptions",
    "Secret",
    "Settings",
    "Ssh",
    "build",
    "call",
    "check_request",
    "insecure_hosts",
    "parse_annotation",
    "parse_boolean",
    "parse_platforms",
    "parse_request",
    "parse_tags",
]

_LOADED_WHEN_NAMED = {
    "BuildResult": "engine",
    "CheckResult": "checks",
    "Settings": "settings",
    "build": "engine",
    "call": "checks",
}


def __getattr__(name: str) -> Any:
    if module := _LOADED_WHEN_NAMED.get(name):
        return getattr(import_module(f"shipline.build.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
