"""The build engine: from a request to images.

The request and its flags are cheap to import, for the command line; the engine is loaded when it is
first named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shipline.build.flags import (
    check_url,
    parse_annotation,
    parse_attributes,
    parse_boolean,
    parse_call,
    parse_platforms,
    parse_request,
    parse_size,
    parse_ssh,
    parse_tags,
    parse_ulimit,
    split_csv,
)
from shipline.build.request import (
    Annotation,
    BuildRequest,
    CacheBackend,
    CacheSettings,
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
    in_target,
    insecure_hosts,
    linked_targets,
)
from shipline.build.validation import check_request

if TYPE_CHECKING:
    from shipline.build.checks import CheckResult, call
    from shipline.build.contexts import fetched
    from shipline.build.engine import BuildResult, build, build_targets
    from shipline.build.remotes import CONTEXT_FILE
    from shipline.build.settings import Settings

__all__ = [
    "CONTEXT_FILE",
    "Annotation",
    "BuildRequest",
    "BuildResult",
    "CacheBackend",
    "CacheSettings",
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
    "build_targets",
    "call",
    "check_request",
    "check_url",
    "fetched",
    "in_target",
    "insecure_hosts",
    "linked_targets",
    "parse_annotation",
    "parse_attributes",
    "parse_boolean",
    "parse_call",
    "parse_platforms",
    "parse_request",
    "parse_size",
    "parse_ssh",
    "parse_tags",
    "parse_ulimit",
    "split_csv",
]

_LOADED_WHEN_NAMED = {
    "BuildResult": "engine",
    "CheckResult": "checks",
    "Settings": "settings",
    "CONTEXT_FILE": "remotes",
    "fetched": "contexts",
    "build": "engine",
    "build_targets": "engine",
    "call": "checks",
}


def __getattr__(name: str) -> Any:
    if module := _LOADED_WHEN_NAMED.get(name):
        return getattr(import_module(f"shipline.build.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
