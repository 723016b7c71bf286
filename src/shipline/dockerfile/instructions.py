"""The instructions of a Dockerfile as typed values, unexpanded.

Source: Dockerfile reference. Durations are nanoseconds, as in the image configuration.
"""

from __future__ import annotations

from msgspec import Struct

from shipline.dockerfile.mounts import MountFlag
from shipline.errors import Span


class Instruction(Struct, frozen=True, kw_only=True):
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


class Command(Struct, frozen=True):
    """A command: one text for the shell (`shell_form`), or the words of the exec form."""

    words: tuple[str, ...]
    shell_form: bool


class InlineFile(Struct, frozen=True):
    """A here-document.

    For COPY and ADD, `content` is final except for variables, which are expanded if `expand`. For
    RUN, `content` is as in the file; `chomp` removes leading tabs.
    """

    name: str
    content: str
    expand: bool
    chomp: bool


class Pair(Struct, frozen=True):
    """A key with its value; `legacy` is the form without `=`."""

    key: str
    value: str
    legacy: bool = False


class ArgDefault(Struct, frozen=True):
    """A build argument; `default` is None if it has none, unlike an empty one."""

    name: str
    default: str | None


class From(Instruction, frozen=True, kw_only=True):
    """FROM: `alias` is the stage's name as written, `as_keyword` is AS as written, or empty."""

    image: str
    platform: str = ""
    alias: str = ""
    as_keyword: str = ""


class DeviceFlag(Struct, frozen=True):
    """A device of RUN: `VENDOR/CLASS=NAME` (CDI) or an alias; without it the step runs unless
    `required`.
    """

    name: str
    required: bool = False


class Run(Instruction, frozen=True, kw_only=True):
    """RUN; `network` is default, none or host, `security` sandbox or insecure."""

    command: Command
    files: tuple[InlineFile, ...] = ()
    mount_flags: tuple[MountFlag, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[DeviceFlag, ...] = ()


class Transfer(Instruction, frozen=True, kw_only=True):
    """What COPY and ADD share; `files` follow the `sources`, `excludes` are ignore patterns."""

    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()


class Copy(Transfer, frozen=True, kw_only=True):
    """COPY; `origin` is `--from`: a stage, its index, an image or a named context."""

    origin: str = ""
    parents: bool = False


class Add(Transfer, frozen=True, kw_only=True):
    """ADD; None means the flag was not given: `unpack` then depends on the source."""

    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None


class Env(Instruction, frozen=True, kw_only=True):
    """ENV"""

    pairs: tuple[Pair, ...]


class Label(Instruction, frozen=True, kw_only=True):
    """LABEL"""

    pairs: tuple[Pair, ...]


class Arg(Instruction, frozen=True, kw_only=True):
    """ARG; after expansion the defaults are the values in effect."""

    args: tuple[ArgDefault, ...]


class Workdir(Instruction, frozen=True, kw_only=True):
    """WORKDIR"""

    path: str


class User(Instruction, frozen=True, kw_only=True):
    """USER: a name or number, with an optional group after `:`"""

    user: str


class Cmd(Instruction, frozen=True, kw_only=True):
    """CMD"""

    command: Command


class Entrypoint(Instruction, frozen=True, kw_only=True):
    """ENTRYPOINT"""

    command: Command


class Shell(Instruction, frozen=True, kw_only=True):
    """SHELL"""

    shell: tuple[str, ...]


class Expose(Instruction, frozen=True, kw_only=True):
    """EXPOSE; after expansion each port is a number with its protocol."""

    ports: tuple[str, ...]


class Volume(Instruction, frozen=True, kw_only=True):
    """VOLUME"""

    paths: tuple[str, ...]


class StopSignal(Instruction, frozen=True, kw_only=True):
    """STOPSIGNAL"""

    signal: str


class HealthCheck(Instruction, frozen=True, kw_only=True):
    """HEALTHCHECK; `test` as in the image configuration, zero where nothing was given."""

    test: tuple[str, ...]
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class OnBuild(Instruction, frozen=True, kw_only=True):
    """ONBUILD; `expression` goes into the image configuration, heredocs included. It is read where
    it is used: most of what can be wrong with it is not an error before.
    """

    expression: str


class Maintainer(Instruction, frozen=True, kw_only=True):
    """MAINTAINER, deprecated; `author` goes into the image configuration."""

    author: str
