"""The Dockerfile language: text to typed instructions to stages. No I/O.

Read a file with `parse_dockerfile`, open the global scope with `open_scope`, get the stages that a
target needs from `stage_plan`, then walk each stage with `apply`, which expands one instruction and
returns the scope for the next.
"""

from shipline.dockerfile.check_rules import KnownImage
from shipline.dockerfile.checks import (
    DESCRIPTIONS,
    CheckOptions,
    LintWarning,
    check_options,
    enforce,
    lint,
    rule_url,
)
from shipline.dockerfile.history import (
    COMMENT,
    DEFAULT_SHELL,
    SCRIPT_DIRECTORY,
    command_line,
    default_shell,
    history_text,
    makes_layer,
    script_of,
    summary_of,
)
from shipline.dockerfile.ignore import IgnoreRules, Wildcard, has_wildcards
from shipline.dockerfile.instructions import (
    Add,
    Arg,
    ArgDefault,
    Cmd,
    Command,
    Copy,
    DeviceFlag,
    Entrypoint,
    Env,
    Expose,
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
    User,
    Volume,
    Workdir,
)
from shipline.dockerfile.mounts import Mount, MountType, Sharing
from shipline.dockerfile.outlines import Outline, OutlineMount, description, outline
from shipline.dockerfile.parser import detect_syntax
from shipline.dockerfile.paths import resolve_path, shown_path, system_path, working_directory
from shipline.dockerfile.plan import (
    SCRATCH,
    ContextSource,
    ImageSource,
    Source,
    StagePlan,
    StageSource,
    stage_plan,
)
from shipline.dockerfile.reading import parse_trigger
from shipline.dockerfile.scope import (
    DEFAULT_PATH,
    PROXY_NAMES,
    PlatformArgs,
    ScopedInstruction,
    VariableScope,
    apply,
    open_scope,
    proxy_variables,
)
from shipline.dockerfile.stages import Dockerfile, Stage, parse_dockerfile, resolve_target
from shipline.dockerfile.text import nearest
from shipline.dockerfile.values import exposed_ports
from shipline.dockerfile.words import process_word
