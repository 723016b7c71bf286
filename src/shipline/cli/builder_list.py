"""`shipline builder ls` and `inspect`: builders as `docker buildx` shows them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import click
from msgspec import Struct

from shipline import __version__
from shipline.builders.driver import State
from shipline.builders.instances import NATIVE, Builder, BuilderStore, Node, other_builder
from shipline.builders.nodes import NodeFacts, driver_of, facts_of
from shipline.buildkit.messages import GcRule
from shipline.cli.build import shown
from shipline.cli.builder import NAMED_BUILDER, timeout_option
from shipline.cli.builders import DOCKER, boot, find_builder
from shipline.cli.completing import builders
from shipline.cli.tables import columns, line, table
from shipline.engines.finding import docker_contexts
from shipline.errors import ShiplineError
from shipline.net import without_passwords
from shipline.observe import clean
from shipline.tasks import TaskGroup
from shipline.units import go_size

_HEADS = {
    "Name": "NAME/NODE",
    "DriverEndpoint": "DRIVER/ENDPOINT",
    "Status": "STATUS",
    "Buildkit": "BUILDKIT",
    "Platforms": "PLATFORMS",
    "LastActivity": "LAST ACTIVITY",
    "Error": "ERROR",
}
_TABLE = "{{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}"
_NEVER = "0001-01-01T00:00:00Z"
_FIRST = tuple(
    f"linux/{one}" for one in ("amd64", "arm64", "arm", "ppc64le", "s390x", "riscv64", "mips64")
)
_SHOWN_GROUPS = 4


class _SeenNode(Struct, frozen=True):
    """A node, with what it and its driver say of it."""

    node: Node
    status: str
    facts: NodeFacts
    error: str = ""

    @property
    def platforms(self) -> list[str]:
        """Those that are fixed for the node first, each with a star."""
        fixed = self.node.platforms
        others = (one for one in self.facts.platforms if one not in fixed)
        return [*(f"{one}*" for one in fixed), *map(str, others)]


class _SeenBuilder(Struct, frozen=True):
    builder: Builder
    nodes: tuple[_SeenNode, ...]
    last_activity: str
    current: bool


@click.command("ls")
@click.option("--format", "template", default="table", help="table, json, or a Go template.")
@click.option("--no-trunc", "whole", is_flag=True, help="Show all platforms.")
@timeout_option
def ls(template: str, whole: bool, timeout_s: float) -> None:
    """List builders, with their nodes."""
    found = _look([_native(), *_others()], timeout_s)
    if template == "json":
        for one in found:
            click.echo(json.dumps(_json(one)))
        return
    rows = [row for one in found for row in _rows(one, whole)]
    if template.replace(" ", "") == "{{json.}}":  # a row is its builder as JSON, as in buildx
        for row in rows:
            click.echo(json.dumps(row["Builder"]))
    elif template == "table" or template.startswith("table "):
        own = template.partition(" ")[2]
        click.echo(table(own or _TABLE, _HEADS, _marked(rows)), nl=False)
    else:
        for row in rows:
            click.echo(line(template, row))
    for row in rows:
        if row["Error"] and not row["Builder"]["Dynamic"]:
            told = f"{row['Builder']['Name']} ({row['Name']}): {row['Error']}"
            click.echo(clean(told), err=True)


@click.command("inspect")
@click.argument("name", required=False, shell_complete=builders)
@click.option("--bootstrap", is_flag=True, help="Start it, and fail unless it answers.")
@NAMED_BUILDER
@timeout_option
def inspect(name: str | None, bootstrap: bool, builder: str | None, timeout_s: float) -> None:
    """Show a builder, by default the one in use."""
    other = other_builder(name or builder, os.environ)
    found = find_builder(other) if other else _native()
    if bootstrap and other:
        drivers = [driver_of(found, one, os.environ, timeout_s=timeout_s) for one in found.nodes]
        shown("boot", partial(boot, drivers), "auto")
    click.echo(_text(_look([found], timeout_s)[0]), nl=False)


def _others() -> Iterator[Builder]:
    """The engine of docker, the builders with a file, and the other contexts of docker."""
    stored = BuilderStore.of(os.environ).stored()
    yield find_builder(DOCKER)
    yield from (one for one in stored if one.name != DOCKER)
    known = {DOCKER, *(one.name for one in stored)}
    yield from (find_builder(one) for one in docker_contexts(os.environ) if one not in known)


def _look(builders: Sequence[Builder], timeout_s: float) -> list[_SeenBuilder]:
    """The builders with all that can be learned of them, asked at once."""
    store = BuilderStore.of(os.environ)
    selected = store.selected()
    with TaskGroup() as group:
        tasks = [
            [group.start(_look_at, one, node, timeout_s) for node in one.nodes] for one in builders
        ]
    return [
        _SeenBuilder(
            one,
            tuple(task.result() for task in nodes),
            store.last_activity(one.name),
            one.name == selected,
        )
        for one, nodes in zip(builders, tasks, strict=True)
    ]


def _native() -> Builder:
    """The engine of this process. As docker's plugin it loads results as the driver `docker` does,
    which programs look for before they ask the engine for an image.
    """
    from shipline.cli.build import loads_for_docker

    driver = DOCKER if loads_for_docker(os.environ) else NATIVE
    return Builder(NATIVE, driver, (Node(NATIVE, "this process"),), dynamic=True)


def _look_at(builder: Builder, node: Node, timeout_s: float) -> _SeenNode:
    if builder.name == NATIVE:
        from shipline.sandbox import supported_platforms

        facts = NodeFacts(f"shipline {__version__}", tuple(supported_platforms()), {})
        return _SeenNode(node, State.RUNNING, facts)
    status, facts = State.INACTIVE, NodeFacts("", (), {})
    try:
        driver = driver_of(builder, node, os.environ, timeout_s=timeout_s)
        status = driver.state()
        if status is State.RUNNING:
            with driver.open() as control:
                facts = facts_of(control)
    except ShiplineError as error:
        return _SeenNode(node, State.INACTIVE, facts, error.message)
    return _SeenNode(node, status, facts)


def _rows(seen: _SeenBuilder, whole: bool) -> Iterator[dict[str, Any]]:
    """A row for the builder, and one for each of its nodes."""
    document = _json(seen)
    common = {"Builder": document, "LastActivity": seen.last_activity, "Current": seen.current}
    yield common | {
        "Name": seen.builder.name,
        "DriverEndpoint": seen.builder.driver,
        "Status": "",
        "Buildkit": "",
        "Platforms": "",
        "Error": "",
        "Node": "",
    }
    for one in seen.nodes:
        yield common | {
            "Name": one.node.name,
            "DriverEndpoint": without_passwords(one.node.endpoint) or "default",
            "Status": one.status,
            "Buildkit": one.facts.version,
            "Platforms": ", ".join(one.platforms) if whole else shortened(one.platforms),
            "Error": one.error,
            "Node": one.node.name,
        }


def _marked(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows as a table has them: the builder in use with a star, nodes below their builder."""
    for row in rows:
        if not row["Node"]:
            yield {**row, "Name": row["Name"] + ("*" if row["Current"] else "")}
            continue
        names = {key: rf" \_ {row[key]}" for key in ("Name", "DriverEndpoint")}
        yield {**row, **names}


def shortened(platforms: Sequence[str]) -> str:
    """At most four architectures, common ones first; `linux/amd64 (+3)` has three variants."""
    groups: dict[str, list[str]] = {}
    for one in platforms:
        groups.setdefault("/".join(one.rstrip("*").split("/")[:2]), []).append(one)
    order = [*(one for one in _FIRST if one in groups), *sorted(groups.keys() - {*_FIRST})]
    shown = []
    for name in order[:_SHOWN_GROUPS]:
        group = groups[name]
        star = "*" if any(one.endswith("*") for one in group) else ""
        shown.append(group[0] if len(group) == 1 else f"{name}{star} (+{len(group)})")
    left = sum(len(groups[name]) for name in order[_SHOWN_GROUPS:])
    return ", ".join([*shown, *([f"({left} more)"] if left else [])])


def _json(seen: _SeenBuilder) -> dict[str, Any]:
    """The fields that buildx has."""
    return {
        "Current": seen.current,
        "Driver": seen.builder.driver,
        "Dynamic": seen.builder.dynamic,
        "LastActivity": seen.last_activity or _NEVER,
        "Name": seen.builder.name,
        "Nodes": [_node_json(one) for one in seen.nodes],
    }


def _node_json(seen: _SeenNode) -> dict[str, Any]:
    node, facts = seen.node, seen.facts
    fields = {
        "DriverOpts": dict(node.driver_options),
        "Endpoint": without_passwords(node.endpoint),
        "Err": seen.error,
        "Files": {name: base64.b64encode(content).decode() for name, content in node.files.items()},
        "Flags": [*node.flags],
        "GCPolicy": [
            {
                "all": rule.all,
                "filter": rule.filters or None,
                "keepDuration": rule.keep_duration,
                "maxUsedSpace": rule.max_used_space,
                "minFreeSpace": rule.min_free_space,
                "reservedSpace": rule.reserved_space,
            }
            for rule in facts.gc_policy
        ],
        "IDs": [*facts.ids],
        "Labels": dict(facts.labels),
        "Name": node.name,
        "Platforms": [one.rstrip("*") for one in seen.platforms],
        "Status": seen.status,
        "Version": facts.version,
    }
    return {name: value for name, value in fields.items() if value or name == "Endpoint"}


def _text(seen: _SeenBuilder) -> str:
    builder = seen.builder
    head = {
        "Name": builder.name,
        "Driver": builder.driver,
        "Last Activity": _moment(seen.last_activity),
    }
    nodes = "\n".join(map(_node_text, seen.nodes))
    return f"{_fields(head)}\nNodes:\n{nodes}"


def _node_text(seen: _SeenNode) -> str:
    node, facts = seen.node, seen.facts
    options = " ".join(f"{key}={json.dumps(value)}" for key, value in node.driver_options.items())
    fields = {
        "Name": node.name,
        "Endpoint": without_passwords(node.endpoint) or "default",
        "Driver Options": options,
        "Error": seen.error,
        "Status": seen.status,
        "BuildKit daemon flags": " ".join(node.flags),
        "BuildKit version": facts.version,
        "Platforms": ", ".join(seen.platforms),
    }
    parts = [_fields(fields)]
    if facts.labels:
        parts.append(f"Labels:\n{_fields(dict(sorted(facts.labels.items())), ' ')}")
    for device in facts.devices:
        named = {
            "Name": device.name,
            "On-Demand": "true" if device.on_demand else "",
            "Automatically allowed": "" if device.on_demand else str(device.auto_allow).lower(),
        }
        heading = "" if device is not facts.devices[0] else "Devices:\n"
        parts.append(heading + _fields(named, " ") + _annotations(device.annotations))
    for number, rule in enumerate(facts.gc_policy):
        parts.append(f"GC Policy rule#{number}:\n{_fields(_rule(rule), ' ')}")
    for name, content in sorted(node.files.items()):
        lines = content.decode(errors="replace").split("\n")
        parts.append(f"File#{name}:\n" + "".join(f" > {line}\n" for line in lines))
    return "".join(parts)


def _annotations(annotations: Mapping[str, str]) -> str:
    return f" Annotations:\n{_fields(annotations, '  ')}" if annotations else ""


def _fields(values: Mapping[str, str], indent: str = "") -> str:
    rows = [(f"{indent}{name}:", value) for name, value in values.items() if value]
    return columns(rows, 1)


def _rule(rule: GcRule) -> dict[str, str]:
    return {
        "All": str(rule.all).lower(),
        "Filters": " ".join(rule.filters),
        "Keep Duration": _duration(rule.keep_duration),
        "Reserved Space": _size(rule.reserved_space),
        "Max Used Space": _size(rule.max_used_space),
        "Min Free Space": _size(rule.min_free_space),
    }


def _moment(text: str) -> str:
    """A time of RFC 3339 as Go shows it."""
    return text.replace("T", " ").replace("Z", " +0000 UTC")


def _duration(nanoseconds: int) -> str:
    """As Go writes it: `48h0m0s`; empty for none."""
    minutes, seconds = divmod(nanoseconds // 1_000_000_000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if nanoseconds else ""


def _size(bytes_: float) -> str:
    return go_size(bytes_, 1024) if bytes_ else ""
