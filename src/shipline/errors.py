"""What can go wrong, as a tree of exceptions.

    ShiplineError
    ├── UsageError          2   the command line asks for something impossible
    │   ├── InvalidFlag         a flag has a value that it does not take
    │   ├── FlagConflict        flags contradict each other
    │   └── MissingFlag         a flag, an argument or a part of one is missing
    ├── ConfigError         3   a configuration file is wrong
    ├── DockerfileError     4   a Dockerfile is wrong; carries the position
    ├── StepFailed          5   a build step exited with a non-zero status
    ├── RegistryError       6   a registry refused, or could not be reached
    ├── AuthError           7   credentials are missing, wrong or insufficient
    ├── ContentError        8   bytes are missing or do not match their digest
    │   ├── DigestMismatch
    │   ├── DamagedContent      in our own store: removed, so that a retry recreates it
    │   ├── InvalidArchive      a tar, or an archive of images
    │   └── NotFound
    ├── GateError               quality gates did not pass; carries the reasons
    │   ├── GateRefused     9   one failed
    │   └── GateUndecided  11   one could not decide
    ├── SandboxError       10   this machine cannot run the step
    ├── GitError           12   git is missing or failed, or the repository is unusable (git/)
    ├── EngineError        13   the container engine of --load is missing or refuses (engines/)
    ├── BuilderError       14   a builder cannot be reached, or refuses
    ├── RegionsDiffer      15   a region does not have what the primary registry has (ship/)
    ├── MirrorDiffers      15   a mirror does not have what its source has (regions/)
    ├── Waiting            16   an environment waits for an approval, or for its time
    └── NotVerified        17   an environment is not healthy, or a check of it failed (deliver/)

    Cancelled             130   the work was interrupted

The number is the exit code of the command line. `Cancelled` is not a failure: like
KeyboardInterrupt it is a BaseException, which `except Exception` lets through. Any other exception
is a bug and exits 1 with a traceback. Retries depend on `retriable`, never on the type.

`code` is finer: it names one cause that a person can cure, in kebab case, and `shipline explain
CODE` tells how (cli/explanations.txt). A class with one cause has its code; others take `code=`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import ClassVar

from msgspec import Struct


class Span(Struct, frozen=True):
    """A range in a text file: lines and columns count from 1; `end` is the last line.

    `text` is its first line, `source` the whole file if known.
    """

    file: str
    line: int
    end: int
    column: int = 1
    text: str = ""
    source: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (f":{self.column}" if self.column > 1 else "")


class ShiplineError(Exception):
    """A failure with a message for the user: what went wrong, and how to fix it.

    `code` names the cause, stable and machine readable; `title` names the kind for people,
    `exit_code` is that of the command line, `hint` says what to do, `retriable` is true if the same
    call may succeed later. `span` is the position in a file that caused the failure, `platform` its
    target platform. `run` and `trace` are the identifiers of the run that failed, if it is kept.
    `others` failed beside it, before they could be stopped.
    """

    code: str = "error"
    title: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    span: Span | None = None
    platform: str = ""
    part: str = ""
    run: str = ""
    trace: str = ""
    others: tuple[ShiplineError, ...] = ()

    def __init__(
        self, message: str, *, code: str = "", hint: str = "", retriable: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.hint = hint
        self.retriable = retriable

    def add_other(self, other: ShiplineError) -> None:
        """Add what failed beside it, and what failed beside that; the same failure is kept once."""
        known = {(one.platform, one.message) for one in (self, *self.others)}
        for one in (other, *other.others):
            if one.__cause__ is not self and (one.platform, one.message) not in known:
                self.others += (one,)
                known.add((one.platform, one.message))

    def name_part(self, part: str) -> None:
        """Begin the message with the part of the request that it is about, unless it has one."""
        if not self.part:
            self.part, self.message = part, f"{part}: {self.message}"
            self.args = (self.message, *self.args[1:])


class UsageError(ShiplineError):
    """The request contradicts itself or names something that does not exist."""

    code = "usage"
    title = "usage error"
    exit_code = 2


class InvalidFlag(UsageError):
    """A flag has a value that it does not take."""

    code = "flag-value"


class FlagConflict(UsageError):
    """Flags contradict each other, or one is given twice."""

    code = "flag-conflict"


class MissingFlag(UsageError):
    """A flag, an argument or a part of one is missing."""

    code = "flag-missing"


class ConfigError(ShiplineError):
    """A configuration file cannot be used."""

    code = "config-invalid"
    title = "configuration error"
    exit_code = 3


class DockerfileError(ShiplineError):
    """A Dockerfile cannot be built; `span` is the position, with the text of the line."""

    code = "dockerfile-syntax"
    title = "Dockerfile error"
    exit_code = 4

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        span: Span | None = None,
        hint: str = "",
        platform: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.span = span
        self.platform = platform


@contextmanager
def located(
    span: Span | None, *, prefix: str = "", hint: str = "", platform: str = ""
) -> Iterator[None]:
    """Adds span and `hint`, if it has none, and `prefix` to a DockerfileError of the block; makes
    one of a UsageError, for `platform`.
    """
    try:
        yield
    except (DockerfileError, UsageError) as error:
        if error.span is not None:
            raise
        raise DockerfileError(
            prefix + error.message,
            code=error.code,
            span=span,
            hint=error.hint or hint,
            platform=platform if isinstance(error, UsageError) else error.platform,
        ) from error


class StepFailed(ShiplineError):
    """A command of the build exited with `status`; `log` holds its last lines."""

    code = "step"
    title = "step failed"
    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str = "",
        span: Span | None = None,
        platform: str = "",
        log: tuple[str, ...] = (),
        hint: str = "",
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.status = status
        self.span = span
        self.platform = platform
        self.log = log


class RegistryError(ShiplineError):
    """A registry refused a request or could not be reached.

    `host` is the registry, `status` the HTTP status or 0 without a response, `diagnostics` the
    error codes of the body (distribution specification, "Error Codes"), `retry_after_s` its
    Retry-After, None without one.
    """

    code = "registry"
    title = "registry error"
    exit_code = 6
    retry_after_s: float | None = None

    def __init__(
        self,
        message: str,
        *,
        host: str,
        code: str = "",
        status: int = 0,
        diagnostics: tuple[str, ...] = (),
        hint: str = "",
        retriable: bool = False,
    ) -> None:
        super().__init__(message, code=code, hint=hint, retriable=retriable)
        self.host = host
        self.status = status
        self.diagnostics = diagnostics


class AuthError(ShiplineError):
    """Credentials are missing, were refused, or do not allow the action on `host`."""

    code = "auth"
    title = "authentication error"
    exit_code = 7

    def __init__(
        self, message: str, *, host: str, code: str = "", status: int = 0, hint: str = ""
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.host = host
        self.status = status


class ContentError(ShiplineError):
    """Content addressed by digest is unusable."""

    code = "content"
    title = "content error"
    exit_code = 8


class DigestMismatch(ContentError):
    """The bytes do not match `expected`; `where` names their source."""

    code = "digest-mismatch"

    def __init__(self, *, expected: str, got: str, where: str, hint: str = "") -> None:
        super().__init__(f"{where}: expected {expected}, got {got}", hint=hint)
        self.expected = expected
        self.got = got
        self.where = where


class DamagedContent(ContentError):
    """A damaged file of our own store was removed; the same work recreates it."""

    code = "damaged-content"


class InvalidArchive(ContentError):
    """A tar file, or an archive of images, is malformed, hostile or truncated."""

    code = "archive-invalid"


class NotFound(ContentError):
    """Nothing is stored under this digest or name."""

    code = "not-found"


class GateError(ShiplineError):
    """Quality gates did not pass; `verdicts` lists the reasons, one line each."""

    def __init__(
        self, message: str, *, code: str = "", verdicts: tuple[str, ...] = (), hint: str = ""
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.verdicts = verdicts


class GateRefused(GateError):
    """A quality gate refused the release."""

    code = "gate"
    title = "refused by policy"
    exit_code = 9


class GateUndecided(GateError):
    """No gate failed, but at least one could not decide."""

    code = "gate-undecided"
    title = "a gate could not decide"
    exit_code = 11


class BuilderError(ShiplineError):
    """A builder cannot be reached, or refuses."""

    code = "builder"
    title = "builder error"
    exit_code = 14


class Waiting(ShiplineError):
    """Nothing is wrong: what was asked for waits for people, or for its time."""

    code = "waiting"
    title = "waiting"
    exit_code = 16


class SandboxError(ShiplineError):
    """This machine lacks something that running a step needs."""

    code = "sandbox"
    title = "sandbox error"
    exit_code = 10


class Cancelled(BaseException):
    """The work was interrupted, by the user or by the failure of a sibling task."""

    code: ClassVar[str] = "cancelled"
    exit_code: ClassVar[int] = 130

    def __init__(self, message: str = "interrupted") -> None:
        super().__init__(message)
        self.message = message


def closest(word: str, known: Iterable[str]) -> str:
    """The one of `known` that `word` may have been meant to be, for a hint; empty if none is like
    it.
    """
    from difflib import get_close_matches  # only needed for mistakes

    return next(iter(get_close_matches(word, known, 1)), "")
