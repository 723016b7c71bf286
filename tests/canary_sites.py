"""Places where two versions of a service run as a GitOps repository says: a reconciler that plays
Argo CD and a gateway, nginx that splits the traffic, and clients that make it.
"""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from peers import web_service
from peers.edges import nginx
from peers.process import free_port, listening, running
from shipline.deliver.gitops import Deployment
from shipline.oci import Reference

_POLL_S = 0.05
_DEPLOYMENT = """\
kind: Deployment
spec: {{template: {{spec: {{containers: [{{image: {image}}}]}}}}}}
"""
_FILES = {
    "stable.yaml": _DEPLOYMENT,
    "canary.yaml": _DEPLOYMENT,
    "route.yaml": """\
kind: HTTPRoute   # of both versions
spec:
  rules:
  - backendRefs:
    - name: app
      weight: 100
    - name: app-canary
      weight: 0
""",
}
_EDGE = """\
upstream app {{ {servers} keepalive 8; }}
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://app;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
    }}
}}
"""


@dataclass(frozen=True)
class Behaviour:
    """Of a version: how long a request takes, and which ones fail."""

    delay_s: float = 0.02
    fail_every: int = 0


@dataclass
class Site:
    """An environment. `ports` are those of both versions, `weights` those of the canary as they
    came, `statuses` counts the answers that clients got.
    """

    name: str
    work: Path
    versions: Mapping[str, Behaviour]
    edge: int = field(default_factory=free_port)
    ports: Mapping[str, int] = field(
        default_factory=lambda: {"app": free_port(), "app-canary": free_port()}
    )
    weights: list[int] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def remote(self) -> Path:
        return self.work / f"{self.name}.git"

    def git(self, *words: str, stdin: str = "") -> str:
        command = ["git", "-C", str(self.remote), *words]
        environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        for who in ("AUTHOR", "COMMITTER"):
            environ |= {f"GIT_{who}_NAME": "n", f"GIT_{who}_EMAIL": "n@example.org"}
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, check=True, env=environ
        )
        return done.stdout

    def create(self, image: Reference) -> None:
        """The repository, with a first deployment."""
        subprocess.run(("git", "init", "-q", "--bare", "-b", "main", self.remote), check=True)
        tree = ""
        for path, text in _FILES.items():
            content = text.format(image=image) if "{image}" in text else text
            blob = self.git("hash-object", "-w", "--stdin", stdin=content).strip()
            tree += f"100644 blob {blob}\t{path}\n"
        made = self.git("mktree", stdin=tree).strip()
        message = Deployment(self.name, "app", (image,)).message
        commit = self.git("commit-tree", made, "-F", "-", stdin=message).strip()
        self.git("update-ref", "refs/heads/main", commit)

    def show(self, path: str) -> str:
        return self.git("show", f"main:{path}")

    def subjects(self) -> list[str]:
        """Those of the commits, oldest first, without the first one."""
        return self.git("log", "--reverse", "--format=%s", "main").splitlines()[1:]

    def until(self, holds: Callable[[], object], timeout_s: float = 60) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, (self.name, self.subjects())
            time.sleep(_POLL_S)


@contextmanager
def running_site(site: Site, *, clients: int) -> Iterator[None]:
    """What the repository says runs until the block ends, and so many clients ask it."""
    over, ready = threading.Event(), threading.Event()
    threads = [threading.Thread(target=_reconcile, args=(site, over, ready))]
    threads += [threading.Thread(target=_ask, args=(site, over, ready)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _reconcile(site: Site, over: threading.Event, ready: threading.Event) -> None:
    """Argo CD and a gateway: versions and weights become those of the tip."""
    work = site.work / site.name
    work.mkdir()
    last, services = "", dict[str, tuple[str, ExitStack]]()
    with ExitStack() as stack:
        while not over.wait(_POLL_S):
            tip = site.git("rev-parse", "main")
            if tip == last:
                continue
            last = tip
            for name, file in (("app", "stable.yaml"), ("app-canary", "canary.yaml")):
                (digest,) = re.findall("@(sha256:[0-9a-f]+)", site.show(file))
                if services.get(name, ("",))[0] != digest:
                    if name in services:
                        services[name][1].close()
                    own = stack.enter_context(ExitStack())
                    own.enter_context(_service(site, name, site.versions[digest]))
                    services[name] = (digest, own)
            stable, canary = map(int, re.findall(r"weight: ([0-9]+)", site.show("route.yaml")))
            site.weights.append(canary)
            text = _edge(site, {"app": stable, "app-canary": canary})
            if not ready.is_set():
                stack.enter_context(nginx(work, text))
            (work / "edge.conf").write_text(text)
            os.kill(int((work / "nginx.pid").read_text()), signal.SIGHUP)
            ready.set()


def _edge(site: Site, weights: Mapping[str, int]) -> str:
    servers = (
        f"server 127.0.0.1:{site.ports[name]} weight={weight} max_fails=0;"
        for name, weight in weights.items()
        if weight
    )
    return _EDGE.format(servers=" ".join(servers), port=site.edge)


@contextmanager
def _service(site: Site, name: str, behaviour: Behaviour) -> Iterator[None]:
    port = site.ports[name]
    words = (port, behaviour.delay_s, behaviour.fail_every)
    command = [sys.executable, web_service.__file__, *map(str, words)]
    log = site.work / f"{site.name}-{name}.log"
    with running(command, ready=partial(listening, port), log=log):
        yield


def _ask(site: Site, over: threading.Event, ready: threading.Event) -> None:
    """A client, one request after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", site.edge, timeout=20)
    while not over.is_set():
        if not ready.wait(_POLL_S):
            continue
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            response.read()
            site.statuses[response.status] += 1
        except (OSError, http.client.HTTPException):
            connection.close()
            site.statuses[0] += 1
            time.sleep(_POLL_S)
    connection.close()
