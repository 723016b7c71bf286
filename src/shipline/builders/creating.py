"""New nodes of builders, as `shipline builder create` is asked for them.

Source: docker/buildx, builder/builder.go, store/nodegroup.go.
"""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, urlencode

from msgspec import Struct

from shipline.builders.configuration import insecure_entitlements, read_configuration
from shipline.builders.driver import InvalidDriverOption, engine_errors
from shipline.builders.instances import FOREIGN, Builder, Node, check_name, parse_driver
from shipline.engines.finding import docker_endpoint
from shipline.errors import UsageError
from shipline.net import split_url, without_passwords
from shipline.oci import Platform
from shipline.values import replace

_REMOTE = ("tcp", "unix", "ssh", "docker-container", "kube-pod")
_FILES = ("cacert", "cert", "key")
_ALLOW = "--allow-insecure-entitlement"
_NETWORK_HOST = "network.host"


class NodeRequest(Struct, frozen=True):
    """What a node is to be; what is empty stays as it is, or is chosen."""

    name: str = ""
    endpoint: str = ""
    driver: str = ""
    platforms: tuple[Platform, ...] = ()
    driver_options: tuple[str, ...] = ()
    flags: str | None = None
    configuration: Path | None = None


def with_new_node(
    name: str,
    existing: Builder | None,
    asked: NodeRequest,
    environment: Mapping[str, str],
    directory: Path,
) -> tuple[Builder, Node]:
    """The builder `name` with the node, which is new or changed; `directory` is that of buildx.
    Raises UsageError.
    """
    driver = _driver(existing, asked, environment)
    builder = existing or Builder(name, driver, ())
    before = next((one for one in builder.nodes if one.name == asked.name), None)
    if driver in FOREIGN and (asked.flags or asked.configuration):
        raise InvalidDriverOption(
            f"the driver {driver} starts no daemon that takes --buildkitd-flags or"
            " --buildkitd-config",
            hint="give them to the daemon where it is started",
        )
    options = parse_driver_options(asked.driver_options)
    files = _files(driver, asked, directory)
    node = before or Node(check_name(asked.name or _free_name(builder)), "")
    changes: dict[str, object] = {}
    if before is None or asked.endpoint:
        changes["endpoint"] = _endpoint(name, node.name, driver, asked.endpoint, environment)
    if before is None or asked.platforms:
        changes["platforms"] = asked.platforms
    if before is None or options:
        changes["driver_options"] = options
    if before is None or files:
        changes["files"] = files
    if before is None or asked.flags is not None:
        changes["flags"] = _flags(driver, asked.flags or "", options, files)
    node = replace(node, **changes)
    if any(one.endpoint == node.endpoint for one in builder.nodes if one.name != node.name):
        raise UsageError(
            f"another node of {name} has the endpoint {without_passwords(node.endpoint)}",
            code="builder-endpoint",
            hint="name another engine or daemon, or change that node with --node",
        )
    nodes = [
        node if one.name == node.name else _without(one, node.platforms) for one in builder.nodes
    ]
    return replace(builder, nodes=tuple(nodes if before else [*nodes, node])), node


def _without(node: Node, platforms: Sequence[Platform]) -> Node:
    """The node without the platforms, which another one builds now."""
    return replace(node, platforms=tuple(one for one in node.platforms if one not in platforms))


def _driver(existing: Builder | None, asked: NodeRequest, environment: Mapping[str, str]) -> str:
    if existing is not None:
        if asked.driver not in ("", existing.driver):
            raise InvalidDriverOption(
                f"--driver: the builder has the driver {existing.driver}", hint="leave --driver out"
            )
        return existing.driver
    if asked.driver:
        return parse_driver(asked.driver)
    endpoint = asked.endpoint or environment.get("BUILDKIT_HOST", "")
    return "remote" if split_url(endpoint).scheme in _REMOTE else "docker-container"


def _endpoint(
    builder: str, node: str, driver: str, given: str, environment: Mapping[str, str]
) -> str:
    if driver == "remote":
        return given or environment.get("BUILDKIT_HOST", "")
    if driver == "kubernetes" and given:
        if split_url(given).scheme != "kubernetes":
            raise UsageError(
                f"{given!r} is not an endpoint of the driver kubernetes",
                code="builder-endpoint",
                hint="leave it out, or name a file: 'kubernetes://?kubeconfig=FILE&context=NAME'",
            )
        return given
    if driver == "kubernetes":
        query = {"deployment": node, "kubeconfig": environment.get("KUBECONFIG", "")}
        return f"kubernetes:///{quote(builder)}?{urlencode(query)}"
    if driver == "ssh":
        return given
    with engine_errors():
        return docker_endpoint(environment, given)


def parse_driver_options(given: Sequence[str]) -> dict[str, str]:
    """The options in lines of CSV, `K=V` each; paths of certificates become absolute. Raises
    UsageError.
    """
    options: dict[str, str] = {}
    for one in (field for text in given for field in next(csv.reader([text]))):
        key, equals, value = one.partition("=")
        if not equals:
            raise InvalidDriverOption(f"--driver-opt: {one!r} is not K=V")
        if key in _FILES and not Path(value).is_file():
            raise InvalidDriverOption(f"--driver-opt {key}: there is no file {value}")
        options[key] = str(Path(value).absolute()) if key in _FILES else value
    return options


def _flags(
    driver: str, given: str, options: Mapping[str, str], files: Mapping[str, bytes]
) -> tuple[str, ...]:
    """The flags of the daemon; its network is its own, so that builds may have it, as in buildx."""
    if driver in FOREIGN:
        return ()
    try:
        flags = shlex.split(given)
    except ValueError as error:
        raise InvalidDriverOption(f"--buildkitd-flags: {given!r} cannot be read: {error}") from None
    allowed = _allowed(flags)
    if driver == "docker-container" and options.get("network") == "host":
        adds = _NETWORK_HOST not in allowed
    else:
        adds = not allowed and _NETWORK_HOST not in insecure_entitlements(files)
    return (*flags, *([f"{_ALLOW}={_NETWORK_HOST}"] if adds else ()))


def _allowed(flags: Sequence[str]) -> list[str]:
    joined = [flag.partition("=")[2] for flag in flags if flag.startswith(f"{_ALLOW}=")]
    apart = [after for flag, after in pairwise(flags) if flag == _ALLOW]
    return joined + apart


def _files(driver: str, asked: NodeRequest, directory: Path) -> dict[str, bytes]:
    if driver in FOREIGN:
        return {}
    standard = directory / "buildkitd.default.toml"
    path = asked.configuration or (standard if standard.is_file() else None)
    return {} if path is None else read_configuration(path)


def _free_name(builder: Builder) -> str:
    taken = {node.name for node in builder.nodes}
    names = (f"{builder.name}{index}" for index in range(len(taken) + 1))
    return next(name for name in names if name not in taken)
