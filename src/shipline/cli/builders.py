"""`shipline builder create`, `use`, `ls`, `inspect`, `rm`: other machines and engines that build.

Flags and columns are those of `docker buildx`, and so are the files that keep builders.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from shipline import __version__
from shipline.build import BuildRequest, parse_platforms
from shipline.builders.instances import (
    NATIVE,
    Builder,
    BuilderStore,
    Node,
    check_name,
    other_builder,
    parse_driver,
    with_node,
)
from shipline.cli.engine import open_settings
from shipline.cli.template import render
from shipline.errors import ShiplineError, UsageError
from shipline.events import Step
from shipline.tasks import TaskGroup
from shipline.values import replace

if TYPE_CHECKING:
    from shipline.buildkit.control import Control
    from shipline.buildkit.session import Login
    from shipline.oci import Descriptor

DOCKER = "docker"
"""The engine of docker's current context, as a builder without a file."""

_REMOTE = ("tcp", "unix", "ssh", "docker-container", "kube-pod")


def find_builder(name: str) -> Builder:
    """The builder of that name: one with a file, or a context of docker. Raises UsageError."""
    from shipline.engines import EngineError
    from shipline.engines.finding import docker_address

    store = BuilderStore.of(os.environ)
    if found := store.find(name):
        return found
    context = "" if name == DOCKER else name
    with suppress(EngineError):
        docker_address(os.environ, context)
        return Builder(name, "docker", (Node(name, context),), dynamic=True)
    known = ", ".join([NATIVE, DOCKER, *(one.name for one in store.stored())])
    raise UsageError(
        f"there is no builder {name!r}",
        hint=f"known are {known}; make one with `shipline builder create`",
    )


@contextmanager
def open_nodes(name: str) -> Iterator[list[Control]]:
    """The daemons of a builder, inside the block."""
    from shipline.builders.nodes import open_node

    builder = find_builder(name)
    with ExitStack() as stack:
        yield [stack.enter_context(open_node(builder, one, os.environ)) for one in builder.nodes]


def build_on_builder(
    name: str, requests: Mapping[str, BuildRequest], step: Step
) -> dict[str, dict[str, str]]:
    """Build on the nodes of a builder; what it says of each result, as in buildx's metadata."""
    from shipline.builders.farm import build_on_nodes

    builder = find_builder(name)
    with open_settings(*requests.values()) as settings:
        return build_on_nodes(builder, requests, settings, _login(), step)


def call_on_builder(name: str, request: BuildRequest, step: Step) -> dict[str, bytes]:
    """What the frontend of a builder answers to --call, as documents by name."""
    from shipline.builders.farm import call_on_nodes

    builder = find_builder(name)
    with open_settings(request) as settings:
        return call_on_nodes(builder, request, settings, _login(), step)


def _login() -> Login:
    """The logins of this process, as daemons ask for them."""
    from shipline.registry import keychain_from

    keychain = keychain_from(os.environ)

    def login(host: str) -> tuple[str, str] | None:
        found = keychain.credentials(host, "")
        if found is None:
            return None
        if found.identity_token:
            return "", found.identity_token
        return found.username, found.password

    return login


def descriptors(found: Mapping[str, Mapping[str, str]]) -> dict[str, Descriptor]:
    """The images that a builder made, of those targets for which it names one."""
    from shipline.builders.farm import descriptor_of

    images = {name: descriptor_of(response) for name, response in found.items()}
    return {name: one for name, one in images.items() if one is not None}


@click.command("create")
@click.argument("endpoint", required=False, metavar="[CONTEXT|ENDPOINT]")
@click.option("--name", help="The name of the builder.")
@click.option("--driver", help="docker-container or remote; by default what ENDPOINT calls for.")
@click.option(
    "--driver-opt", "options", multiple=True, metavar="K=V", help="Options of the driver."
)
@click.option("--node", help="The name of the node.")
@click.option("--append", is_flag=True, help="Add a node to a builder.")
@click.option("--leave", is_flag=True, help="Take a node out of a builder.")
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="What it builds for."
)
@click.option("--use", is_flag=True, help="Use this builder from now on.")
@click.option("--bootstrap", is_flag=True, help="See whether it answers.")
def create(
    endpoint: str | None,
    name: str | None,
    driver: str | None,
    options: Sequence[str],
    node: str | None,
    append: bool,
    leave: bool,
    platforms: Sequence[str],
    use: bool,
    bootstrap: bool,
) -> None:
    """Create a builder, or change its nodes; buildx sees it, too."""
    store = BuilderStore.of(os.environ)
    name = name or f"builder-{secrets.token_hex(3)}"
    check_name(name)
    if name in (NATIVE, DOCKER, "default"):
        raise UsageError(f"--name: {name} is a builder that is always there", hint="choose another")
    existing = store.find(name)
    if (append or leave) and existing is None:
        raise UsageError(f"there is no builder {name!r} to change", hint="leave --append out")
    if existing is not None and not (append or leave or node):
        raise UsageError(
            f"there is a builder {name!r} already",
            hint="add a node with --append, or remove it: shipline builder rm " + name,
        )
    if leave:
        assert existing is not None
        store.save(_without(existing, node))
        return
    chosen = _driver(driver, endpoint, existing)
    builder = existing or Builder(name, chosen, ())
    made = Node(
        node or _free_name(builder),
        endpoint or "",
        parse_platforms(platforms),
        _options(options),
    )
    builder = with_node(builder, made)
    if bootstrap:
        _reach(builder, made)
    store.save(builder)
    if use:
        store.select(name)
    click.echo(name)


def _driver(driver: str | None, endpoint: str | None, existing: Builder | None) -> str:
    if existing is not None and driver not in (None, existing.driver):
        raise UsageError(
            f"--driver: the builder has the driver {existing.driver}", hint="leave --driver out"
        )
    by_endpoint = "remote" if urlsplit(endpoint or "").scheme in _REMOTE else "docker-container"
    chosen = parse_driver(driver or (existing.driver if existing else by_endpoint))
    if chosen == "remote" and urlsplit(endpoint or "").scheme not in _REMOTE:
        raise UsageError(
            "a remote builder needs an endpoint",
            hint="as tcp://HOST:1234, unix:///run/buildkit/buildkitd.sock or ssh://USER@HOST",
        )
    return chosen


def _options(given: Sequence[str]) -> dict[str, str]:
    fields = [part for one in given for part in one.split(",")]
    for one in fields:
        if "=" not in one:
            raise UsageError(f"--driver-opt: {one!r} is not K=V")
    options = dict(one.split("=", 1) for one in fields)
    for name in ("cacert", "cert", "key"):
        if name in options:
            options[name] = str(Path(options[name]).absolute())
    return options


def _free_name(builder: Builder) -> str:
    taken = {node.name for node in builder.nodes}
    return next(
        name for name in (f"{builder.name}{index}" for index in range(1000)) if name not in taken
    )


def _without(builder: Builder, node: str | None) -> Builder:
    left = tuple(one for one in builder.nodes if one.name != node)
    if len(left) == len(builder.nodes):
        names = ", ".join(one.name for one in builder.nodes)
        raise UsageError(f"--node: {builder.name} has no node {node!r}", hint=f"its nodes: {names}")
    if not left:
        raise UsageError(
            f"{node} is the only node of {builder.name}",
            hint=f"remove the builder: shipline builder rm {builder.name}",
        )
    return replace(builder, nodes=left)


@click.command("use")
@click.argument("name")
@click.option("--default", is_flag=True, hidden=True)
@click.option("--global", "global_", is_flag=True, hidden=True)
def use_command(name: str, **_: object) -> None:
    """Build with NAME from now on; `native` is the engine of this machine."""
    if name != NATIVE:
        find_builder(name)
    BuilderStore.of(os.environ).select(name)


@click.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME ..")
@click.option("-f", "--force", is_flag=True, help="Say nothing of builders that are not there.")
@click.option("--keep-state", is_flag=True, hidden=True)
@click.option("--keep-daemon", is_flag=True, hidden=True)
def rm(names: Sequence[str], force: bool, **_: object) -> None:
    """Forget builders; their daemons go on."""
    store = BuilderStore.of(os.environ)
    for name in names:
        if not store.remove(name) and not force:
            raise UsageError(f"there is no builder {name!r}", hint="list them: shipline builder ls")
        click.echo(f"{name} removed", err=True)


@click.command("ls")
@click.option("--format", "template", default="table", help="table, json, or a Go template.")
def ls(template: str) -> None:
    """List builders, with their nodes."""
    store = BuilderStore.of(os.environ)
    selected = store.selected()
    with TaskGroup() as group:
        tasks = [group.start(_described, one) for one in (find_builder(DOCKER), *store.stored())]
    rows = [_native(), *(task.result() for task in tasks)]
    if template != "table":
        for row in rows:
            values = {**row, "Current": row["Name"] == selected}
            click.echo(json.dumps(values) if template == "json" else render(template, values))
        return
    click.echo(_line("NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"))
    for row in rows:
        mark = "*" if row["Name"] == selected else ""
        click.echo(_line(f"{row['Name']}{mark}", row["Driver"], "", "", ""))
        for node in row["Nodes"]:
            platforms = ", ".join(node["Platforms"])
            shown = (f" \\_ {node['Name']}", f" \\_ {node['Endpoint']}", node["Status"])
            click.echo(_line(*shown, node["Version"], platforms))
            if node["Error"]:
                click.echo(f"    {node['Error']}")


@click.command("inspect")
@click.argument("name", required=False)
@click.option("--bootstrap", is_flag=True, help="Fail unless it answers.")
def inspect(name: str | None, bootstrap: bool) -> None:
    """Show a builder, by default the one in use."""
    other = other_builder(name, os.environ)
    row = _described(find_builder(other), raise_errors=bootstrap) if other else _native()
    click.echo(f"Name:   {row['Name']}\nDriver: {row['Driver']}\n\nNodes:")
    for node in row["Nodes"]:
        fields = {
            "Name": node["Name"],
            "Endpoint": node["Endpoint"],
            "Error": node["Error"],
            "Status": node["Status"],
            "BuildKit version": node["Version"],
            "Platforms": ", ".join(node["Platforms"]),
        }
        for title, value in fields.items():
            if value:
                click.echo(f"{title + ':':<18}{value}")
        if node["Labels"]:
            click.echo("Labels:")
        for title, value in sorted(node["Labels"].items()):
            click.echo(f" {title + ':':<50} {value}")


def _native() -> dict[str, Any]:
    from shipline.sandbox import supported_platforms

    node = {
        "Name": NATIVE,
        "Endpoint": "this process",
        "Status": "running",
        "Version": f"shipline {__version__}",
        "Platforms": [str(one) for one in supported_platforms()],
        "Labels": {},
        "Error": "",
    }
    return {"Name": NATIVE, "Driver": NATIVE, "Nodes": [node]}


def _described(builder: Builder, *, raise_errors: bool = False) -> dict[str, Any]:
    nodes = []
    for node in builder.nodes:
        found: dict[str, Any] = {
            "Name": node.name,
            "Endpoint": node.endpoint or "default",
            "Status": "running",
            "Version": "",
            "Platforms": [f"{one}*" for one in node.platforms],
            "Labels": {},
            "Error": "",
        }
        try:
            facts = _reach(builder, node)
        except ShiplineError as error:
            if raise_errors:
                raise
            found |= {"Status": "inactive", "Error": error.message}
        else:
            fixed = set(node.platforms)
            found["Version"] = facts.version
            found["Platforms"] += [str(one) for one in facts.platforms if one not in fixed]
            found["Labels"] = dict(facts.labels)
        nodes.append(found)
    return {"Name": builder.name, "Driver": builder.driver, "Nodes": nodes}


def _reach(builder: Builder, node: Node) -> Any:
    from shipline.builders.nodes import facts_of, open_node

    with open_node(builder, node, os.environ) as control:
        return facts_of(control)


def _line(*columns: str) -> str:
    widths = (20, 34, 10, 22, 0)
    return "".join(f"{text:<{width}}" for text, width in zip(columns, widths, strict=True)).rstrip()
