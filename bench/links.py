"""Networks for benchmarks: network namespaces, joined by links with a rate and a delay.

A link is a pair of TUN devices, shaped with tc-tbf, and a process that carries packets from one to
the other (line.py) and holds each for the delay: netem(8) is a module that few kernels have. TCP
sees what it sees on a long line, slow start included. Namespaces and devices belong to processes
that end with the one that started them, so nothing is left behind, whatever happens.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers import PeerFailed, running

_CARRIER = Path(__file__).with_name("line.py")


@dataclass(frozen=True)
class Namespace:
    """A network namespace, held by a process."""

    name: str
    pid: int

    def command(self, *words: str | Path) -> list[str]:
        """The command that runs `words` inside."""
        return ["nsenter", "--net", f"--target={self.pid}", "--", *map(str, words)]

    def run(self, *words: str | Path) -> None:
        """Raises PeerFailed unless it succeeds."""
        done = subprocess.run(self.command(*words), check=False, capture_output=True, text=True)
        if done.returncode:
            raise PeerFailed(f"{' '.join(map(str, words))}: {done.stderr}")

    def listens(self, port: int) -> bool:
        """Whether something inside listens on the TCP port (proc_net_tcp)."""
        lines = (self._net("tcp") + self._net("tcp6")).splitlines()
        sockets = [words for line in lines if (words := line.split())[0] != "sl"]
        return any(
            state == "0A" and int(local.rpartition(":")[2], 16) == port
            for _, local, _, state, *_ in sockets
        )

    def devices(self) -> dict[str, int]:
        """Bytes that each device has sent (proc(5), /proc/net/dev)."""
        lines = (line.partition(":") for line in self._net("dev").splitlines()[2:])
        return {name.strip(): int(numbers.split()[8]) for name, _, numbers in lines}

    def sent_bytes(self) -> int:
        """Sent over all links."""
        return sum(sent for name, sent in self.devices().items() if name != "lo")

    def _net(self, name: str) -> str:
        return Path(f"/proc/{self.pid}/net/{name}").read_text()


@dataclass(frozen=True)
class Line:
    """The properties of a link: bits a second, seconds for a round trip, bytes of a packet."""

    rate: int
    round_trip_s: float
    mtu: int = 1500


@contextmanager
def namespace(work: Path, name: str) -> Iterator[Namespace]:
    """Needs root."""
    entered, log = work / f"{name}.entered", work / f"{name}.log"
    command = ["unshare", "--net", "sh", "-c", f"touch {entered}; exec sleep infinity"]
    with running(command, ready=entered.exists, log=log) as process:
        inside = Namespace(name, process.pid)
        inside.run("ip", "link", "set", "lo", "up")
        yield inside


@contextmanager
def link(
    work: Path, name: str, line: Line, left: Namespace, right: Namespace, network: str
) -> Iterator[tuple[str, str]]:
    """Join two namespaces; the addresses of `left` and `right`, the first two of `network`.1 etc.

    `network` is three numbers, as 10.1.0.
    """
    addresses = (f"{network}.1", f"{network}.2")
    ends = list(zip((left, right), addresses, strict=True))
    command = [sys.executable, "-I", str(_CARRIER), name]
    command += [str(left.pid), str(right.pid), str(line.round_trip_s / 2)]

    def ready() -> bool:
        return all(name in end.devices() for end, _ in ends)

    log = work / f"link-{name}.log"
    with running(command, ready=ready, log=log):
        for (end, address), peer in zip(ends, reversed(addresses), strict=True):
            shape = f"rate {line.rate}bit burst {max(32_768, 4 * line.mtu)} latency 300ms"
            commands = (
                f"ip address add {address} peer {peer} dev {name}",
                f"ip link set {name} mtu {line.mtu} up",
                f"tc qdisc add dev {name} root tbf {shape}",
            )
            end.run("sh", "-c", " && ".join(commands))
        yield addresses
