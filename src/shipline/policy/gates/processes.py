"""A program of the user, run to its end or its time limit, with all the processes it started."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shipline.processes import ProcessGroup
from shipline.tasks import check, on_cancel

_OUTPUT_LIMIT = 16 << 20  # bytes of output that are read
_TAIL = 2000  # characters of its errors that are kept


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: `status` is None where it could not start or was stopped, and
    `problem` says why.
    """

    status: int | None
    output: bytes = b""
    errors: str = ""
    problem: str = ""


def run_program(
    command: str | tuple[str, ...],
    *,
    root: Path,
    environ: Mapping[str, str],
    timeout_s: float,
    stdin: bytes = b"",
) -> Ended:
    """Run `command` in `root`; a text is given to the shell. Its whole process group is killed at
    the end, at the time limit, and when the calling thread is cancelled (then raises Cancelled).
    """
    check()
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else [*command]
    if not arguments:
        return Ended(None, problem="the command is empty")
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
        source.write(stdin)
        source.seek(0)
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    arguments,
                    cwd=root,
                    env={**environ},
                    stdin=source,
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            except OSError as error:
                problem = f"cannot run {arguments[0]}: {error.strerror}"
                return Ended(None, problem=problem)
            problem = _wait(process, timeout_s)
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _TAIL))
            tail = errors.read().decode(errors="replace")
        output.seek(0)
        data = output.read(_OUTPUT_LIMIT + 1)
    check()
    if len(data) > _OUTPUT_LIMIT:
        problem = problem or f"it wrote more than {_OUTPUT_LIMIT >> 20} MiB"
    return Ended(None if problem else process.returncode, data[:_OUTPUT_LIMIT], tail, problem)


def shown_command(command: str | tuple[str, ...]) -> str:
    """The command as a person would type it."""
    return command if isinstance(command, str) else shlex.join(command)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Why it was stopped; empty where it ended by itself."""
    group = ProcessGroup(process)
    try:
        with on_cancel(group.kill):
            return "" if group.ended(timeout_s) else f"it did not end within {timeout_s:g} s"
    finally:
        group.end()
