"""Which engine an image is loaded into: what the environment names, else what listens here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipline.engines.docker import Address, Docker, PodmanCommand, check_address
from shipline.engines.engine import Engine, EngineError
from shipline.home import docker_directory

if TYPE_CHECKING:
    from shipline.engines.containerd import Containerd

_DOCKER = Path("/var/run/docker.sock")
_PODMAN = Path("/run/podman/podman.sock")
_CONTAINERD = Path("/run/containerd/containerd.sock")


def find_engine(environment: Mapping[str, str], context: str = "") -> Engine:
    """The engine that DOCKER_HOST, DOCKER_CONTEXT or docker's configuration name, CONTAINER_HOST
    (Podman's) or CONTAINERD_ADDRESS; else the first that is here: Docker, Podman, containerd.
    `context` names one of docker's contexts.

    Raises EngineError where none is, and where the one that is named does not answer.
    """
    if named := _docker_address(environment, context):
        return Docker(named)
    if url := environment.get("CONTAINER_HOST"):
        return Docker(Address(url))
    if environment.get("CONTAINERD_ADDRESS"):
        return open_containerd(environment)
    for path, open_ in _places(environment):
        if path.exists():
            return open_(path)
    if shutil.which("podman", path=environment.get("PATH")):
        from shipline.sandbox import in_user_namespace  # slow to import

        if in_user_namespace():  # where the command would take this user for root
            raise EngineError(
                "podman is here, but its service does not run",
                "start it (`systemctl --user start podman.socket`)",
                code="engine-missing",
            )
        return PodmanCommand()
    raise EngineError(
        "no container engine was found: no socket of Docker, Podman or containerd, and no podman"
        " command",
        "start the engine (`systemctl start docker` as root, `systemctl --user start"
        " podman.socket`), or set DOCKER_HOST, CONTAINER_HOST or CONTAINERD_ADDRESS",
        code="engine-missing",
    )


def docker_address(environment: Mapping[str, str], context: str = "") -> Address:
    """Where docker's command would connect to, with `context` of its contexts, by default this
    machine. Raises EngineError for a context that does not exist.
    """
    return _docker_address(environment, context) or Address(f"unix://{_DOCKER}")


def has_docker(environment: Mapping[str, str]) -> bool:
    """Whether docker's command has an engine to connect to: one that is named, or the default
    socket. Raises EngineError for a context that does not exist.
    """
    return _docker_address(environment, "") is not None or _DOCKER.exists()


def docker_endpoint(environment: Mapping[str, str], given: str = "") -> str:
    """The engine that docker's command would use, or the `given` one, as buildx records it: the
    name of a context, or an address. Raises EngineError for a context that does not exist.
    """
    if "://" in given:
        check_address(given)
        return given
    if given in ("", "default"):
        if not given and not environment.get("DOCKER_HOST"):
            place = docker_directory(environment)
            given = environment.get("DOCKER_CONTEXT") or _current_context(place)
        if given in ("", "default"):
            return docker_address({**environment, "DOCKER_CONTEXT": "default"}).url
    docker_address(environment, given)
    return given


def docker_contexts(environment: Mapping[str, str]) -> list[str]:
    """The names of docker's contexts, besides the default."""
    found = []
    for path in (docker_directory(environment) / "contexts/meta").glob("*/meta.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            found.append(str(json.loads(path.read_bytes())["Name"]))
    return sorted(found)


def _places(environment: Mapping[str, str]) -> Iterator[tuple[Path, Callable[[Path], Engine]]]:
    def http(path: Path) -> Engine:
        return Docker(Address(f"unix://{path}"))

    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        yield Path(runtime, "docker.sock"), http
    yield _DOCKER, http
    if runtime:
        yield Path(runtime, "podman/podman.sock"), http
    yield _PODMAN, http
    yield _CONTAINERD, lambda path: open_containerd(environment)


def containerd_address(environment: Mapping[str, str]) -> Path:
    """The socket of containerd: CONTAINERD_ADDRESS, or where it is by default."""
    return Path(environment.get("CONTAINERD_ADDRESS", "").removeprefix("unix://") or _CONTAINERD)


def open_containerd(environment: Mapping[str, str]) -> Containerd:
    """containerd, in the namespace CONTAINERD_NAMESPACE (`default`). Raises EngineError."""
    from shipline.engines.containerd import Containerd  # slow to import

    return Containerd(
        containerd_address(environment),
        environment.get("CONTAINERD_NAMESPACE") or "default",
        environment.get("CONTAINERD_SNAPSHOTTER") or "overlayfs",
    )


def _docker_address(environment: Mapping[str, str], context: str) -> Address | None:
    """Where docker's command would connect to; None where nothing says (docker/cli,
    cli/command/cli.go, resolveContextName).
    """
    place = docker_directory(environment)
    if not context:
        if host := environment.get("DOCKER_HOST"):
            certificates = Path(environment.get("DOCKER_CERT_PATH") or place)
            verify = bool(environment.get("DOCKER_TLS_VERIFY"))
            secure = verify or environment.get("DOCKER_TLS")
            return Address(host, certificates if secure else None, verify)
        context = environment.get("DOCKER_CONTEXT") or _current_context(place)
    return None if context in ("", "default") else _context_address(place, context)


def _current_context(place: Path) -> str:
    try:
        found = json.loads((place / "config.json").read_bytes()).get("currentContext")
    except (OSError, ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) else ""


def _context_address(place: Path, name: str) -> Address:
    directory = hashlib.sha256(name.encode()).hexdigest()
    try:
        raw = (place / "contexts/meta" / directory / "meta.json").read_bytes()
        endpoint: dict[str, Any] = json.loads(raw)["Endpoints"]["docker"]
        url = str(endpoint["Host"])
    except FileNotFoundError:
        raise EngineError(
            f"docker has no context {name!r}",
            "choose one that `docker context ls` lists: DOCKER_CONTEXT and docker's configuration"
            " name it",
            code="engine-context",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"docker's context {name!r} cannot be read: {error!r}",
            "choose one that `docker context ls` lists",
            code="engine-context",
        ) from error
    certificates = place / "contexts/tls" / directory / "docker"
    return Address(
        url, certificates if certificates.is_dir() else None, not endpoint.get("SkipTLSVerify")
    )
