"""Nodes of builders, reached: by driver, BuildKit's API at the node's endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct

from shipline.builders.instances import Builder, Node
from shipline.buildkit.connecting import TlsFiles, open_buildkit, open_engine
from shipline.buildkit.control import Control
from shipline.engines.finding import docker_address
from shipline.errors import BuilderError
from shipline.oci import Platform


class NodeFacts(Struct, frozen=True):
    """What a node says of itself. `stores_images` tells whether an engine keeps images as
    containerd does; the older store keeps one platform of a name.
    """

    version: str
    platforms: tuple[Platform, ...]
    labels: Mapping[str, str]

    @property
    def stores_images(self) -> bool:
        return "org.mobyproject.buildkit.worker.moby.host-gateway-ip" not in self.labels or (
            "org.mobyproject.buildkit.worker.containerd.uuid" in self.labels
        )


@contextmanager
def open_node(builder: Builder, node: Node, environment: Mapping[str, str]) -> Iterator[Control]:
    """The daemon of a node, inside the block. Raises BuilderError."""
    if builder.driver == "docker":
        address = docker_address(environment, node.endpoint)
        with open_engine(address.connect, address.url) as control:
            yield control
    elif builder.driver == "remote":
        with open_buildkit(node.endpoint, _tls(node)) as control:
            yield control
    elif builder.driver == "docker-container":
        engine = "" if "://" in node.endpoint else f"?context={node.endpoint}"
        endpoint = f"docker-container://buildx_buildkit_{node.name}{engine}"
        with open_buildkit(endpoint) as control:
            yield control
    else:
        raise BuilderError(
            f"the builder {builder.name} has the driver {builder.driver}, which is not supported",
            hint="builders with the drivers docker, docker-container and remote can be used",
        )


def facts_of(control: Control) -> NodeFacts:
    """Asks a daemon for its facts. Raises RpcError."""
    workers = control.workers()
    labels = {key: value for worker in workers for key, value in worker.labels.items()}
    platforms = (
        Platform.parse("/".join(part for part in (one.os, one.architecture, one.variant) if part))
        for worker in workers
        for one in worker.platforms
    )
    return NodeFacts(control.version(), tuple(dict.fromkeys(platforms)), labels)


def _tls(node: Node) -> TlsFiles | None:
    options = node.driver_options
    files = TlsFiles(
        options.get("cacert", ""),
        options.get("cert", ""),
        options.get("key", ""),
        options.get("servername", ""),
    )
    return files if any((files.ca, files.certificate)) else None
