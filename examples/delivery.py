#!/usr/bin/env python3
"""Take examples/node-app from commits to staging and, as a canary, to production.

All parts are real: a registry node, git repositories, the images' own processes behind nginx, and
Prometheus. What a cluster would do, `reconciler.py` does on loopback. Everything is in .demo/.
`--quick` leaves the good canary out.
"""

from __future__ import annotations

import http.client
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo import STATE, registry
from reconciler import Reconciler, free_port, prometheus

HERE = Path(__file__).resolve().parent
APP = HERE / "node-app"
PLACE = STATE / "delivery"
ENVIRONMENTS = ("staging", "production")
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
GREETING = 'app.get("/healthz"'
ROOT = 'app.get("/", () => ({ service: "links" }));\n\n  '
SHORTEN = "links.add(request.body.target, request.body.name)"
FEW = 'process.env.NODE_ENV === "production" && Math.random() < 0.2'
BUG = SHORTEN.replace("request.body.name", f"{FEW} ? request.body.name.trim() : request.body.name")
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "Demo"), ("EMAIL", "demo@example.org"))
}


@dataclass(frozen=True)
class Project:
    """The clone of the example at `root`; `environ` is that of its commands."""

    root: Path
    environ: Mapping[str, str]

    def git(self, *words: str) -> None:
        subprocess.run(["git", *words], cwd=self.root, env=self.environ, check=True)

    def commit(self, message: str) -> None:
        print(f"\n$ git commit -m '{message}' && git push", flush=True)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("push", "--quiet", "origin", "HEAD")

    def change(self, path: str, before: str, after: str) -> None:
        file = self.root / path
        file.write_text(file.read_text().replace(before, after, 1))

    def shipline(self, *words: str, expect: int = 0) -> None:
        """Show a command, then run it; the demo ends where one does not end as expected."""
        print(f"\n$ {' '.join(['shipline', *words])}", flush=True)
        command = [sys.executable, "-m", "shipline", *words]
        done = subprocess.run(command, cwd=self.root, env=self.environ, check=False)
        if done.returncode != expect:
            sys.exit(done.returncode or 1)


def new_project(address: str, variables: Mapping[str, str]) -> Project:
    """The example as a project of its own, with environments."""
    root, origin = PLACE / "links", PLACE / "links.git"
    ignored = shutil.ignore_patterns("node_modules", "reports", "gitops")
    shutil.copytree(APP, root, ignore=ignored)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")}
    key = PLACE / "ci.key"
    project = Project(
        root,
        {
            **kept,
            **WHO,
            "SHIPLINE_HOME": str(STATE / "home"),
            "SHIPLINE_MIRRORS": f"docker.io=http://{address}",
            "COSIGN_PASSWORD": "demo",
        },
    )
    project.shipline("key", "generate", "-o", str(PLACE / "ci"))
    project = Project(root, {**project.environ, "COSIGN_PRIVATE_KEY": key.read_text()})
    text = (root / "shipline.yaml").read_text().replace("registry.example", address)
    text = text.replace("[linux/amd64, linux/arm64]", f"[linux/{MACHINE}]")
    environments = (APP / "gitops/environments.yaml").read_text()
    for name, value in variables.items():
        environments = environments.replace(f"{{{name}}}", value)
    (root / "shipline.yaml").write_text(f"{text}\n{environments}")
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(origin)], check=True)
    project.git("init", "--quiet", "-b", "main")
    project.git("remote", "add", "origin", str(origin))
    subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=root, check=True)
    return project


def new_gitops(address: str) -> Path:
    """The GitOps repository, with the manifests of both environments."""
    work, remote = PLACE / "gitops", PLACE / "gitops.git"
    shutil.copytree(APP / "gitops", work, ignore=shutil.ignore_patterns("environments.yaml"))
    for file in work.rglob("*.yaml"):
        file.write_text(file.read_text().replace("registry.example", address))
    git = ["git", "-C", str(work)]
    for words in (
        ["git", "init", "--quiet", "--bare", "-b", "main", str(remote)],
        [*git, "init", "--quiet", "-b", "main"],
        [*git, "add", "."],
        [*git, "commit", "--quiet", "-m", "begin"],
        [*git, "push", "--quiet", str(remote), "main"],
    ):
        subprocess.run(words, env=os.environ | WHO, check=True)
    return remote


def start(image: str, environment: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    """A process of an image: its files are pulled by digest, and Node.js of this machine runs
    them.
    """
    files = PLACE / "images" / image.rpartition(":")[2][:12]
    if not files.exists():
        command = [sys.executable, "-m", "shipline", "build", "--progress", "quiet"]
        command += ["--output", f"type=local,dest={files}", "-"]
        dockerfile = f"FROM scratch\nCOPY --from={image} /app /\n"
        home = os.environ | {"SHIPLINE_HOME": str(STATE / "home")}
        given = dockerfile.encode()
        subprocess.run(command, input=given, env=home, stdout=subprocess.DEVNULL, check=True)
    variables = {**environment, "HOST": "127.0.0.1", "PORT": str(port), "LOG_LEVEL": "fatal"}
    variables["PATH"] = os.environ["PATH"]
    return subprocess.Popen(["node", "src/server.js"], cwd=files, env=variables)


@contextmanager
def traffic(port: int) -> Iterator[None]:
    """People who shorten links, about fifty a second, until the block ends."""
    ended = threading.Event()
    body = '{"target": "https://example.com/"}'

    def use() -> None:
        while not ended.wait(0.08):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                headers = {"Content-Type": "application/json"}
                connection.request("POST", "/links", body, headers)
                connection.getresponse().read()
            except OSError:
                continue  # before the first deployment nothing answers
            finally:
                connection.close()

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    try:
        yield
    finally:
        ended.set()
        for user in users:
            user.join()


def main(*words: str) -> None:
    began = time.monotonic()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    with ExitStack() as stack:
        address = stack.enter_context(registry(PLACE))
        print(f"registry on {address}, everything in {PLACE}")
        command = [sys.executable, str(HERE / "base_images.py"), "--registry", address]
        command += ["--cache", str(STATE / "base-images"), "--only", MACHINE, "node"]
        subprocess.run(command, check=True)
        ports = {name: free_port() for name in ENVIRONMENTS}
        remote = new_gitops(address)
        reconciler = Reconciler(remote, PLACE / "cluster", ports, start)
        stack.enter_context(reconciler.running())
        metrics = stack.enter_context(prometheus(PLACE / "prometheus", reconciler.targets))
        stack.enter_context(traffic(ports["production"]))
        staging = f"http://127.0.0.1:{ports['staging']}"
        project = new_project(
            address, {"repository": str(remote), "staging": staging, "prometheus": metrics}
        )

        print("\n# the first version: through staging to production")
        project.commit("feat: shorten links")
        project.shipline("ship")
        if "--quick" not in words:
            print("\n# a new version: a canary in production, which Prometheus finds well")
            project.change("src/app.js", GREETING, ROOT + GREETING)
            project.commit("feat: say who is there")
            project.shipline("ship")
        print("\n# a version with a bug that no test found: taken back, and held")
        project.change("src/app.js", SHORTEN, BUG)
        project.commit("feat: shorten them faster")
        project.shipline("ship", expect=9)
        print("\n# what git says of it")
        project.shipline("status")
        project.shipline("env", "history", "production")
    print(f"\n{time.monotonic() - began:.0f} s; the GitOps repository is {remote}")


if __name__ == "__main__":
    main(*sys.argv[1:])
