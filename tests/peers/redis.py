"""Redis and Valkey, without files, on a port or a socket of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.process import free_port, running
from peers.registry import certificate

REDIS = ("redis-server", "valkey-server")


@dataclass
class Redis:
    """A running server; `words` reach it with redis-cli."""

    url: str
    pid: int
    words: tuple[str, ...]
    ca: Path | None = None

    def ask(self, *command: str | bytes) -> str:
        """What redis-cli prints."""
        line = ["redis-cli", *self.words, *command]
        return (
            subprocess.run(line, check=True, capture_output=True)
            .stdout.decode(errors="replace")
            .strip()
        )

    def names(self) -> list[str]:
        """The names of all values."""
        return self.ask("--no-auth-warning", "KEYS", "*").split()

    def pause(self) -> None:
        """It accepts connections and does not answer."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def redis(
    work: Path,
    *,
    server: str = REDIS[0],
    user: tuple[str, str] | None = None,
    tls: bool = False,
    socket: bool = False,
    port: int = 0,
    options: tuple[str, ...] = (),
) -> Iterator[Redis]:
    """A server; with `user` nobody else may do anything, and that one what we need."""
    work.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    words: tuple[str, ...] = ("-p", str(port))
    command = [server, "--save", "", "--dir", str(work), "--port", "0" if tls else str(port)]
    scheme, place, ca = "redis", f"127.0.0.1:{port}", None
    if tls:
        ca, key = certificate(work, "redis")
        command += ["--tls-port", str(port), "--tls-cert-file", str(ca), "--tls-key-file", str(key)]
        command += ["--tls-auth-clients", "no"]
        words += ("--tls", "--cacert", str(ca))
        scheme, place = "rediss", f"{place}/0?ssl_ca_certs={ca}"
    if socket:
        path = work / "redis.sock"
        command += ["--unixsocket", str(path), "--port", "0"]
        words = ("-s", str(path))
        scheme, place = "unix", str(path)
    if user is not None:
        name, password = user
        command += ["--user", "default", "off"]
        rights = ["+get", "+set", "+del", "+ping", "+select"]  # as docs/shared-cache.md says
        command += ["--user", name, "on", f">{password}", "~shipline:*", *rights]
        words += ("--user", name, "--pass", password)
        place = f"{name}:{password}@{place}"

    def ready() -> bool:
        line = ["redis-cli", *words, "PING"]
        return b"PONG" in subprocess.run(line, check=False, capture_output=True).stdout

    with running([*command, *options], ready=ready, log=work / "redis.log") as process:
        found = Redis(f"{scheme}://{place}", process.pid, words, ca)
        try:
            yield found
        finally:
            if process.poll() is None:
                found.resume()
