"""git on repositories of others: no configuration, hooks, filters or helpers of anyone, no prompt.

What such a repository holds is data: git runs here with an environment of its own, in which only
HTTP, SSH and git:// are protocols (unless a command is about this machine's own files), and with
none of the programs that a configuration could name.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from msgspec import Struct, field

from shipline.git.run import GitError, GitMissing, RemoteUnreachable, explain
from shipline.git.source import PROTOCOLS
from shipline.net import without_logins
from shipline.processes import ProcessGroup, ssh_command
from shipline.tasks import check, on_cancel
from shipline.values import Redacted

SILENCE_S = 120.0
_KEPT = ("PATH", "HOME", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
_TAIL = 64 << 10  # bytes of messages that are kept
_OUTPUT_LIMIT = 256 << 20  # bytes
_CHUNK = 64 << 10  # bytes
_UMASK = 0o022
_SSH = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=30"),
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"),
)
_RUN_SSH = """\
run() {{
    case "$({ssh} -G "$@" 2> /dev/null < /dev/null)" in
        *"stricthostkeychecking ask"*) set -- -o StrictHostKeyChecking=accept-new "$@" ;;
    esac
    exec {ssh} "$@"
}}
run"""  # nobody can be asked; another setting of the user is kept
_CONFIG = {
    "safe.directory": "*",  # repositories of the state directory, seen from a user namespace
    "core.hooksPath": os.devnull,
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.logAllRefUpdates": "false",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.sharedRepository": "umask",
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1",  # bytes a second
    "init.defaultBranch": "main",
    "submodule.recurse": "false",
    "uploadpack.allowAnySHA1InWant": "true",
}
_ENVIRONMENT = {
    "LC_ALL": "C",  # messages are read
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_SSH_VARIANT": "ssh",
}


class SshAccess(Struct, frozen=True):
    """How hosts are reached over SSH: by the agent at a socket, by keys, or as ssh is set up."""

    agent: str = ""
    keys: tuple[str, ...] = ()

    def command(self) -> str:
        """The program for GIT_SSH_COMMAND, which a shell reads."""
        keys = [word for key in self.keys for word in ("-i", key)]
        only = ["-o", "IdentitiesOnly=yes"] if self.keys else []
        return _RUN_SSH.format(ssh=shlex.join([*ssh_command(), *_SSH, *keys, *only]))


class IsolatedGit(Redacted, frozen=True):
    """git as above. `environ` is that of this program, of which little is handed on; `headers` are
    HTTP headers by the URL that they are for.

    A command that says nothing for `silence_s` seconds is ended, and so is one whose thread is
    cancelled, with all programs that it started.
    """

    hidden: ClassVar = frozenset({"headers"})

    environ: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    ssh: SshAccess | None = None
    silence_s: float = SILENCE_S

    def run(
        self,
        *arguments: str,
        allowed: Iterable[int] = (0,),
        protocols: Iterable[str] = PROTOCOLS,
        index: Path | None = None,
    ) -> bytes:
        """What `git ARGUMENTS` prints; `index` is another index file.

        Raises GitMissing, RemoteUnreachable for a server that does not do its part, else GitError.
        """
        environ = self._environment(protocols)
        if index is not None:
            environ["GIT_INDEX_FILE"] = str(index)
        status, output, errors = self._finish(arguments, environ)
        if status not in allowed:
            raise _explained(arguments, without_logins(errors))
        return output

    def _environment(self, protocols: Iterable[str]) -> dict[str, str]:
        names = [*_KEPT, *_PROXIES, *map(str.lower, _PROXIES)]
        found = {name: self.environ[name] for name in names if name in self.environ}
        ssh = self.ssh or SshAccess()
        if ssh.agent:
            found["SSH_AUTH_SOCK"] = ssh.agent
        config = [*_CONFIG.items(), ("http.lowSpeedTime", str(max(1, int(self.silence_s))))]
        config += [(f"http.{url}.extraHeader", header) for url, header in self.headers.items()]
        found |= {"GIT_CONFIG_COUNT": str(len(config))}
        for number, (key, value) in enumerate(config):
            found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        return {
            **found,
            **_ENVIRONMENT,
            "GIT_SSH_COMMAND": ssh.command(),
            "GIT_ALLOW_PROTOCOL": ":".join(protocols),
        }

    def _finish(
        self, arguments: tuple[str, ...], environ: Mapping[str, str]
    ) -> tuple[int, bytes, str]:
        """Status, output and messages of git when it has ended."""
        try:
            process = subprocess.Popen(
                ("git", *arguments),
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                umask=_UMASK,
            )
        except FileNotFoundError:
            raise GitMissing(
                "git is not installed, or not on the PATH", hint="install the package git"
            ) from None
        group = ProcessGroup(process)
        try:
            with on_cancel(group.kill):
                output, errors = _read(process, arguments, self.silence_s)
                group.ended(self.silence_s)
        finally:
            status = group.end()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
        check()
        return status, output, errors.decode(errors="replace").strip()


def _read(
    process: subprocess.Popen[bytes], arguments: tuple[str, ...], silence_s: float
) -> tuple[bytes, bytes]:
    """All output, and the last messages. Raises RemoteUnreachable after a silence, GitError for
    more output than fits.
    """
    assert process.stdout is not None and process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    poll, waiting = select.poll(), {out, err}
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    output, errors = bytearray(), b""
    while waiting:
        ready = poll.poll(silence_s * 1000)
        if not ready:
            raise RemoteUnreachable(
                f"git {_verb(arguments)} has made no progress for {silence_s:g} seconds",
                hint="check that the server can be reached from here, and try again",
            )
        for fd, _ in ready:
            data = os.read(fd, _CHUNK)
            if not data:
                poll.unregister(fd)
                waiting.discard(fd)
            elif fd == err:
                errors = (errors + data)[-_TAIL:]
            else:
                output += data
        if len(output) > _OUTPUT_LIMIT:
            raise GitError(
                f"git {_verb(arguments)} printed more than {_OUTPUT_LIMIT} bytes", code="git-output"
            )
    return bytes(output), errors


def _verb(arguments: Iterable[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


_DECLINED = "not our ref|unadvertised object|couldn't find remote ref|shallow"
_ACCESS = "give a token with --secret id=GIT_AUTH_TOKEN,env=NAME, or a login in the URL"
_KEYS = (
    "give a key that it accepts, --ssh default=KEY, or an agent with it; ssh-add -l lists its keys"
)
_KNOWN = (
    (
        r"could not read Username|Authentication failed|terminal prompts disabled"
        r"|returned error: 40[13]",
        "the server asks for a login, or refuses the given one",
        _ACCESS,
    ),
    (
        r"Permissions \d+ for '([^']*)' are too open",
        r"ssh refuses the key \1, which others can read",
        r"chmod 600 '\1'",
    ),
    (
        r"Too many authentication failures",
        "the server refuses the SSH login after too many keys",
        "give the right key alone: --ssh default=KEY",
    ),
    (r"Permission denied \(([^)]*)\)", "the server refuses the SSH login", _KEYS),
    (
        r"certificate verification failed|signer not trusted|SSL certificate problem",
        "its certificate is from an authority that is not trusted",
        "give the authority with --ca FILE",
    ),
    (
        r"(?s)IDENTIFICATION HAS CHANGED.*Offending \S+ key in ([^\n]*:\d+)"
        r".*(ssh-keygen -f [^\n]*)",
        r"the SSH host key is not the known one, \1: another server may answer",
        r"if its owner says that it has a new key: \2",
    ),
    (
        r"No \S+ host key is known for \[?([^\s\]]+)[^\n]* requested strict checking",
        r"the SSH host key of \1 is unknown, and ssh is set to StrictHostKeyChecking=yes",
        "get the key from its owner, and add it to ~/.ssh/known_hosts",
    ),
    (
        r"Host key verification failed",
        "the SSH host key is not the known one",
        "compare it with ~/.ssh/known_hosts",
    ),
    (
        r"Bad owner or permissions on [^\n]*|[^\n]*: Bad configuration option: [^\n]*"
        r"|[^\n]*: terminating, \d+ bad configuration options",
        "",
        "correct the configuration of ssh",
    ),
    (r"ssh: not found|cannot run ssh", "ssh is not installed", "install openssh-client"),
    (
        r"(?s)(?:does not appear to be a git repository|[Rr]epository not found).*access rights",
        "there is no such repository, or it needs another login",
        "check the URL, and that the key of --ssh or of the agent may read the repository",
    ),
    (
        r"repository '[^']*' not found|returned error: 404|repository not exported"
        r"|does not appear to be a git repository|[Rr]epository not found",
        "there is no such repository, or it needs a login",
        f"check the URL; if it is private, {_ACCESS}",
    ),
    (
        r"transport '([^']*)' not allowed",
        "its protocol is not allowed",
        f"use one of {', '.join(PROTOCOLS)}",
    ),
    (
        r"Could not resolve host[^\n]*|Failed to connect[^\n]*|Connection refused"
        r"|unable to look up [^\n]*|Connection timed out|Operation too slow[^\n]*"
        r"|Could not resolve hostname [^\n]*|unable to access '[^\n]*|early EOF"
        r"|the remote end hung up unexpectedly|unable to connect to [^\n]*",
        "",
        "check the URL, and that the server can be reached from here",
    ),
)


def _explained(arguments: tuple[str, ...], text: str) -> GitError:
    if not re.search(_DECLINED, text):
        for pattern, reason, hint in _KNOWN:
            if match := re.search(pattern, text):
                shown = match.expand(reason) or match[0].strip()
                return RemoteUnreachable(shown, hint=match.expand(hint))
    return explain(arguments, text, Path("."))
