"""The build engine: from a request to images.

The request is cheap to import, for the command line; the engine is loaded when it is first named.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shipline.build import annotating, flags, outputs, values
from shipline.build.refusals import check_request
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

if TYPE_CHECKING:
    from shipline.build.build import BuildResult, CheckResult, Settings, build, check

__all__ = [
    "Annotation",
    "Attestation",
    "BuildRequest",
    "BuildResult",
    "CacheBackend",
    "CacheOptions",
    "Call",
    "CheckResult",
    "Context",
    "ContextKind",
    "Host",
    "Level",
    "Output",
    "Resources",
    "RunOptions",
    "Secret",
    "Settings",
    "Ssh",
    "Ulimit",
    "annotating",
    "build",
    "check",
    "check_request",
    "flags",
    "outputs",
    "values",
]


_ENGINE = ("BuildResult", "CheckResult", "Settings", "build", "check")


def __getattr__(name: str) -> Any:
    if name not in _ENGINE:
        raise AttributeError(name)
    engine = importlib.import_module("shipline.build.build")
    # importing a module binds its name in the package: here the function must win over it
    globals().update({one: getattr(engine, one) for one in _ENGINE})
    return globals()[name]
