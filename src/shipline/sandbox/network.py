"""The network of a step: that of the host, none, or its own, connected by pasta or slirp4netns.

The last has its own loopback, so that no step reaches what listens on that of the host. pasta(1)
drops packets to loopback addresses itself. slirp4netns(1) connects to them, whatever its options
say, so that its steps can neither forge packets (CAP_NET_RAW) nor route to them.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from shipline.errors import SandboxError
from shipline.sandbox import kernel
from shipline.tasks import TaskGroup, check, on_cancel

_PASTA_RESOLVER, _PASTA_GATEWAY = "169.254.1.1", "169.254.1.2"  # link-local, as in Podman
_SLIRP_RESOLVER = "10.0.2.3"
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}


class StepNetwork(Struct, frozen=True):
    """The network of one step. Without a `namespace` it is that of the host, or none.

    `resolver` forwards requests to the resolver of the host. `gateway` is an address of the host.
    The step must not have the capabilities `withheld`.
    """

    namespace: Path | None = None
    resolver: str = ""
    gateway: str = "127.0.0.1"
    withheld: frozenset[str] = frozenset()


HOST = StepNetwork()


class Connector(Struct, frozen=True):
    """A program that connects network namespaces, `pasta` or `slirp4netns`."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def connected(self, directory: Path, *, gateway: bool = False) -> Iterator[StepNetwork]:
        """A new namespace that is connected until the block ends, with files in `directory`;
        `gateway` asks for an address of the host. Raises SandboxError if there is none.
        """
        program = _PROGRAMS[self.name]
        with _namespace(directory / "network") as namespace:
            command = [str(self.path), *program.words(namespace, gateway)]
            with _running(command, program.ready_on_output, directory / f"{self.name}.log"):
                yield program.network(namespace, gateway)


def find_connector(directory: Path) -> tuple[Connector | None, str]:
    """The first program that can connect a namespace here, or None and why there is none."""
    failures = []
    for name in _PROGRAMS:
        if (path := shutil.which(name)) is None:
            continue
        connector = Connector(Path(path))
        place = directory / f"try-{name}"
        place.mkdir()
        try:
            with connector.connected(place):
                return connector, ""
        except SandboxError as error:
            failures.append(error.message)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return None, "; ".join(failures) or f"neither {' nor '.join(_PROGRAMS)} is installed"


class _Program(Struct, frozen=True):
    """How a program is used: the words after its name for a namespace and whether an address of the
    host is wanted, `{}` for the descriptor to say on that it is ready; and the network that it
    makes.
    """

    words: Callable[[Path, bool], list[str]]
    network: Callable[[Path, bool], StepNetwork]
    ready_on_output: bool = False


def _pasta_words(namespace: Path, gateway: bool) -> list[str]:
    """As root, pasta would become nobody before it opens the namespace; it closes descriptors."""
    words = ["--config-net", "--foreground", "--quiet", "--runas", "0", "--no-map-gw"]
    words += [word for flag in ("-t", "-u", "-T", "-U") for word in (flag, "none")]
    words += ["--dns-forward", _PASTA_RESOLVER, "--netns", str(namespace)]
    words += ["--map-guest-addr", _PASTA_GATEWAY] if gateway else []
    return [*words, "--pid", "/proc/self/fd/1"]


def _pasta_network(namespace: Path, gateway: bool) -> StepNetwork:
    return StepNetwork(namespace, _PASTA_RESOLVER, _PASTA_GATEWAY)


def _slirp4netns_words(namespace: Path, gateway: bool) -> list[str]:
    words = ["--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox"]
    return [
        *words,
        "--enable-seccomp",
        "--ready-fd={}",
        "--netns-type=path",
        f"{namespace}",
        "tap0",
    ]


def _slirp4netns_network(namespace: Path, gateway: bool) -> StepNetwork:
    _inside(namespace, _refuse_loopback)
    address = _own_address() if gateway else ""
    return StepNetwork(namespace, _SLIRP_RESOLVER, address, frozenset({"CAP_NET_RAW"}))


_PROGRAMS = {
    "pasta": _Program(_pasta_words, _pasta_network, ready_on_output=True),
    "slirp4netns": _Program(_slirp4netns_words, _slirp4netns_network),
}


@contextmanager
def _namespace(path: Path) -> Iterator[Path]:
    """A new network namespace, which exists as the mount `path` until the block ends."""

    def make() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        kernel.mount("/proc/thread-self/ns/net", path, "", kernel.MS_BIND)

    path.touch()
    try:
        with TaskGroup() as group:
            group.start(make)
    except OSError as error:
        raise kernel.sandbox_error("cannot create a network namespace", error) from error
    try:
        yield path
    finally:
        kernel.umount(path)


@contextmanager
def _running(command: list[str], ready_on_output: bool, log: Path) -> Iterator[None]:
    """Run `command` from when it is ready, which it says by a first byte, until the block ends.

    It is killed when this thread dies (prctl(2), PR_SET_PDEATHSIG).
    """
    reading, writing = os.pipe()
    with open(reading, "rb", buffering=0) as ready, log.open("wb") as words:
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *(one.format(writing) for one in command)],
                stdin=subprocess.DEVNULL,
                stdout=writing if ready_on_output else words,
                stderr=words,
                pass_fds=(writing,),
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise kernel.sandbox_error(f"cannot start {command[0]}", error) from error
        finally:
            os.close(writing)
        try:
            with on_cancel(process.kill):
                started = ready.read(1)
            check()
            if not started:
                said = log.read_text(errors="replace").strip().splitlines()
                raise SandboxError(
                    f"{command[0]}: {said[-1] if said else 'it ended at once'}", code="network"
                )
            yield
        finally:
            process.kill()
            process.wait()


def _inside(namespace: Path, function: Callable[[], None]) -> None:
    """Call `function` on a thread in the namespace."""

    def call() -> None:
        with open(namespace, "rb") as file:
            kernel.setns(file.fileno(), kernel.CLONE_NEWNET)
        function()

    try:
        with TaskGroup() as group:
            group.start(call)
    except OSError as error:
        raise kernel.sandbox_error("cannot set up the network of a step", error) from error


_NEW_ROUTE, _FLAGS = 24, 0x605  # RTM_NEWROUTE; NLM_F_REQUEST, ACK, CREATE, EXCL
_MAIN, _BY_USER, _BLACKHOLE, _TO = 254, 4, 6, 1  # RT_TABLE_MAIN, RTPROT_STATIC, RTN_.., RTA_DST


def _refuse_loopback() -> None:
    """Route 127.0.0.0/8 nowhere: a socket that is bound to an interface skips the local table.

    Reference: rtnetlink(7), netlink(7).
    """
    message = struct.pack("=8BI", socket.AF_INET, 8, 0, 0, _MAIN, _BY_USER, 0, _BLACKHOLE, 0)
    message += struct.pack("=HH4s", 8, _TO, socket.inet_aton("127.0.0.0"))
    header = struct.pack("=IHHII", 16 + len(message), _NEW_ROUTE, _FLAGS, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as routes:
        routes.send(header + message)
        (error,) = struct.unpack("=i", routes.recv(4096)[16:20])
    if error:
        raise OSError(-error, os.strerror(-error), "127.0.0.0/8")


def _own_address() -> str:
    """The address from which this machine reaches others; that of loopback without a network."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing
        return str(probe.getsockname()[0])
    return HOST.gateway
