"""What can go wrong, as a tree of exceptions.

    ShiplineError
    ├── UsageError          2   the command line asks for something that cannot be
    ├── ConfigError         3   a configuration file is wrong
    ├── DockerfileError     4   a Dockerfile is wrong; carries the place
    ├── StepFailed          5   a step of the build ended with a non-zero status
    ├── RegistryError       6   a registry refused, or could not be reached
    ├── AuthError           7   credentials are missing, wrong or not sufficient
    ├── ContentError        8   bytes are missing or are not what their digest says
    │   ├── DigestMismatch
    │   ├── DamagedContent      of our own: it was removed, the same work can be done again
    │   └── NotFound
    ├── GateRefused         9   a quality gate said no
    ├── SandboxError       10   this machine cannot run the step
    ├── GateUndecided      11   a quality gate could not tell
    └── GitError           12   git is missing, refused, or the repository cannot be used (git/)

    Cancelled             130   the work was interrupted

The number is the exit code of the command line. `Cancelled` is no failure of the work, and nothing
may take it for one: like KeyboardInterrupt it is a BaseException, which `except Exception` lets
through. Any other exception is a bug and exits 1 with a traceback. `retriable` is what decides
about another attempt, never the type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a text file: lines and columns count from 1; `end` is the last line.

    `text` is its first line, `source` the whole file where it is known.
    """

    file: str
    line: int
    end: int
    column: int = 1
    text: str = ""
    source: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column > 1 else "")


class ShiplineError(Exception):
    """A failure with a message for a person: what was wrong with what, and how to fix it.

    `code` is stable and machine readable, `title` is the family for people, `exit_code` the status
    of the command line, `hint` says what to do, `retriable` is true when the same call may succeed
    later. `span` is the place in a file that asked for what failed, `platform` the one it was for.
    """

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    span: Span | None = None
    platform: str = ""

    def __init__(self, message: str, *, hint: str = "", retriable: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retriable = retriable


class UsageError(ShiplineError):
    """The request contradicts itself or names something that does not exist."""

    code = "usage"
    title = "usage error"
    exit_code = 2


class ConfigError(ShiplineError):
    """A configuration file cannot be used."""

    code = "config"
    title = "configuration error"
    exit_code = 3


class DockerfileError(ShiplineError):
    """A Dockerfile cannot be built; `span` is the place, with the line's text."""

    code = "dockerfile"
    title = "Dockerfile error"
    exit_code = 4

    def __init__(
        self, message: str, *, span: Span | None = None, hint: str = "", platform: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.span = span
        self.platform = platform


class StepFailed(ShiplineError):
    """A command of the build ended with `status`; `log` holds its last lines."""

    code = "step"
    title = "step failed"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        status: int,
        span: Span | None = None,
        platform: str = "",
        log: tuple[str, ...] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.span = span
        self.platform = platform
        self.log = log


class RegistryError(ShiplineError):
    """A registry refused a request or could not be reached.

    `host` is the registry, `status` the HTTP status or 0 where there was no answer, `diagnostics`
    the error codes of the body (distribution specification, "Error Codes").
    """

    code = "registry"
    title = "registry error"
    exit_code = 6

    def __init__(
        self,
        message: str,
        *,
        host: str,
        status: int = 0,
        diagnostics: tuple[str, ...] = (),
        hint: str = "",
        retriable: bool = False,
    ) -> None:
        super().__init__(message, hint=hint, retriable=retriable)
        self.host = host
        self.status = status
        self.diagnostics = diagnostics


class AuthError(ShiplineError):
    """Credentials are missing, were refused, or do not allow the action on `host`."""

    code = "auth"
    title = "authentication error"
    exit_code = 7

    def __init__(self, message: str, *, host: str, status: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.host = host
        self.status = status


class ContentError(ShiplineError):
    """Bytes addressed by digest are unusable."""

    code = "content"
    title = "content error"
    exit_code = 8


class DigestMismatch(ContentError):
    """The bytes are not those that `expected` names; `where` tells which end sent them."""

    code = "digest-mismatch"

    def __init__(self, *, expected: str, got: str, where: str, hint: str = "") -> None:
        super().__init__(f"{where}: expected {expected}, got {got}", hint=hint)
        self.expected = expected
        self.got = got
        self.where = where


class DamagedContent(ContentError):
    """A file of ours was not what it had to be, and is gone: the same work makes it again."""

    code = "damaged-content"


class NotFound(ContentError):
    """Nothing is stored under this digest or name."""

    code = "not-found"


class GateRefused(ShiplineError):
    """A quality gate refused the release; `verdicts` are the reasons, one line each."""

    code = "gate"
    title = "refused by policy"
    exit_code = 9

    def __init__(self, message: str, *, verdicts: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.verdicts = verdicts


class GateUndecided(ShiplineError):
    """No gate refused, but at least one could not tell; `verdicts` are the reasons, a line each."""

    code = "gate-undecided"
    title = "a gate could not tell"
    exit_code = 11

    def __init__(self, message: str, *, verdicts: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.verdicts = verdicts


class SandboxError(ShiplineError):
    """This machine lacks what running a step needs."""

    code = "sandbox"
    title = "sandbox error"
    exit_code = 10


class Cancelled(BaseException):
    """The surrounding work was interrupted, by a person or by the failure of a sibling."""

    code: ClassVar[str] = "cancelled"
    exit_code: ClassVar[int] = 130

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message)
        self.message = message
