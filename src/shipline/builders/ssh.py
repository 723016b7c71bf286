"""The driver `ssh`: this program on another machine, whose engine builds there.

The ssh command makes the connection, with its configuration, keys, agent and known hosts. What runs
there (`shipline builder serve-stdio`) answers in BuildKit's API on its standard input and output.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shipline import __version__
from shipline.builders.driver import InvalidDriverOption, State
from shipline.builders.instances import Node
from shipline.buildkit.connecting import ProgramPipe, open_pipe, open_program
from shipline.buildkit.control import Control
from shipline.errors import BuilderError, UsageError
from shipline.events import Step
from shipline.grpc.connection import Pipe
from shipline.net import split_url, without_passwords
from shipline.observe import clean
from shipline.units import parse_boolean

_COMMAND = "shipline"
_NOT_FOUND = (126, 127)  # statuses of shells
_SSH_FAILED = 255
_ALIVE_S = 15


class SshDriver:
    """The engine of another machine; it runs while there is a connection, and needs no start."""

    def __init__(self, node: Node, environment: Mapping[str, str], timeout_s: float) -> None:
        """Raises UsageError for an endpoint or options that cannot be used."""
        options = dict(node.driver_options)
        self._copies = _boolean(options.pop("copy", "false"))
        self._command = options.pop("command", "") or _COMMAND
        if self._copies and "command" in node.driver_options:
            raise InvalidDriverOption(
                "--driver-opt: copy=true and command= exclude each other", hint="leave one out"
            )
        if options:
            raise InvalidDriverOption(
                f"--driver-opt: the driver ssh has no option {next(iter(options))!r}",
                hint="its options are command, which is run on the other machine, and copy",
            )
        self._endpoint = node.endpoint
        self._argv = _ssh_command(node.endpoint, timeout_s)
        self._timeout_s = timeout_s

    def state(self) -> State:
        try:
            with self.open():
                return State.RUNNING
        except BuilderError:
            return State.INACTIVE

    def boot(self, step: Step) -> None:
        with self.open():
            pass

    @contextmanager
    def open(self, key: str = "") -> Iterator[Control]:
        with open_program([*self._argv, self._remote_command()]) as pipe:
            begun = False
            try:
                if self._copies:
                    self._carry(pipe)
                with open_pipe(
                    nullcontext(pipe), self._endpoint, timeout_s=self._timeout_s
                ) as control:
                    self._check_version(control)
                    begun = True
                    yield control
            except BuilderError as error:
                if begun:
                    raise
                raise self._explained(pipe, error) from None

    def dial(self) -> AbstractContextManager[Pipe]:
        raise UsageError(
            "a builder with the driver ssh builds for shipline alone",
            code="builder-incapable",
            hint="name one with another driver",
        )

    def _remote_command(self) -> str:
        words = "builder serve-stdio"
        if not self._copies:
            return f"{self._command} {words}"
        from shipline.builders.carrying import carried_command  # slow to import

        return carried_command(words)

    def _carry(self, pipe: ProgramPipe) -> None:
        from shipline.builders.carrying import carry

        carry(pipe, self._endpoint)

    def stop(self) -> None:
        """Nothing: it runs only while it is used."""

    def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """Nothing: its cache belongs to the other machine, which may build by itself."""

    def _check_version(self, control: Control) -> None:
        if (version := control.version()) != __version__:
            raise BuilderError(
                f"shipline on {self._endpoint} has the version {version}, and this one"
                f" {__version__}",
                code="builder-version",
                hint="install the same version on both machines",
            )

    def _explained(self, pipe: ProgramPipe, error: BuilderError) -> BuilderError:
        """Why there was no connection: ssh says it by its status, and on standard error."""
        status = pipe.wait(1.0)
        if status in _NOT_FOUND:
            missing = "python3" if self._copies else self._command.split()[0]
            return BuilderError(
                f"there is no {missing} on {self._endpoint}",
                code="builder-ssh",
                hint="install it there, or say where it is: --driver-opt command=PATH; or"
                " have it copied to where Python is: --driver-opt copy=true",
            )
        if status == _SSH_FAILED:
            said = clean(pipe.said.strip().replace(b"\n", b"; "))
            return BuilderError(
                f"ssh cannot connect to {self._endpoint}: {said}",
                code="builder-ssh",
                hint=f"this has to work: {shlex.join(self._argv)} true",
                retriable=True,
            )
        return error


def _boolean(value: str) -> bool:
    if (found := parse_boolean(value)) is None:
        raise InvalidDriverOption(f"--driver-opt copy: {value!r} is neither true nor false")
    return found


def _ssh_command(endpoint: str, timeout_s: float) -> list[str]:
    """The command, to which that of the other machine is added. Raises UsageError for an endpoint
    that is not ssh://[USER@]HOST[:PORT].
    """
    parts = split_url(endpoint)
    host, user, port = parts.hostname or "-", parts.username or "", parts.port
    is_wrong = parts.scheme != "ssh" or parts.password or parts.query or parts.path.strip("/")
    if is_wrong or "-" in (host[0], user[:1]):
        raise UsageError(
            f"{without_passwords(endpoint)!r} is not an endpoint of the driver ssh",
            code="builder-endpoint",
            hint="write ssh://[USER@]HOST[:PORT]",
        )
    words = ["ssh", "-T", "-o", f"ConnectTimeout={max(1, round(timeout_s))}"]
    words += ["-o", f"ServerAliveInterval={_ALIVE_S}"]
    words += ["-l", user] if user else []
    words += ["-p", str(port)] if port else []
    return [*words, "--", host]
