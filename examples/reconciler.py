"""What follows a GitOps repository where there is no cluster: it plays Argo CD and the kubelet.

Each directory of the repository is an environment. A Deployment in it is a process of its image,
behind nginx on the environment's port; an HTTPRoute gives weights to several. Prometheus finds the
processes in `targets.json`. Commits are applied as they come, one after the other.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

_INTERVAL_S = 0.2
_WAIT_S = 30.0
_NGINX = """\
daemon off;
pid {place}/nginx.pid;
error_log {place}/nginx.log warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
{servers}}}
"""
_SERVER = """\
  split_clients "$request_id" ${name} {{
{shares}  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://${name}; proxy_http_version 1.1; }}
  }}
"""

Start = Callable[[str, Mapping[str, str], int], subprocess.Popen[bytes]]
"""Starts an image with these variables, so that it listens on a port of 127.0.0.1."""


@dataclass(eq=False)
class Pod:
    """A process of an image, with the variables that it has."""

    image: str
    environment: Mapping[str, str]
    port: int
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@dataclass
class Reconciler:
    """The environments of the repository at `remote`, each with the port of its service. Its files
    are in `place`.
    """

    remote: Path
    place: Path
    ports: Mapping[str, int]
    start: Start
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    commit: str = ""
    failure: str = ""

    @property
    def targets(self) -> Path:
        """The file by which Prometheus finds the pods (file_sd)."""
        return self.place / "targets.json"

    @contextmanager
    def running(self) -> Iterator[None]:
        """nginx and the loop, until the block ends."""
        self.place.mkdir(parents=True, exist_ok=True)
        self._route({})
        nginx = ["nginx", "-c", str(self.place / "nginx.conf"), "-e", str(self.place / "nginx.log")]
        ended = threading.Event()
        loop = threading.Thread(target=self._follow, args=(ended,), name="reconciler")
        with subprocess.Popen(nginx) as proxy:
            loop.start()
            try:
                yield
            finally:
                ended.set()
                loop.join()
                proxy.terminate()
                for pod in self.pods.values():
                    pod.stop()

    def _follow(self, ended: threading.Event) -> None:
        while not ended.wait(_INTERVAL_S):
            tip = self._git("rev-parse", "HEAD")
            if tip == self.commit:
                continue
            try:
                self._apply(tip)
                self.failure = ""
            except (OSError, subprocess.SubprocessError, KeyError) as error:
                self.failure = f"{tip[:12]}: {error}"  # tried again, as Argo CD does
                continue
            self.commit = tip

    def _git(self, *words: str) -> str:
        git = ["git", "-C", str(self.remote), *words]
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()

    def _apply(self, tip: str) -> None:
        objects = {name: list(self._objects(tip, name)) for name in self.ports}
        wanted = {
            (environment, one["metadata"]["name"]): one["spec"]
            for environment, several in objects.items()
            for one in several
            if one["kind"] == "Deployment" and one["spec"].get("replicas", 1) and _image(one)
        }
        before, found = self.pods, dict[tuple[str, str], Pod]()
        try:
            for key, spec in wanted.items():
                found[key] = self._pod(before.get(key), spec["template"]["spec"]["containers"][0])
            self.pods = found
            self._route(objects)
        finally:
            for pod in (*before.values(), *found.values()):
                if pod not in self.pods.values():
                    pod.stop()

    def _objects(self, tip: str, environment: str) -> Iterator[dict[str, Any]]:
        paths = self._git("ls-tree", "-r", "--name-only", tip, f"{environment}/").splitlines()
        for path in paths:
            yield from YAML(typ="safe").load_all(self._git("show", f"{tip}:{path}"))

    def _pod(self, present: Pod | None, container: Mapping[str, Any]) -> Pod:
        """The process of a container, once it listens; the present one if it is the same."""
        image = container["image"]
        environment = {one["name"]: str(one["value"]) for one in container.get("env", ())}
        if present and (present.image, present.environment) == (image, environment):
            return present
        port = free_port()
        process = self.start(image, environment, port)
        try:
            await_port(port, process)
        except OSError:
            process.terminate()
            raise
        return Pod(image, environment, port, process)

    def _route(self, objects: Mapping[str, list[dict[str, Any]]]) -> None:
        servers = [
            _SERVER.format(name=f"in_{name}", port=port, shares=self._shares(name, objects[name]))
            for name, port in self.ports.items()
            if any(environment == name for environment, _ in self.pods)
        ]
        text = _NGINX.format(place=self.place, servers="".join(servers))
        (self.place / "nginx.conf").write_text(text)
        if (pid := self.place / "nginx.pid").exists():
            subprocess.run(["kill", "-HUP", pid.read_text().strip()], check=True)
        self._write_targets()

    def _shares(self, environment: str, objects: list[dict[str, Any]]) -> str:
        """Lines of split_clients: the weights of the route, else all to the one Deployment."""
        ports = {name: pod.port for (there, name), pod in self.pods.items() if there == environment}
        routes = [one for one in objects if one["kind"] == "HTTPRoute"]
        backends = routes[0]["spec"]["rules"][0]["backendRefs"] if routes else []
        weights = {one["name"]: one.get("weight", 1) for one in backends}
        weights = {name: weight for name, weight in weights.items() if weight and name in ports}
        if not weights:
            weights = {next(iter(ports)): 1}
        *some, (last, _) = weights.items()
        total = sum(weights.values())
        lines = [
            f"    {100 * weight / total:.2f}% 127.0.0.1:{ports[name]};" for name, weight in some
        ]
        return "\n".join([*lines, f"    * 127.0.0.1:{ports[last]};", ""])

    def _write_targets(self) -> None:
        found = [
            {
                "targets": [f"127.0.0.1:{pod.port}"],
                "labels": {
                    "environment": environment,
                    "deployment": name,
                    "version": pod.image.partition("@")[0].rpartition(":")[2],
                },
            }
            for (environment, name), pod in self.pods.items()
        ]
        part = self.targets.with_suffix(".part")
        part.write_text(json.dumps(found))
        os.replace(part, self.targets)


def _image(deployment: Mapping[str, Any]) -> str:
    """The image with its digest; empty before the first deployment."""
    image = str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])
    return image if "@" in image else ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process listens. Raises OSError if it ends, or does not."""
    ended = threading.Event()
    for _ in range(int(_WAIT_S / 0.05)):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            ended.wait(0.05)
    raise OSError(f"nothing listens on port {port}")


@contextmanager
def prometheus(place: Path, targets: Path) -> Iterator[str]:
    """Prometheus, which scrapes the pods each second; gives its URL."""
    place.mkdir(parents=True, exist_ok=True)
    port = free_port()
    pods = {"job_name": "pods", "file_sd_configs": [{"files": [str(targets)]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [pods]}
    (place / "prometheus.json").write_text(json.dumps(config))
    command = ["prometheus", f"--config.file={place / 'prometheus.json'}", "--log.level=warn"]
    command += [f"--storage.tsdb.path={place / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (place / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            await_port(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
