"""A Docker engine of its own, with the BuildKit that is built into it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from peers.binfmt import can_run_arm64
from peers.process import PeerFailed, running
from peers.registry import Registry

_IN_NAMESPACE = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
_IN_CGROUP = ("sh", "-c", 'echo $$ > "$0" && exec "$@"')
_SCRIPT = Path(__file__).parents[2] / "scripts" / "peers.sh"


@cache
def newest() -> Mapping[str, str]:
    """Environment in which programs are the newest peers' (`scripts/peers.sh`), fetched if missing.

    Raises PeerFailed.
    """
    done = subprocess.run(["sh", _SCRIPT], capture_output=True, text=True)
    if done.returncode:
        raise PeerFailed(f"the newest peers cannot be fetched:\n{done.stderr}")
    folder = Path(done.stdout.strip())
    path = [str(folder / "usr/bin"), str(folder / "usr/sbin"), os.environ["PATH"]]
    libraries = folder / f"usr/lib/{platform.machine()}-linux-gnu"
    return {"PATH": os.pathsep.join(path), "LD_LIBRARY_PATH": str(libraries)}


def engine_version(programs: Mapping[str, str]) -> str:
    """What the engine among `programs` says of itself, without being started."""
    words = [_program("dockerd", programs), "--version"]
    done = subprocess.run(words, env={**os.environ, **programs}, capture_output=True, text=True)
    return done.stdout.strip()


def _program(name: str, environment: Mapping[str, str]) -> str:
    path = shutil.which(name, path=environment.get("PATH"))
    if path is None:
        raise PeerFailed(f"{name} is not installed (see scripts/packages.sh)")
    return path


@dataclass(frozen=True)
class Docker:
    """An engine that answers at `host`; `config` is the directory of its client.

    `programs` says where client and engine are found, as environment: `newest()`, or the system's.
    """

    host: str
    config: Path
    log: Path | None = None
    programs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let the client find the buildx that lies beside it, before the system's."""
        self.config.mkdir(exist_ok=True)
        program = Path(_program("docker", self.programs))
        beside, plugins = (
            program.parents[1] / "libexec/docker/cli-plugins",
            self.config / "cli-plugins",
        )
        if beside.is_dir() and not plugins.is_symlink():
            plugins.symlink_to(beside)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.programs,
            "DOCKER_HOST": self.host,
            "DOCKER_CONFIG": str(self.config),
            "BUILDKIT_PROGRESS": "plain",
        }

    def run(
        self, *arguments: str | Path, input: bytes | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """`docker ARGUMENTS`, whatever its status; output and errors are both in `stdout`."""
        done = subprocess.run(
            [_program("docker", self.programs), *map(str, arguments)],
            env=self.environment,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
        )
        output = done.stdout.decode(errors="replace")
        return subprocess.CompletedProcess(done.args, done.returncode, output, "")


@contextmanager
def dockerd(
    work: Path,
    registry: Registry,
    *,
    name: str = "docker",
    containerd: bool = True,
    programs: Mapping[str, str] | None = None,
    bridged: bool = False,
    cgroup: Path | None = None,
) -> Iterator[Docker]:
    """An engine with the containerd image store, or with Docker's own, without bridge: build with
    network none or host. One that is `bridged` has a bridge, in a network namespace of its own, and
    there `registry` alone, at its usual address. Engine and steps are in the control group
    `cgroup`, a directory of a hierarchy, if it is given.

    What a Dockerfile names without a registry (`FROM alpine`) comes from `registry`. Needs root.
    """
    programs = programs or {}
    program = _program("dockerd", programs)
    can_run_arm64()  # BuildKit lists the platforms it can run when it starts
    base = work / name
    base.mkdir()
    configuration = base / "daemon.json"
    settings: dict[str, object] = {
        "features": {"containerd-snapshotter": containerd},
        "insecure-registries": ["127.0.0.0/8"],
        "registry-mirrors": [registry.url],
    }
    command_prefix: tuple[str, ...] = _IN_NAMESPACE if bridged else ()
    if cgroup is not None:
        settings["cgroup-parent"] = f"/{cgroup.name}/steps"
        command_prefix = (*_IN_CGROUP, str(cgroup / "engine/cgroup.procs"), *command_prefix)
    configuration.write_text(json.dumps(settings))
    socket, log = base / "socket", work / f"{name}.log"
    docker = Docker(f"unix://{socket}", base / "client", log, programs)
    command: list[str | Path] = [program, "--config-file", configuration, "--host", docker.host]
    command += ["--data-root", base / "data", "--exec-root", base / "run"]
    command += ["--pidfile", base / "pid", "--iptables=false", "--ip6tables=false"]
    command = [*command_prefix, *command, *([] if bridged else ["--bridge=none"])]
    try:
        ready = partial(_answers, docker, socket)
        with (
            running(command, ready=ready, log=log, environment=dict(programs)) as engine,
            registry.beside(engine.pid) if bridged else nullcontext(),
        ):
            yield docker
    finally:
        unmount_below(base)
        shutil.rmtree(base)


def _answers(docker: Docker, socket: Path) -> bool:
    return socket.exists() and docker.run("version").returncode == 0


def unmount_below(directory: Path) -> None:
    """Release what a killed engine left mounted, so that the directory can be removed."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", mount], check=False)
