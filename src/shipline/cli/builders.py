"""`shipline builder create`, `use`, `stop`, `rm`: other machines and engines that build.

Flags are those of `docker buildx`, and so are the files that keep builders.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import click

from shipline.build import BuildRequest, parse_platforms
from shipline.builders.creating import NodeRequest, with_new_node
from shipline.builders.driver import Driver, State
from shipline.builders.instances import (
    FOREIGN,
    NATIVE,
    Builder,
    BuilderStore,
    Node,
    other_builder,
    without_node,
)
from shipline.builders.nodes import driver_of
from shipline.buildkit.control import Control
from shipline.buildkit.session import Login
from shipline.cli.build import shown
from shipline.cli.builder import NAMED_BUILDER, confirmed, timeout_option
from shipline.cli.completing import builders
from shipline.cli.engine import open_settings
from shipline.engines import EngineError
from shipline.engines.finding import docker_address, docker_contexts
from shipline.errors import BuilderError, ConfigError, FlagConflict, ShiplineError, UsageError
from shipline.events import Step
from shipline.home import docker_directory
from shipline.oci import Descriptor
from shipline.registry import changed_document
from shipline.tasks import TaskGroup

DOCKER = "docker"
"""The engine of docker's current context, as a builder without a file."""


def find_builder(name: str) -> Builder:
    """The builder of that name: one with a file, or a context of docker. Raises UsageError."""
    store = BuilderStore.of(os.environ)
    if found := store.find(name):
        return found
    if name == DOCKER:
        return Builder(name, "docker", (Node(name, ""),), dynamic=True)
    with suppress(EngineError):
        docker_address(os.environ, name)
        return Builder(name, "docker", (Node(name, name),), dynamic=True)
    known = ", ".join([NATIVE, DOCKER, *(one.name for one in store.stored())])
    raise UsageError(
        f"there is no builder {name!r}",
        code="builder-unknown",
        hint=f"known are {known}; make one with `shipline builder create`",
    )


@contextmanager
def open_nodes(name: str, timeout_s: float) -> Iterator[list[Control]]:
    """The daemons of a builder, inside the block."""
    builder = find_builder(name)
    drivers = [driver_of(builder, one, os.environ, timeout_s=timeout_s) for one in builder.nodes]
    with ExitStack() as stack:
        yield [stack.enter_context(one.open()) for one in drivers]


def build_on_builder(
    name: str, requests: Mapping[str, BuildRequest], step: Step
) -> dict[str, dict[str, str]]:
    """Build on the nodes of a builder; what it says of each result, as in buildx's metadata."""
    from shipline.builders.farm import build_on_nodes

    builder = find_builder(name)
    BuilderStore.of(os.environ).touch(name)
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
@click.option("--name", default="", help="The name of the builder.")
@click.option(
    "--driver",
    default="",
    help="docker-container, kubernetes, remote or ssh; ENDPOINT may call for it.",
)
@click.option(
    "--driver-opt", "options", multiple=True, metavar="K=V", help="Options of the driver."
)
@click.option("--node", default="", help="The name of the node: a new one, or one to change.")
@click.option("--append", is_flag=True, help="Add a node to a builder.")
@click.option("--leave", is_flag=True, help="Take a node out of a builder.")
@click.option(
    "--platform", "platforms", multiple=True, metavar="OS/ARCH", help="What it builds for."
)
@click.option(
    "--buildkitd-config",
    "--config",
    "configuration",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The buildkitd.toml of the node's daemon; certificates in it are copied, too.",
)
@click.option(
    "--buildkitd-flags", "flags", metavar="FLAGS", help="Flags of the node's daemon, in one word."
)
@click.option("--use", is_flag=True, help="Use this builder from now on.")
@click.option("--bootstrap", is_flag=True, help="Start it, and see whether it answers.")
@timeout_option
def create(
    endpoint: str | None,
    name: str,
    driver: str,
    options: Sequence[str],
    node: str,
    append: bool,
    leave: bool,
    platforms: Sequence[str],
    configuration: Path | None,
    flags: str | None,
    use: bool,
    bootstrap: bool,
    timeout_s: float,
) -> None:
    """Create a builder, or change its nodes; buildx sees it, too."""
    store = BuilderStore.of(os.environ)
    if (append or leave) and not name:
        raise FlagConflict("--append and --leave change a builder", hint="name it with --name")
    name = name or f"builder-{secrets.token_hex(3)}"
    _check_free(name)
    if leave and not node:
        raise FlagConflict("--leave takes a node out of a builder", hint="name it with --node")
    if leave:
        with store.changing(name) as before:
            store.write(without_node(_existing(name, before), node))
        return
    asked = NodeRequest(
        node,
        endpoint or "",
        driver,
        parse_platforms(platforms),
        tuple(options),
        flags,
        configuration,
    )
    with store.changing(name) as before:
        if append:
            _existing(name, before)
        elif before is not None and not node:
            raise UsageError(
                f"there is a builder {name!r} already",
                code="builder-exists",
                hint=f"add a node with --append, or remove it: shipline builder rm {name}",
            )
        builder, made = with_new_node(name, before, asked, os.environ, store.directory)
        daemon = driver_of(builder, made, os.environ, timeout_s=timeout_s)
        store.write(builder)
    if bootstrap:
        try:
            shown("boot", partial(boot, [daemon]), "auto")
        except BaseException:
            store.remove(name) if before is None else store.save(before)
            raise
    if use:
        store.select(name)
    click.echo(name)


def _check_free(name: str) -> None:
    if name in (NATIVE, DOCKER, "default", *docker_contexts(os.environ)):
        raise UsageError(
            f"--name: {name} is a builder that is always there",
            code="builder-exists",
            hint="choose another",
        )


def _existing(name: str, builder: Builder | None) -> Builder:
    if builder is None:
        raise UsageError(
            f"there is no builder {name!r} to change",
            code="builder-unknown",
            hint="leave --append out",
        )
    return builder


def boot(drivers: Sequence[Driver], step: Step) -> None:
    """Have the daemons run, and see that they answer. Raises BuilderError."""
    with TaskGroup() as group:
        for one in drivers:
            group.start(_boot, one, step)


def _boot(driver: Driver, step: Step) -> None:
    driver.boot(step)
    with driver.open() as control:
        control.version()


@click.command("use")
@click.argument("name", shell_complete=builders)
@click.option("--default", is_flag=True, hidden=True)
@click.option("--global", "global_", is_flag=True, hidden=True)
def use_command(name: str, **_: object) -> None:
    """Build with NAME from now on; `native` is the engine of this machine.

    The choice holds everywhere, as with --global of buildx.
    """
    if name != NATIVE:
        find_builder(name)
    BuilderStore.of(os.environ).select(name)


@click.command("stop")
@click.argument("name", required=False, shell_complete=builders)
@NAMED_BUILDER
@timeout_option
def stop(name: str | None, builder: str | None, timeout_s: float) -> None:
    """Stop the daemons of a builder, by default of the one in use; what they keep stays.

    The next build starts them again. Daemons that others start keep running.
    """
    if other := other_builder(name or builder, os.environ):
        found = find_builder(other)
        with TaskGroup() as group:
            for node in found.nodes:
                group.start(driver_of(found, node, os.environ, timeout_s=timeout_s).stop)


@click.command("rm")
@click.argument("names", nargs=-1, metavar="[NAME ..]", shell_complete=builders)
@click.option("--all-inactive", is_flag=True, help="Remove all builders that do not run.")
@click.option("-f", "--force", is_flag=True, help="Ask nothing.")
@click.option("--keep-daemon", is_flag=True, help="Leave the daemons running.")
@click.option("--keep-state", is_flag=True, help="Leave what the daemons keep on disk.")
@NAMED_BUILDER
@timeout_option
def rm(
    names: Sequence[str],
    all_inactive: bool,
    force: bool,
    keep_daemon: bool,
    keep_state: bool,
    builder: str | None,
    timeout_s: float,
) -> None:
    """Remove builders, by default the one in use, with the daemons that were started for them."""
    store = BuilderStore.of(os.environ)
    if all_inactive:
        if names:
            raise FlagConflict("--all-inactive: no names go with it", hint="leave one of both out")
        if not force and not confirmed(
            "WARNING! This will remove all builders that are not in running state."
        ):
            return
        names = [one.name for one in store.stored() if _is_inactive(one, timeout_s)]
    elif not names:
        names = [other_builder(builder, os.environ) or NATIVE]
    failures = []
    for name in names:
        try:
            if _remove(store, name, timeout_s, keep_daemon, keep_state):
                click.echo(f"{name} removed", err=True)
            else:
                raise UsageError(
                    f"there is no builder {name!r} to remove",
                    code="builder-unknown",
                    hint="see: shipline builder ls",
                )
        except ShiplineError as error:
            failures.append((name, error))
    for name, failure in failures[1:]:
        click.echo(f"failed to remove {name}: {failure.message}", err=True)
    if failures:
        raise failures[0][1]


def _remove(
    store: BuilderStore, name: str, timeout_s: float, keep_daemon: bool, keep_state: bool
) -> bool:
    """Remove a builder with its daemons, and whether there was one. Its file goes in any case."""
    try:
        builder = store.find(name)
    except (UsageError, ConfigError):  # damaged
        builder = None
    else:
        if builder is None and name in (NATIVE, DOCKER, *docker_contexts(os.environ)):
            raise UsageError(
                f"the builder {name} is always there",
                code="builder-exists",
                hint="name another one",
            )
    failure: ShiplineError | None = None
    if builder is not None and builder.driver not in FOREIGN:
        try:
            for node in builder.nodes:
                driver = driver_of(builder, node, os.environ, timeout_s=timeout_s)
                driver.remove(keep_state=keep_state, keep_daemon=keep_daemon)
        except ShiplineError as error:
            failure = error
    existed = store.remove(name)
    if failure is not None:
        raise BuilderError(
            f"{name} is forgotten, and a daemon of it may be left: {failure.message}",
            code="builder-daemon-left",
            hint="remove it where it runs",
        )
    return existed


@click.command("install")
def install() -> None:
    """Have `docker build` call the plugin docker-buildx: `builder` in `aliases` of config.json."""
    _set_alias("buildx")


@click.command("uninstall")
def uninstall() -> None:
    """Undo `install`."""
    _set_alias(None)


def _set_alias(plugin: str | None) -> None:
    path = docker_directory(os.environ) / "config.json"
    with changed_document(path) as document:
        aliases = document.get("aliases")
        kept = {**aliases} if isinstance(aliases, dict) else {}
        kept.pop("builder", None)
        document["aliases"] = {**kept, "builder": plugin} if plugin else kept
        if not document["aliases"]:
            del document["aliases"]


def _is_inactive(builder: Builder, timeout_s: float) -> bool:
    def runs(node: Node) -> bool:
        try:
            driver = driver_of(builder, node, os.environ, timeout_s=timeout_s)
            return driver.state() is State.RUNNING
        except ShiplineError:
            return False

    return not any(map(runs, builder.nodes))
