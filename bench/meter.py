"""What a command costs: wall time, CPU time and peak memory, of it and of the daemons it uses."""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_IDLE_S = 0.05  # CPU time of daemons in one second


def directory(text: str) -> Path:
    """The directory of an argument, which is made if it is missing."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error.strerror}") from None
    return path


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of resident memory at the peak."""

    wall_s: float
    cpu_s: float
    peak_bytes: int

    def json(self) -> dict[str, float]:
        return asdict(self)


def measure(
    command: Sequence[str], environment: Mapping[str, str], daemons: Sequence[int] = ()
) -> Cost:
    """Run `command`; `daemons` are processes whose CPU time and memory count too."""
    for daemon in daemons:
        Path(f"/proc/{daemon}/clear_refs").write_text("5")
    before = sum(map(cpu_s, daemons))
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} failed:\n{text}")
    cpu = used.ru_utime + used.ru_stime + sum(map(cpu_s, daemons)) - before
    peak = sum(map(peak_bytes, daemons)) if daemons else used.ru_maxrss * 1024
    return Cost(wall, cpu, peak)


def settle(daemons: Sequence[int], *, limit_s: float = 120) -> None:
    """Wait until the last run is over for good: dirty pages on the disk, daemons idle."""
    deadline = time.monotonic() + limit_s
    subprocess.run(["sync"], check=True)
    busy = sum(map(cpu_s, daemons))
    while time.monotonic() < deadline:
        time.sleep(1)
        now = sum(map(cpu_s, daemons))
        if now - busy < _IDLE_S:
            return
        busy = now


def read_all(directory: Path) -> None:
    """Bring a tree into the page cache, so that nobody is charged for the disk."""
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.read_bytes()


def descendants(pid: int) -> list[int]:
    """`pid` and the processes below it."""
    found = [pid]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found += descendants(int(path.parent.name))
    return found


def cpu_s(pid: int) -> float:
    """What the process and the children that it waited for have used until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def peak_bytes(pid: int) -> int:
    """Resident memory at its highest, since it was reset (proc(5), clear_refs) or ever."""
    return _status(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """Resident memory now."""
    return _status(pid, "VmRSS")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
