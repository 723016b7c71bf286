"""The build engine: from a request to images.

The request and its flags are cheap to import, for the command line; the engine is loaded when it is
first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shipline.build.attributes import parse_attributes, parse_boolean, parse_size, split_csv
from shipline.build.flags import (
    check_url,
    parse_call,
    parse_platforms,
    parse_request,
    parse_ssh,
    parse_ulimit,
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
from shipline.build.result_flags import parse_annotation, parse_tags
from shipline.build.validation import check_request
from shipline.lazy import load_when_named

if TYPE_CHECKING:
    from shipline.build.checks import CheckResult, call
    from shipline.build.contexts import fetched
    from shipline.build.engine import build, build_targets
    from shipline.build.remotes import CONTEXT_FILE
    from shipline.build.settings import Settings
    from shipline.build.target import BuildResult
else:
    __getattr__ = load_when_named(
        __name__,
        checks="CheckResult call",
        contexts="fetched",
        engine="build build_targets",
        remotes="CONTEXT_FILE",
        settings="Settings",
        target="BuildResult",
    )
