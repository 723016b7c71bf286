"""Nodes of builders, reached: by driver, BuildKit's API at the node's endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from msgspec import Struct

from shipline.builders.capabilities import OWN_STORE
from shipline.builders.driver import Driver, InvalidDriverOption, State, engine_errors
from shipline.builders.instances import Builder, Node
from shipline.builders.ssh import SshDriver
from shipline.buildkit.connecting import (
    CONNECT_S,
    TlsFiles,
    dial_engine,
    open_buildkit,
    open_engine,
    open_socket,
    parse_endpoint,
)
from shipline.buildkit.control import Control
from shipline.buildkit.messages import CdiDevice, GcRule
from shipline.engines.finding import docker_address
from shipline.errors import BuilderError
from shipline.events import Step
from shipline.grpc.connection import Pipe
from shipline.oci import Platform

if TYPE_CHECKING:
    from shipline.engines.containers import Containers


class NodeFacts(Struct, frozen=True):
    """What a node says of itself. `stores_images` tells whether an engine keeps images as
    containerd does; the older store keeps one platform of a name.
    """

    version: str
    platforms: tuple[Platform, ...]
    labels: Mapping[str, str]
    ids: tuple[str, ...] = ()
    gc_policy: tuple[GcRule, ...] = ()
    devices: tuple[CdiDevice, ...] = ()

    @property
    def stores_images(self) -> bool:
        return "org.mobyproject.buildkit.worker.containerd.uuid" in self.labels


def driver_of(
    builder: Builder, node: Node, environment: Mapping[str, str], *, timeout_s: float = CONNECT_S
) -> Driver:
    """The driver of a node, whose daemon is given `timeout_s` to answer. Raises BuilderError for a
    driver that is not supported.
    """
    make = _DRIVERS.get(builder.driver)
    if make is None:
        raise BuilderError(
            f"the builder {builder.name} has the driver {builder.driver}, which is not supported",
            code="builder-driver",
            hint=f"builders with the drivers {', '.join(_DRIVERS)} can be used",
        )
    return make(node, environment, timeout_s)


def open_node(
    builder: Builder,
    node: Node,
    environment: Mapping[str, str],
    key: str = "",
    step: Step | None = None,
) -> AbstractContextManager[Control]:
    """The daemon of a node, inside the block; see `Driver.open`. With `step` it is started if it
    does not run. Raises BuilderError.
    """
    driver = driver_of(builder, node, environment)
    if step is not None:
        driver.boot(step)
    return driver.open(key)


def facts_of(control: Control) -> NodeFacts:
    """Asks a daemon for its facts. Raises RpcError."""
    workers = control.workers()
    labels = {key: value for worker in workers for key, value in worker.labels.items()}
    platforms = (
        Platform.parse("/".join(part for part in (one.os, one.architecture, one.variant) if part))
        for worker in workers
        for one in worker.platforms
    )
    return NodeFacts(
        control.version(),
        tuple(dict.fromkeys(platforms)),
        labels,
        tuple(worker.id for worker in workers),
        tuple(rule for worker in workers for rule in worker.gc_policy),
        tuple(device for worker in workers for device in worker.devices),
    )


def capability_name(builder: Builder, facts: NodeFacts) -> str:
    """The driver of a node, as a key of CAPABILITIES."""
    is_old = builder.driver == "docker" and not facts.stores_images
    return OWN_STORE if is_old else builder.driver


class _Kept:
    """A daemon that others start and stop."""

    def __init__(self, node: Node, environment: Mapping[str, str], timeout_s: float) -> None:
        self._node, self._environment, self._timeout_s = node, environment, timeout_s

    def open(self, key: str = "") -> AbstractContextManager[Control]:
        raise NotImplementedError

    def dial(self) -> AbstractContextManager[Pipe]:
        raise NotImplementedError

    def state(self) -> State:
        """Running, if it can be reached."""
        with self.open() as control:
            control.version()
        return State.RUNNING

    def boot(self, step: Step) -> None:
        """Nothing: it is not ours."""

    def stop(self) -> None:
        """Nothing: it is not ours."""

    def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        """Nothing: it is not ours."""


class _Docker(_Kept):
    """The BuildKit inside an engine; the endpoint is a context of docker."""

    @contextmanager
    def open(self, key: str = "") -> Iterator[Control]:
        with ExitStack() as stack:
            with engine_errors():
                address = docker_address(self._environment, self._node.endpoint)
                opening = open_engine(address.connect, address.url, timeout_s=self._timeout_s)
                control = stack.enter_context(opening)
            yield control

    @contextmanager
    def dial(self) -> Iterator[Pipe]:
        with engine_errors():
            address = docker_address(self._environment, self._node.endpoint)
        with dial_engine(address.connect, self._timeout_s) as pipe:
            yield pipe


class _Remote(_Kept):
    """A buildkitd, at an endpoint of `buildkit.connecting`."""

    def __init__(self, node: Node, environment: Mapping[str, str], timeout_s: float) -> None:
        """Raises UsageError for options, and BuilderError for an endpoint, that cannot be used."""
        super().__init__(node, environment, timeout_s)
        options = node.driver_options
        for name in options:
            if name not in _REMOTE_OPTIONS:
                raise InvalidDriverOption(
                    f"--driver-opt: the driver remote has no option {name!r}",
                    hint=f"its options are {', '.join(_REMOTE_OPTIONS)}",
                )
        if ("cert" in options) != ("key" in options):
            raise InvalidDriverOption(
                "--driver-opt: cert and key go together", hint="give both, or neither of them"
            )
        self._parts = parse_endpoint(node.endpoint)
        files = TlsFiles(
            *(options.get(name, "") for name in ("cacert", "cert", "key", "servername"))
        )
        self._tls = files if files != TlsFiles() else None

    def open(self, key: str = "") -> AbstractContextManager[Control]:
        endpoint, environment = self._node.endpoint, self._environment
        if self._parts.scheme == "kube-pod":
            from shipline.builders.kubernetes import open_pod  # slow to import

            return open_pod(endpoint, environment, self._timeout_s)
        if self._parts.scheme == "docker-container":
            return self._open_container()
        return open_buildkit(endpoint, self._tls, timeout_s=self._timeout_s)

    def dial(self) -> AbstractContextManager[Pipe]:
        if self._parts.scheme == "kube-pod":
            from shipline.builders.kubernetes import dial_pod  # slow to import

            return dial_pod(self._node.endpoint, self._environment)[0]
        if self._parts.scheme == "docker-container":
            from shipline.builders.container import dial_container

            return dial_container(self._containers(), self._parts.netloc)
        return open_socket(self._parts, self._tls, self._timeout_s)

    def _open_container(self) -> AbstractContextManager[Control]:
        from shipline.builders.container import open_container

        return open_container(self._containers(), self._parts.netloc, self._timeout_s)

    def _containers(self) -> Containers:
        from shipline.builders.container import containers_of

        context = parse_qs(self._parts.query).get("context", [""])[0]
        return containers_of(context, self._environment)


def _container(node: Node, environment: Mapping[str, str], timeout_s: float) -> Driver:
    from shipline.builders.container import ContainerDriver  # builds elsewhere need none of it

    return ContainerDriver(node, environment, timeout_s)


_REMOTE_OPTIONS = ("cacert", "cert", "key", "servername", "default-load")


def _kubernetes(node: Node, environment: Mapping[str, str], timeout_s: float) -> Driver:
    from shipline.builders.kubernetes import KubernetesDriver  # slow to import

    return KubernetesDriver(node, environment, timeout_s)


_DRIVERS: Mapping[str, Callable[[Node, Mapping[str, str], float], Driver]] = {
    "docker": _Docker,
    "docker-container": _container,
    "kubernetes": _kubernetes,
    "remote": _Remote,
    "ssh": SshDriver,
}
