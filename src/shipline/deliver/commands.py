"""Commands of a project: the variables that they get, their time limit, what is kept of their
output.
"""

from __future__ import annotations

import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from shipline.errors import ConfigError, StepFailed
from shipline.processes import run_process
from shipline.propagation import current

LAST_LINES = 30
_NOT_FOUND = 127  # sh(1), "Exit Status"
_LINE_KEPT = 1 << 16  # bytes of an unfinished line
_USUAL = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR"),
    *("TERM", "NO_COLOR", "FORCE_COLOR", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "XDG_*_HOME"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "SOURCE_DATE_EPOCH"),
    "BAGGAGE",
)
_SHORTEST_SECRET = 6  # characters
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?\Z")


def check_inside(key: str, paths: Iterable[str]) -> None:
    """Raises ConfigError for a path that leads out of the project."""
    for path in paths:
        if path.startswith("/") or ".." in path.split("/"):
            raise ConfigError(f"{key}: {path!r} is outside the project")


def check_variables(key: str, names: Iterable[str]) -> None:
    """Raises ConfigError for what is not a name of a variable, nor NAME_*."""
    for name in names:
        if not _VARIABLE.match(name):
            raise ConfigError(f"{key}: {name!r} is not the name of a variable")


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended. `log` has the last lines of its output, `timed_out` is whether it was
    stopped at its time limit.
    """

    status: int
    log: tuple[str, ...]
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.status == 0 and not self.timed_out


def environment(
    environ: Mapping[str, str], names: Sequence[str], more: Mapping[str, str]
) -> dict[str, str]:
    """The environment of a command: the usual variables, those that match `names`, the span that it
    works for, and `more`.
    """
    allowed = (*_USUAL, *names)
    kept = {
        name: value
        for name, value in environ.items()
        if any(fnmatchcase(name, pattern) for pattern in allowed)
    }
    span = current()
    return {**kept, **(span.environment if span else {}), **more}


def argv_of(run: str | Sequence[str]) -> tuple[str, ...]:
    """The arguments to run: a text is a script for `sh -e`."""
    return ("sh", "-ec", run) if isinstance(run, str) else tuple(run)


def run_command(
    argv: Sequence[str],
    *,
    directory: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    write: Callable[[bytes], object],
    hidden: Iterable[str] = (),
) -> CommandResult:
    """Run a command to its end; `write` gets its output and standard error, in order, with `***`
    for what is `hidden`.

    Raises StepFailed if it cannot be started, Cancelled.
    """
    if not directory.is_dir():
        raise StepFailed(
            f"the working directory {directory} does not exist", code="working-directory", status=1
        )
    require_program(argv[0], environ)
    tail: deque[bytes] = deque(maxlen=LAST_LINES + 1)
    mask = _Mask(hidden, lambda data: _take(data, tail, write))
    ended = run_process(
        argv, directory=directory, environ=environ, timeout_s=timeout_s, write=mask.write
    )
    mask.end()
    log = tuple(line.decode(errors="replace") for line in tail if line)[-LAST_LINES:]
    return CommandResult(ended.status, log, ended.timed_out)


def secrets_in(environ: Mapping[str, str], names: Sequence[str]) -> tuple[str, ...]:
    """The values of the variables that are passed on by name, which output must not show; short
    ones are words like `true`.
    """
    return tuple(
        value
        for name, value in environ.items()
        if len(value) >= _SHORTEST_SECRET and any(fnmatchcase(name, one) for one in names)
    )


class _Mask:
    """Writes output with `***` for secrets, also where one comes in two pieces."""

    def __init__(self, secrets: Iterable[str], write: Callable[[bytes], object]) -> None:
        self._secrets = sorted((one.encode() for one in secrets), key=len, reverse=True)
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)))
        self._write = write
        self._kept = b""

    def write(self, data: bytes) -> None:
        if not self._secrets:
            self._write(data)
            return
        text = self._pattern.sub(b"***", self._kept + data)
        keep = next(
            (
                size
                for size in range(min(len(text), len(self._secrets[0]) - 1), 0, -1)
                if any(one.startswith(text[-size:]) for one in self._secrets)
            ),
            0,
        )
        self._kept = text[len(text) - keep :]
        if shown := text[: len(text) - keep]:
            self._write(shown)

    def end(self) -> None:
        """Write what was kept back."""
        if self._kept:
            self._write(self._kept)


def _take(data: bytes, tail: deque[bytes], write: Callable[[bytes], object]) -> None:
    """Write output, and keep its last lines; the last one may be incomplete."""
    write(data)
    first, *others = data.split(b"\n")
    grown = (tail.pop() if tail else b"") + first
    tail.append(grown[-_LINE_KEPT:])
    tail.extend(others)


def require_program(name: str, environ: Mapping[str, str]) -> None:
    """Raises StepFailed if the program is not installed, with a shell's status for that."""
    if shutil.which(name, path=environ.get("PATH")) is None:
        raise StepFailed(
            f"the program {name} is not installed",
            code="program-missing",
            status=_NOT_FOUND,
            hint="install it, or correct the step",
        )
