"""The instructions of a Dockerfile as typed values, unexpanded.

Source: Dockerfile reference. Durations are nanoseconds, as in the image configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

from shipline.dockerfile.mounts import MountFlag
from shipline.errors import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """The common fields of instructions.

    `source` is the logical line, `keyword` its first word in the letter case of the file,
    `comments` the comment lines directly above it.
    """

    span: Span
    source: str
    keyword: str
    comments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The keyword in upper case."""
        return self.keyword.upper()


@dataclass(frozen=True, slots=True)
class Command:
    """A command: one text for the shell (`shell_form`), or the words of the exec form."""

    words: tuple[str, ...]
    shell_form: bool


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A here-document.

    For COPY and ADD, `content` is final except for variables, which are expanded if `expand`. For
    RUN, `content` is as in the file; `chomp` removes leading tabs.
    """

    name: str
    content: str
    expand: bool
    chomp: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """A key with its value; `legacy` is the form without `=`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ArgDefault:
    """A build argument; `default` is None if it has none, unlike an empty one."""

    name: str
    default: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class From(Instruction):
    """FROM: `alias` is the stage's name as written, `as_keyword` is AS as written, or empty."""

    image: str
    platform: str = ""
    alias: str = ""
    as_keyword: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Instruction):
    """RUN; `network` is default, none or host, `security` sandbox or insecure."""

    command: Command
    files: tuple[InlineFile, ...] = ()
    mount_flags: tuple[MountFlag, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Instruction):
    """What COPY and ADD share; `files` follow the `sources`, `excludes` are ignore patterns."""

    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy(Transfer):
    """COPY; `origin` is `--from`: a stage, its index, an image or a named context."""

    origin: str = ""
    parents: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add(Transfer):
    """ADD; None means the flag was not given: `unpack` then depends on the source."""

    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Env(Instruction):
    """ENV"""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Label(Instruction):
    """LABEL"""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg(Instruction):
    """ARG; after expansion the defaults are the values in effect."""

    args: tuple[ArgDefault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workdir(Instruction):
    """WORKDIR"""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Instruction):
    """USER: a name or number, with an optional group after `:`"""

    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cmd(Instruction):
    """CMD"""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrypoint(Instruction):
    """ENTRYPOINT"""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell(Instruction):
    """SHELL"""

    shell: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expose(Instruction):
    """EXPOSE; after expansion each port is a number with its protocol."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume(Instruction):
    """VOLUME"""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSignal(Instruction):
    """STOPSIGNAL"""

    signal: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck(Instruction):
    """HEALTHCHECK; `test` as in the image configuration, zero where nothing was given."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBuild(Instruction):
    """ONBUILD; `expression` goes into the image configuration, heredocs included. It is read where
    it is used: most of what can be wrong with it is no error before.
    """

    expression: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintainer(Instruction):
    """MAINTAINER, deprecated; `author` goes into the image configuration."""

    author: str
