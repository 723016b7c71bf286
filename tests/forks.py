"""`shipline` many times over: a process that has loaded it forks once for each command.

A start takes 10 ms then instead of 300. The command is otherwise as on a command line: its own
process, environment and streams.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from builds import Done

TIMEOUT_S = 120.0
_TIMED_OUT = 124  # as timeout(1)


@dataclass
class Forks:
    """The process that forks; `place` takes the output of its commands."""

    place: Path
    server: subprocess.Popen[str]
    numbers: Iterator[int] = field(default_factory=count)

    def run(
        self,
        *words: str | Path,
        environment: Mapping[str, str],
        killed_after_s: float | None = None,
    ) -> Done:
        """`shipline` with these words, to its end; `killed_after_s` kills it (-9) before that."""
        return self.result(self.start(*words, environment=environment, kill_s=killed_after_s))

    def start(
        self, *words: str | Path, environment: Mapping[str, str], kill_s: float | None = None
    ) -> Path:
        """Begin a command; its result is at the returned path."""
        path = self.place / str(next(self.numbers))
        order = [[*map(str, words)], dict(environment), str(path), kill_s]
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return path

    def result(self, path: Path) -> Done:
        end = time.monotonic() + TIMEOUT_S + 10
        status = path.with_suffix(".status")
        while not status.exists():
            assert time.monotonic() < end and self.server.poll() is None
            time.sleep(0.005)
        files = [path.with_suffix(one) for one in (".out", ".err")]
        out, err = (
            one.read_text(errors="replace") if one.exists() else ""  # killed before it began
            for one in files
        )
        return Done(int(status.read_text()), out, err)


@contextmanager
def forking(place: Path) -> Iterator[Forks]:
    """A process that runs commands side by side until the block ends."""
    place.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, text=True)
    try:
        yield Forks(place, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(TIMEOUT_S)


def _serve() -> None:
    import shipline.build.engine
    import shipline.cli.build
    import shipline.registry

    assert shipline.build.engine and shipline.cli.build and shipline.registry
    for line in sys.stdin:
        if os.fork() == 0:
            _watch(*json.loads(line))
            os._exit(0)
        while _reaped():
            pass


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _watch(words: list[str], environment: dict[str, str], path: str, kill_s: Any) -> None:
    """Run one command and write how it ended."""
    child = os.fork()
    if child == 0:
        _command(words, environment, Path(path))
    start, status = time.monotonic(), None
    while status is None:
        done, found = os.waitpid(child, os.WNOHANG)
        spent = time.monotonic() - start
        if done:
            status = os.waitstatus_to_exitcode(found)
        elif spent > (TIMEOUT_S if kill_s is None else kill_s):
            os.kill(child, 9)
            os.waitpid(child, 0)
            status = _TIMED_OUT if kill_s is None else -9
        else:
            time.sleep(0.002)
    partial = Path(f"{path}.partial")
    partial.write_text(str(status))
    partial.rename(f"{path}.status")


def _command(words: list[str], environment: dict[str, str], path: Path) -> None:
    code: object = 1
    try:
        for suffix, fd in ((".out", 1), (".err", 2)):
            os.dup2(os.open(path.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), fd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["shipline", *words]
        from shipline.cli import main

        try:
            code = main()
        except SystemExit as exit:
            code = exit.code
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
