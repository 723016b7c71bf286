"""OpenSSH's server on loopback, with a client's configuration that knows it."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.process import PeerFailed, free_port, listening, running


@dataclass(frozen=True)
class SshServer:
    """A server that lets this user in. `programs` is a directory for the PATH whose `ssh` uses the
    configuration with the host `far`, and `stranger` with another key.
    """

    port: int
    programs: Path
    log: Path


@contextmanager
def sshd(work: Path) -> Iterator[SshServer]:
    """The server, with keys of its own; ends with the block, and so do its sessions."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    if program is None:
        raise PeerFailed("sshd is not installed (Debian package openssh-server)")
    work.mkdir()
    for name in ("host", "user", "other"):
        words = ["ssh-keygen", "-q", "-N", "", "-t", "ed25519", "-f", str(work / name)]
        subprocess.run(words, check=True)
    port = free_port()
    shutil.copy(work / "user.pub", work / "authorized")
    Path("/run/sshd").mkdir(exist_ok=True)  # for its separated privileges
    python = str(
        Path(getattr(sys, "_base_executable", sys.executable)).parent
    )  # without what is installed for the tests
    path = os.pathsep.join([python, "/usr/local/bin", "/usr/bin", "/usr/sbin", "/bin"])
    (work / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {work}/host\nPidFile none\n"
        f"AuthorizedKeysFile {work}/authorized\nPasswordAuthentication no\nUsePAM no\n"
        "PermitRootLogin yes\nStrictModes no\nLogLevel VERBOSE\n"
        f"SetEnv SHIPLINE_HOME={work}/state XDG_CACHE_HOME={work}/cache PATH={path}\n"
    )
    known = (work / "host.pub").read_text()
    other = (work / "other.pub").read_text()
    (work / "known").write_text(f"far {known}stranger {other}")
    (work / "ssh_config").write_text(
        "Host far\nHostKeyAlias far\nHost stranger\nHostKeyAlias stranger\n"
        f"Host *\nHostName 127.0.0.1\nPort {port}\nUser {getpass.getuser()}\n"
        f"IdentityFile {work}/user\nIdentitiesOnly yes\nUserKnownHostsFile {work}/known\n"
        "StrictHostKeyChecking yes\nBatchMode yes\n"
    )
    (work / "bin").mkdir()
    client = shutil.which("ssh")
    (work / "bin/ssh").write_text(f'#!/bin/sh\nexec {client} -F "{work}/ssh_config" "$@"\n')
    (work / "bin/ssh").chmod(0o755)
    command: list[str | Path] = [program, "-D", "-e", "-f", work / "sshd_config"]
    with running(command, ready=lambda: listening(port), log=work / "log"):
        yield SshServer(port, work / "bin", work / "log")
