"""The driver `docker-container`: a buildkitd in a container of a Docker engine.

Containers and volumes have the names and settings of buildx, so that both programs use the same
ones. Source: docker/buildx, driver/docker-container; docs.docker.com, Engine API.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from shipline.build import parse_boolean
from shipline.build.attributes import parse_integer
from shipline.build.flags import parse_resources
from shipline.builders.configuration import CONFIGURATION, PLACE
from shipline.builders.driver import InvalidDriverOption, State, engine_errors
from shipline.builders.instances import Node
from shipline.buildkit.connecting import open_pipe
from shipline.buildkit.control import Control
from shipline.engines.containers import Containers
from shipline.engines.docker import DockerApi
from shipline.engines.engine import EngineError
from shipline.engines.finding import docker_address
from shipline.errors import BuilderError
from shipline.events import Step
from shipline.grpc.connection import Pipe
from shipline.oci import Reference, Resources
from shipline.registry import keychain_from
from shipline.tasks import after_cancel, sleep, time_limit
from shipline.values import replace

IMAGE = "moby/buildkit:buildx-stable-1"
_STATE = "/var/lib/buildkit"
_CGROUP = "/docker/buildx"  # of engines that make control groups themselves
_DIAL = ("buildctl", "dial-stdio")
_POLL_S = 0.1
_CLEAN_S = 30.0
_LOG_LINES, _SHOWN_LINES = 100, 5
_RESTARTS = 2
_QUIET = re.compile(r"level=(debug|info|warning)")
_FAILURE = re.compile(r"error|incorrect|fail|invalid|can't|cannot|denied|panic|no such", re.I)
_POLICIES = ("no", "always", "unless-stopped", "on-failure")
_LIMITS = (
    *("memory", "memory-swap", "cpu-period", "cpu-quota", "cpu-shares"),
    *("cpuset-cpus", "cpuset-mems"),
)
_FLAGS = ("default-load", "provenance-add-gha", "allow-untrusted-image")
_OPTIONS = ("image", "network", *_LIMITS, "cgroup-parent", "restart-policy", *_FLAGS, "env.NAME")


class ContainerOptions(Struct, frozen=True):
    """The options of the driver. `restarts` is how often a policy `on-failure` tries, 0 for ever;
    `add_event` tells provenance what started a run of GitHub Actions.
    """

    image: Reference
    network: str
    resources: Resources
    restart: str
    restarts: int
    environment: Mapping[str, str]
    add_event: bool


def parse_options(options: Mapping[str, str]) -> ContainerOptions:
    """Raises UsageError for options that the driver does not have, and for values."""
    variables = {key[4:]: value for key, value in options.items() if key.startswith("env.")}
    for key in options:
        if key == "env." or not (key in _OPTIONS or key.startswith("env.")):
            raise InvalidDriverOption(
                f"--driver-opt: the driver docker-container has no option {key!r}",
                hint=f"its options are {', '.join(_OPTIONS)}",
            )
    for key in _FLAGS:
        parse_boolean(options.get(key, "false"), f"--driver-opt {key}")
    policy, _, count = options.get("restart-policy", "unless-stopped").partition(":")
    if policy not in _POLICIES or (count and policy != "on-failure"):
        raise InvalidDriverOption(
            f"--driver-opt restart-policy: {options['restart-policy']!r} is not a policy",
            hint=f"write {', '.join(_POLICIES)} or on-failure:COUNT",
        )
    limits = {key: options[key] for key in _LIMITS if key in options}
    resources = parse_resources((), limits, "--driver-opt")
    return ContainerOptions(
        Reference.parse(options.get("image") or IMAGE).or_latest,
        options.get("network", ""),
        replace(resources, cgroup_parent=options.get("cgroup-parent", "")),
        policy,
        parse_integer(count or "0", "--driver-opt restart-policy"),
        variables,
        parse_boolean(options.get("provenance-add-gha", "true"), "--driver-opt provenance-add-gha"),
    )


class ContainerDriver:
    """The container of a node; the endpoint is a context of docker, or the address of an engine."""

    def __init__(self, node: Node, environment: Mapping[str, str], timeout_s: float) -> None:
        """Raises UsageError for options that cannot be used, and BuilderError for an engine."""
        self._node, self._environment, self._timeout_s = node, environment, timeout_s
        self._options = parse_options(node.driver_options)
        self._engine = containers_of(node.endpoint, environment)
        self._name = f"buildx_buildkit_{node.name}"
        self._volume = f"{self._name}_state"

    def state(self) -> State:
        with engine_errors(), time_limit(self._timeout_s):
            found = self._engine.find(self._name)
        if found is None:
            return State.INACTIVE
        return State.RUNNING if found["State"].get("Running") else State.STOPPED

    def boot(self, step: Step) -> None:
        state = self.state()
        if state is State.RUNNING:
            return
        with step.step(f"boot BuildKit in {self._name}") as booting, engine_errors():
            if state is State.STOPPED:
                self._engine.start(self._name)
                self._wait()
                return
            self._pull(booting)
            kept = self._engine.has_volume(self._volume)
            made = False
            try:
                made = self._engine.create(self._name, self._document())
                if made and (files := self._files()):
                    self._engine.put(self._name, "/etc", files)
                self._engine.start(self._name)
                self._wait()
            except BaseException:
                if made:
                    with suppress(EngineError, TimeoutError), after_cancel(_CLEAN_S):
                        self._remove(keep_state=kept)
                raise

    def open(self, key: str = "") -> AbstractContextManager[Control]:
        return open_container(self._engine, self._name, self._timeout_s)

    def dial(self) -> AbstractContextManager[Pipe]:
        return dial_container(self._engine, self._name)

    def stop(self) -> None:
        with engine_errors():
            if self._engine.find(self._name) is not None:
                self._engine.stop(self._name)

    def remove(self, *, keep_state: bool, keep_daemon: bool) -> None:
        if not keep_daemon:
            with engine_errors():
                self._remove(keep_state=keep_state)

    def _remove(self, *, keep_state: bool) -> None:
        if self._engine.find(self._name) is not None:
            self._engine.stop(self._name)  # so that what it keeps is whole
            self._engine.remove(self._name)
        if not keep_state:
            self._engine.remove_volume(self._volume)

    def _pull(self, step: Step) -> None:
        """Have the image in the engine, the newest if the name allows for others."""
        image = self._options.image
        name = image.familiar
        if image.digest is not None and self._engine.has_image(name):
            return
        with step.step(f"pull {name}") as pulling:
            try:
                self._engine.pull(name, self._login(image.host))
            except EngineError as error:
                if not self._engine.has_image(name):
                    raise
                pulling.warn(f"{name} is used as it is here: {error.message}")

    def _login(self, host: str) -> dict[str, str]:
        """As AuthConfig of the Engine API; empty if there is none."""
        found = keychain_from(self._environment).credentials(host, "")
        if found is None:
            return {}
        if found.identity_token:
            return {"serveraddress": host, "identitytoken": found.identity_token}
        return {"serveraddress": host, "username": found.username, "password": found.password}

    def _document(self) -> dict[str, object]:
        options, configured = self._options, CONFIGURATION in self._node.files
        command = ["--config", f"{PLACE}/{CONFIGURATION}"] if configured else []
        return {
            "Image": options.image.familiar,
            "Env": [f"{name}={value}" for name, value in options.environment.items()],
            "Cmd": [*command, *self._node.flags],
            "HostConfig": self._host_settings(),
        }

    def _host_settings(self) -> dict[str, object]:
        options, info = self._options, self._engine.info()
        limits = options.resources
        is_maker = info.get("CgroupDriver") == "cgroupfs"
        remapped = any("name=userns" in one for one in info.get("SecurityOptions") or ())
        settings = {
            "NetworkMode": options.network,
            "Memory": limits.memory,
            "MemorySwap": limits.memory_swap,
            "CpuShares": limits.cpu_shares,
            "CpuPeriod": limits.cpu_period,
            "CpuQuota": limits.cpu_quota,
            "CpusetCpus": limits.cpuset_cpus,
            "CpusetMems": limits.cpuset_mems,
            "CgroupParent": limits.cgroup_parent or (_CGROUP if is_maker else ""),
            "UsernsMode": "host" if remapped else "",  # it is privileged
        }
        return {name: value for name, value in settings.items() if value} | {
            "Privileged": True,
            "Init": True,
            "RestartPolicy": {"Name": options.restart, "MaximumRetryCount": options.restarts},
            "Mounts": [{"Type": "volume", "Source": self._volume, "Target": _STATE}],
        }

    def _files(self) -> dict[str, bytes]:
        """What is written below /etc."""
        files = dict(self._node.files)
        if self._options.add_event and (event := _github_event(self._environment)):
            files["provenance.d/github_event.json"] = event
        return {f"buildkit/{path}": content for path, content in files.items()}

    def _wait(self) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                with self.open() as control:
                    control.version()
                return
            except BuilderError as error:
                found = self._engine.find(self._name)
                if time.monotonic() >= deadline or not _is_coming(found):
                    raise self._silent(found, error) from None
            sleep(_POLL_S)

    def _silent(self, found: Mapping[str, Any] | None, error: BuilderError) -> BuilderError:
        said = "" if found is None else last_words(self._engine.logs(self._name, _LOG_LINES))
        return BuilderError(
            f"BuildKit in the container {self._name} does not answer: {error.message}"
            + (f"; the container says:\n{said}" if said else ""),
            code="builder-no-answer",
            hint="correct the builder's --driver-opt, --buildkitd-flags or --buildkitd-config",
        )


@contextmanager
def open_container(engine: Containers, name: str, timeout_s: float) -> Iterator[Control]:
    """The BuildKit in a container, which must run. Raises BuilderError."""
    with (
        dial_container(engine, name) as pipe,
        open_pipe(nullcontext(pipe), name, timeout_s=timeout_s) as control,
    ):
        yield control


@contextmanager
def dial_container(engine: Containers, name: str) -> Iterator[Pipe]:
    """The bytes to and from the BuildKit in a container. Raises BuilderError."""
    with ExitStack() as stack:
        with engine_errors():
            pipe = stack.enter_context(engine.running(name, _DIAL))
        yield pipe


def containers_of(endpoint: str, environment: Mapping[str, str]) -> Containers:
    """Those of the engine at an address, or in a context of docker. Raises BuilderError."""
    with engine_errors():
        if "://" in endpoint:
            address = docker_address({**environment, "DOCKER_HOST": endpoint})
        else:
            address = docker_address(environment, endpoint)
        return Containers(DockerApi(address))


def last_words(log: str) -> str:
    """Why a daemon ended: the last lines that tell of a failure, or else the last ones; without
    Go's traces, a function and a place with a tab before it each, and what is not an error.
    """
    lines = log.splitlines()
    after = [*lines[1:], ""]
    told = [
        one
        for one, next_ in zip(lines, after, strict=True)
        if not one.startswith("\t") and not next_.startswith("\t") and not _QUIET.search(one)
    ]
    failures = [one for one in told if _FAILURE.search(one)]
    return "\n".join([*dict.fromkeys(failures or told)][-_SHOWN_LINES:])


def _is_coming(container: Mapping[str, Any] | None) -> bool:
    """Whether its program may answer soon."""
    if container is None or container["RestartCount"] > _RESTARTS:
        return False
    return bool(container["State"]["Running"] or container["State"]["Restarting"])


def _github_event(environment: Mapping[str, str]) -> bytes:
    """What started a run of GitHub Actions, as BuildKit's provenance takes it; empty elsewhere."""
    event: dict[str, object] = {}
    if name := environment.get("GITHUB_EVENT_NAME"):
        event["github_event_name"] = name
    if path := environment.get("GITHUB_EVENT_PATH"):
        with suppress(OSError, ValueError):
            event["github_event_payload"] = json.loads(Path(path).read_bytes())
    return json.dumps(event).encode() if event else b""
