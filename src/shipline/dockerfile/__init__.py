"""The Dockerfile language: text to typed instructions to stages. No I/O.

Read a file with `parse_dockerfile`, open the global scope with `open_scope`, ask `stage_plan` what
a target needs, then walk each stage with `apply`, which expands one instruction and gives the
scope for the next.
"""

from shipline.dockerfile.checks import DESCRIPTIONS, CheckOptions, rule_url
from shipline.dockerfile.directives import Directives, detect_syntax
from shipline.dockerfile.history import (
    COMMENT,
    DEFAULT_SHELL,
    SCRIPT_DIRECTORY,
    WINDOWS_SHELL,
    command_line,
    history_text,
    makes_layer,
    resolve_path,
    script_of,
)
from shipline.dockerfile.ignore import UNMATCHED, IgnoreRules, Match, Pattern
from shipline.dockerfile.instructions import (
    Add,
    Arg,
    ArgDefault,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    HealthCheck,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Pair,
    Run,
    Shell,
    StopSignal,
    Transfer,
    User,
    Volume,
    Workdir,
)
from shipline.dockerfile.lint import LintWarning, check_options, enforce, lint, lint_base_platform
from shipline.dockerfile.mounts import Mount, MountFlag, MountType, Sharing, resolve_mount
from shipline.dockerfile.parser import ParseWarning
from shipline.dockerfile.plan import (
    SCRATCH,
    ContextSource,
    ImageSource,
    Source,
    StagePlan,
    StageSource,
    stage_plan,
)
from shipline.dockerfile.ports import exposed_ports
from shipline.dockerfile.predefined import PlatformArgs, proxy_variables
from shipline.dockerfile.reading import parse_trigger
from shipline.dockerfile.scope import (
    DEFAULT_PATH,
    Base,
    GlobalScope,
    Scope,
    Step,
    apply,
    open_scope,
)
from shipline.dockerfile.stages import Dockerfile, Stage, parse_dockerfile, resolve_target
from shipline.dockerfile.suggest import nearest
from shipline.dockerfile.wildcards import Wildcard, has_wildcards, split_wildcards
from shipline.dockerfile.words import Expansion, process_word

__all__ = [
    "COMMENT",
    "DEFAULT_PATH",
    "DEFAULT_SHELL",
    "DESCRIPTIONS",
    "SCRATCH",
    "SCRIPT_DIRECTORY",
    "UNMATCHED",
    "WINDOWS_SHELL",
    "Add",
    "Arg",
    "ArgDefault",
    "Base",
    "CheckOptions",
    "Cmd",
    "Command",
    "ContextSource",
    "Copy",
    "Directives",
    "Dockerfile",
    "Entrypoint",
    "Env",
    "Expansion",
    "Expose",
    "From",
    "GlobalScope",
    "HealthCheck",
    "IgnoreRules",
    "ImageSource",
    "InlineFile",
    "Instruction",
    "Label",
    "LintWarning",
    "Maintainer",
    "Match",
    "Mount",
    "MountFlag",
    "MountType",
    "OnBuild",
    "Pair",
    "ParseWarning",
    "Pattern",
    "PlatformArgs",
    "Run",
    "Scope",
    "Sharing",
    "Shell",
    "Source",
    "Stage",
    "StagePlan",
    "StageSource",
    "Step",
    "StopSignal",
    "Transfer",
    "User",
    "Volume",
    "Wildcard",
    "Workdir",
    "apply",
    "check_options",
    "command_line",
    "detect_syntax",
    "enforce",
    "exposed_ports",
    "has_wildcards",
    "history_text",
    "lint",
    "lint_base_platform",
    "makes_layer",
    "nearest",
    "open_scope",
    "parse_dockerfile",
    "parse_trigger",
    "process_word",
    "proxy_variables",
    "resolve_mount",
    "resolve_path",
    "resolve_target",
    "rule_url",
    "script_of",
    "split_wildcards",
    "stage_plan",
]
