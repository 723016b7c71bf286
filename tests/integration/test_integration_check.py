"""`shipline deploy --wait` and `shipline check`, of services that follow a GitOps repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nodes import Node, node
from peers.argocd import application, argocd
from peers.kubernetes import kubernetes_api
from peers.process import free_port, listening, running
from shipline.kubernetes import Cluster, load_access
from ships import Project, new_project

CONFIGURATION = """\
image: {image}/check/app
build: {platforms: [linux/amd64]}
environments:
  page:
    gitops: {repository: ../deploy.git, updates: [{kustomization: envs/page}]}
    health:
      url: {address: "http://127.0.0.1:PORT/version", contains: "{digest}"}
      timeout: 60s
    checks:
      smoke:
        run: |
          test "$TOKEN" = t0ken-of-smoke && echo "with $TOKEN"
          grep -q "$SHIPLINE_DIGEST" ../served/version && test ! -e broken
        pass-env: [TOKEN]
      dast:
        run: ./scan "$SHIPLINE_URL"
        report: zap.json
  argo:
    gitops: {repository: ../deploy.git, updates: [{kustomization: envs/argo}]}
    health:
      argocd: {server: "${ARGOCD_SERVER:-http://127.0.0.1:1}", application: app}
      timeout: 61s
      grace: 1s
  cluster:
    gitops: {repository: ../deploy.git, updates: [{kustomization: envs/cluster}]}
    health:
      kubernetes: {deployment: app}
      timeout: 60s
      grace: 1s
"""
SCAN = """\
#!/bin/sh
cat > zap.json <<END
{"@programName": "ZAP", "@version": "2.17.0", "site": [{"@name": "$1", "alerts": []}]}
END
"""
KUSTOMIZATION = "images:\n  - name: {image}\n    newTag: none\n"


@dataclass(frozen=True)
class Setting:
    """A project whose image is published, a GitOps repository, and the files of a service."""

    project: Project
    remote: Path
    served: Path
    image: str

    def git(self, *words: str) -> str:
        git = ("git", "-C", str(self.remote), *words)
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout

    def wanted(self, environment: str) -> str:
        """The digest that git has for an environment."""
        text = self.git("show", f"main:envs/{environment}/kustomization.yaml")
        found = re.search(r"sha256:[0-9a-f]{64}", text)
        return found[0] if found else ""

    def verdicts(self, environment: str) -> list[str]:
        """The recorded verdicts, newest first."""
        line = f"--grep=^Shipline-Environment: {environment}$"
        messages = self.git("log", line, "--format=%B", "main")
        return re.findall("^Shipline-Verdict: (.*)$", messages, re.MULTILINE)

    @contextmanager
    def followed(self, environment: str, apply: Callable[[str], object]) -> Iterator[None]:
        """What Argo CD or Flux do: a digest that is new in git is applied, half a second later."""
        ended, last = threading.Event(), self.wanted(environment)

        def follow() -> None:
            nonlocal last
            while not ended.wait(0.1):
                if (digest := self.wanted(environment)) and digest != last:
                    ended.wait(0.5)
                    apply(digest)
                    last = digest

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("check") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, registry: Node) -> Iterator[Setting]:
    place = tmp_path_factory.mktemp("checked")
    port = free_port()
    project = new_project(place, registry, CONFIGURATION.replace("PORT", str(port)))
    project.write("scan", SCAN)
    (project.root / "scan").chmod(0o755)
    project.git("add", "scan")
    project.git("commit", "-q", "-m", "feat: scan")
    project.git("push", "-q", "origin", "HEAD")
    project.ship("--until", "publish").ok()
    remote, served = place / "deploy.git", place / "served"
    subprocess.run(("git", "init", "--quiet", "--bare", "-b", "main", str(remote)), check=True)
    image = f"{project.image}/check/app"
    clone = place / "others"
    subprocess.run(("git", "clone", "-q", str(remote), str(clone)), check=True)
    for name in ("page", "argo", "cluster"):
        (clone / "envs" / name).mkdir(parents=True)
        text = KUSTOMIZATION.replace("{image}", image)
        (clone / "envs" / name / "kustomization.yaml").write_text(text)
    git = ("git", "-C", str(clone))
    for words in (("checkout", "-q", "-B", "main"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        subprocess.run((*git, *words), check=True, env=project.environ())
    subprocess.run((*git, "push", "-q", "origin", "main"), check=True)
    served.mkdir()
    (served / "version").write_text("an old one\n")
    command = (sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", served, str(port))
    with running(command, ready=lambda: listening(port), log=place / "service.log"):
        yield Setting(project, remote, served, image)


def test_a_deployment_is_waited_for_checked_and_recorded(setting: Setting) -> None:
    def apply(digest: str) -> None:
        (setting.served / "version").write_text(f"app of {digest}\n")

    project = setting.project
    with setting.followed("page", apply):
        done = project.run("deploy", "--env", "page", "--wait", TOKEN="t0ken-of-smoke").ok()
    deployed, verified = setting.git("log", "-2", "--format=%H", "main").split()[::-1]
    assert done.out.strip() == deployed != verified
    assert all(f"{name}: pass" in done.err for name in ("health", "smoke", "dast"))
    assert "with ***" in done.err and "t0ken-of-smoke" not in done.err
    assert setting.verdicts("page") == ["pass"]
    again = project.run("check", "--env", "page", "--json", TOKEN="t0ken-of-smoke").ok()
    found = json.loads(again.out)
    assert found["verdict"] == "pass" and found["record"]
    assert [one["name"] for one in found["results"]] == ["health", "smoke", "dast"]


def test_what_fails_is_said_with_its_output_and_recorded(setting: Setting) -> None:
    project = setting.project
    digest = setting.wanted("page") or (project.run("deploy", "--env", "page").ok() and "")
    (setting.served / "version").write_text(digest or setting.wanted("page"))
    (project.root / "broken").touch()
    try:
        failed = project.run("check", "--env", "page", TOKEN="t0ken-of-smoke")
    finally:
        (project.root / "broken").unlink()
    assert failed.status == 17 and "smoke: it ended with 1" in failed.err
    assert "its output is in" in failed.err
    assert setting.verdicts("page")[0] == "fail"


def test_argo_cd_is_followed_until_it_runs_the_digest(setting: Setting) -> None:
    with argocd("argo-token") as server:
        other = f"{setting.image}:old@sha256:{'0' * 64}"
        server.applications["app"] = application("app", revision="0", images=[other])

        def apply(digest: str) -> None:
            revision = setting.git("rev-parse", "main").strip()
            states: list[dict[str, Any]] = [{"phase": "Running"}, {"health": "Progressing"}, {}]
            for state in states:
                image = f"{setting.image}:v0.1.0@{digest}"
                found = application("app", revision=revision, images=[image], **state)
                server.applications["app"] = found

        facts = {"ARGOCD_SERVER": server.url, "ARGOCD_TOKEN": "argo-token"}
        with setting.followed("argo", apply):
            setting.project.run("deploy", "--env", "argo", "--wait", **facts).ok()
        assert "refresh=normal" in server.calls[0] and "refresh" not in server.calls[-1]
        assert setting.verdicts("argo") == ["pass"]
        (resource,) = server.applications["app"]["status"]["resources"]
        resource["health"] = {"status": "Degraded", "message": "Back-off restarting"}
        server.applications["app"]["status"]["health"]["status"] = "Degraded"
        failed = setting.project.run("check", "--env", "argo", **facts)
        assert failed.status == 17 and "Deployment/app is Degraded: Back-off" in failed.err
        assert "argocd app get app" in failed.err
        assert setting.verdicts("argo") == ["fail", "pass"]
        refused = setting.project.run("check", "--env", "argo", **{**facts, "ARGOCD_TOKEN": "x"})
        assert refused.status == 7 and "ARGOCD_TOKEN" in refused.err
    file = setting.project.root / "shipline.yaml"
    text = file.read_text()
    file.write_text(text.replace("timeout: 61s", "timeout: 1s"))
    lost = setting.project.run("check", "--env", "argo", **facts)
    file.write_text(text)
    assert lost.status == 11 and "connection refused" in lost.err
    assert setting.verdicts("argo") == ["error", "fail", "pass"]


def test_kubernetes_is_followed_until_only_the_digest_runs(
    setting: Setting, tmp_path: Path
) -> None:
    labels = {"app": "app"}

    def deployment(image: str) -> dict[str, object]:
        pod = {"containers": [{"name": "app", "image": image}]}
        template = {"metadata": {"labels": labels}, "spec": pod}
        spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
        head = {"apiVersion": "apps/v1", "kind": "Deployment"}
        return {**head, "metadata": {"name": "app"}, "spec": spec}

    old = f"{setting.image}:old@sha256:{'0' * 64}"
    with kubernetes_api(tokens={"t"}, images={old}, ready_after_s=0.3) as api:
        config = api.kubeconfig(tmp_path / "kubeconfig", {"token": "t"})
        environ = {"KUBECONFIG": str(config)}
        cluster = Cluster(load_access(environ), environ)
        cluster.create("deployments", deployment(old))

        def apply(digest: str) -> None:
            image = f"{setting.image}:v0.1.0@{digest}"
            api.images.add(image)
            cluster.replace("deployments", deployment(image))

        with setting.followed("cluster", apply):
            done = setting.project.run("deploy", "--env", "cluster", "--wait", **environ).ok()
        assert "old replica" in done.err or "does not run" in done.err
        api.images.clear()
        for pod in api.of("pods"):
            del api.objects["pods", "default", pod["metadata"]["name"]]
        failed = setting.project.run("check", "--env", "cluster", **environ)
        assert failed.status == 17 and "ImagePullBackOff" in failed.err
        assert setting.verdicts("cluster") == ["fail", "pass"]


def test_an_environment_without_a_deployment_is_told_what_to_do(setting: Setting) -> None:
    (setting.project.root / "shipline.yaml").write_text(
        (setting.project.root / "shipline.yaml").read_text().replace("  page:", "  fresh:", 1)
    )
    failed = setting.project.run("check", "--env", "fresh")
    assert failed.status == 8 and "shipline deploy --env fresh" in failed.err
